"""Which planted failures are named by a code of their own, and which sound runs raise a false alarm: a confusion table.

    python benchmarks/failures.py --state STATE.json [--replicates 2] [--only WORD ...] [--again WORD ...]
        [--out benchmarks/results/failures.md]

The plantings are in `tests/support/gallery.py`, the sound runs in `tests/support/healthy_runs.py`. What was found is kept in the
state file after each run, so that the same command goes on where it was; `--again` looks anew at what has a word in its name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

# Programs that compile fast and run a little slower: there are many of them, and each runs for seconds. A jaxlib that does not
# know one of these options ends at once; XLA_FLAGS="" runs without them.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

from environment import commit, describe
from stitchrl.auditing.finding import Finding

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import gallery
import healthy_runs

State = dict[str, dict[str, Any]]

LOOKED_AT = 2
"""Logs of each row that rules and settings were mended after."""


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="what was found so far")
    parser.add_argument("--replicates", type=int, default=2, help="logs of each planting and each sound run")
    parser.add_argument("--only", nargs="*", default=[], help="words in the names of what is looked at now")
    parser.add_argument("--again", nargs="*", default=[], help="words in the names of what is looked at anew")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    state: State = json.loads(given.state.read_text()) if given.state.exists() else {}
    runs = {f"planted: {one.name}": one for one in gallery.PLANTINGS}
    runs |= {f"sound: {name}": one for name, one in healthy_runs.HEALTHY.items()}
    stale = [key for key in state if key.rsplit(" #", 1)[0] not in runs or any(word in key for word in given.again)]
    for key in stale:
        del state[key]
    for name, one in runs.items():
        if given.only and not any(word in name for word in given.only):
            continue
        for seed in range(given.replicates):
            if (key := f"{name} #{seed}") in state:
                continue
            began = time.process_time()
            findings = one.found(seed)
            seconds = time.process_time() - began
            found = [[f.severity, f.code, f.where, f.seen] for f in findings]
            state[key] = {"seconds": seconds, "commit": commit(), "findings": found}
            _write(given.state, json.dumps(state, indent=1))
            print(f"{key} ({seconds:.1f} s): {_codes(state[key])}", flush=True)
    if given.out:
        command = f"python benchmarks/failures.py --state STATE.json --replicates {given.replicates}"
        _write(given.out, "\n".join(page(state, given.replicates)) + "\n\n" + describe(command) + "\n")


def page(state: State, replicates: int) -> list[str]:
    """The results in Markdown."""
    planted = [(one, [state.get(f"planted: {one.name} #{k}") for k in range(replicates)]) for one in gallery.PLANTINGS]
    sound = {name: [state.get(f"sound: {name} #{k}") for k in range(replicates)] for name in healthy_runs.HEALTHY}
    looked = [(one, record) for one, records in planted for record in records if record]
    hits = sum(not one.missed(_findings(record)) for one, record in looked)
    healthy = [record for records in sound.values() for record in records if record]
    alarms = sum(bool(_loud(record)) for record in healthy)
    missing = replicates * (len(planted) + len(sound)) - len(looked) - len(healthy)
    seconds = sum(record["seconds"] for _, record in looked) + sum(record["seconds"] for record in healthy)
    later = [(one, r) for one, records in planted for r in records[LOOKED_AT:] if r]
    later_sound = [r for records in sound.values() for r in records[LOOKED_AT:] if r]
    later_hits = sum(not one.missed(_findings(record)) for one, record in later)
    later_alarms = sum(bool(_loud(record)) for record in later_sound)
    commits = sorted({record["commit"] for record in [*(r for _, r in looked), *healthy]})
    return [
        "# Planted failures and sound runs",
        "",
        f"{len(planted)} failures, each planted in {replicates} logs: {hits} of {len(looked)} named by a code of their own. "
        f"{len(sound)} sound runs of {len({name.split(',')[0] for name in sound})} algorithms, each on {replicates} logs: "
        f"{alarms} of {len(healthy)} raised an error or a warning. {seconds:,.0f} seconds of processor time in all."
        + (f" {missing} of these runs were not made, and are missing below." if missing else ""),
        "",
        'A code counts where it is an error or a warning; notes never count. "Beside it" are other codes, many of them right: a '
        "policy that Q-learning ruins is far from the behaviour as well. "
        f"The runs were made at {', '.join(commits)}. The audit runs without its history checks.",
        "",
        f"This is not a test on unseen failures. Where the first {LOOKED_AT} logs of a row showed a miss or a false alarm, the "
        "rule, the planting, its own codes or the settings of the sound run were changed, whichever was at fault. The other logs "
        f"were drawn when all that was fixed (only the weight of the sound run of CQL was tried on all): of these "
        f"{later_hits} of {len(later)} plantings were named, and {later_alarms} of {len(later_sound)} sound runs raised alarms.",
        "",
        "## Planted failures",
        "",
        *_table(["failure", "what was done", "its own codes", "named", "its own codes raised", "beside it"],
                [_planted_row(one, [r for r in records if r]) for one, records in planted]),
        "",
        "## Sound runs",
        "",
        "The number behind a code is in how many logs it was found.",
        "",
        *_table(
            ["run", "false alarms", "notes"],
            [_sound_row(name, [r for r in records if r]) for name, records in sound.items()],
        ),
        "",
        "## What is known of the misses and false alarms",
        "",
        "Noise on the rewards of a large log is not named, and does no harm there: the exact value of what IQL learns is the "
        "same with it and without. It makes the TD error large from the first update on, but the critics learn the noise, after "
        "which that error is no larger beside their values than without it. In a small log it is learned by heart, and that is "
        "named. DDPG is here as a warning example: about a tenth of its decisions have no support, and that is said.",
        "",
        "## Confusion table",
        "",
        "Rows are plantings, columns the codes that any of them raised, by the number of logs; **own codes are bold**.",
        "",
        *_confusion(planted, healthy),
    ]  # fmt: skip


def _planted_row(one: gallery.Planting, records: list[dict[str, Any]]) -> list[str]:
    counts = Counter(code for record in records for code in _loud(record))
    own = {code: count for code, count in counts.items() if code in one.own}
    beside = {code: count for code, count in counts.items() if code not in one.own}
    hits = sum(not one.missed(_findings(record)) for record in records)
    named = f"{hits} of {len(records)}" if hits == len(records) else f"**{hits} of {len(records)}**"
    return [one.name, one.what, ", ".join(one.own), named, _listed(own), _listed(beside)]


def _sound_row(name: str, records: list[dict[str, Any]]) -> list[str]:
    alarms = Counter(code for record in records for code in _loud(record))
    notes = Counter(code for record in records for code in {f[1] for f in record["findings"] if f[0] == "info"})
    return [name, f"**{_listed(alarms)}**" if alarms else "-", _listed(notes)]


def _confusion(planted: list[Any], healthy: list[dict[str, Any]]) -> list[str]:
    counts = [(one, Counter(c for r in records if r for c in _loud(r))) for one, records in planted]
    codes = list(dict.fromkeys(code for _, counter in counts for code in sorted(counter)))
    rows = [[one.name, *(_cell(counter[code], code in one.own) for code in codes)] for one, counter in counts]
    false = Counter(code for record in healthy for code in _loud(record))
    codes += [code for code in sorted(false) if code not in codes]
    rows = [row + [""] * (len(codes) + 1 - len(row)) for row in rows]
    rows.append([f"all {len(healthy)} sound runs", *(_cell(false[code], False) for code in codes)])
    return _table(["planted", *codes], rows)


def _cell(count: int, own: bool) -> str:
    return "" if not count else f"**{count}**" if own else str(count)


def _findings(record: dict[str, Any]) -> list[Finding]:
    return [Finding(code, severity, where, seen, "", "") for severity, code, where, seen in record["findings"]]


def _loud(record: dict[str, Any]) -> set[str]:
    return gallery.loud(_findings(record))


def _codes(record: dict[str, Any]) -> str:
    return ", ".join(sorted(_loud(record))) or "-"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{code} {count}" for code, count in sorted(counts.items())) or "-"


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def _write(path: Path, text: str) -> None:
    """Written beside and renamed, so that a run that is stopped leaves the last whole file."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


if __name__ == "__main__":
    main()
