"""Speed of the training loop, against the machine's matrix products, d3rlpy, and one jitted call an update.

    python benchmarks/throughput.py [--peer-python ../.bench/bin/python] [--only rates,seeds,...] [--out results/throughput.md]

Every number is of its own process; ours and the peer's take turns, and medians are given with the spread of all. Ours
is `st.fit` on a log of 100,000 random transitions, logging included; the peer's is its update on batches it samples.
Setting: 17 numbers an observation, 6 an action, two hidden layers of 256, batch 256, two critics (ten in SAC-N and EDAC),
and as many candidate actions on both sides.

A section asked for alone replaces only its own part of the results file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from environment import describe

HERE = Path(__file__).parent
UPDATES = {
    "BC": 3000, "BC discrete": 3000, "IQL": 800, "TD3BC": 1000, "CQL": 60, "AWAC": 600, "BCQ": 60, "BEAR": 60,
    "ReBRAC": 1000, "SQL": 800, "XQL": 800, "FQL": 200, "IDQL": 60, "SACN": 120, "EDAC": 60, "TD3": 1000, "SAC": 400,
}  # fmt: skip
"""Timed updates of ours in a process; a fifth of them of the peer's."""
BARS = {"BC": 7, "BC discrete": 7, "IQL": 4.5, "TD3BC": 4.5, "CQL": 1.8, "AWAC": 3.5, "BCQ": 2, "BEAR": 2.5}
"""Least ratio to the peer's rate, where one was set."""
PEERS = ("BC", "BC discrete", "IQL", "TD3BC", "CQL", "AWAC", "BCQ", "BEAR", "ReBRAC")
"""What the peer has too, with as many critics and candidates."""
SAME = {"hidden_sizes": [256, 256]}
SETTINGS: dict[str, dict[str, Any]] = {
    "AWAC": SAME, "ReBRAC": SAME, "SACN": SAME | {"num_critics": 10}, "EDAC": SAME | {"num_critics": 10}, "FQL": SAME,
    "SQL": SAME, "XQL": SAME, "IDQL": SAME, "BEAR": {"warm_start_updates": 0},
}  # fmt: skip
"""What differs from the defaults: the widths of this benchmark, ten critics for ensembles, and no warm start for BEAR."""
OBSERVATION, ACTION, BATCH = 17, 6, 256


# --- one process -----------------------------------------------------------------------------------------------------


def random_log(rows: int, *, discrete: bool = False) -> Any:
    """A log of noise: episodes of 1,000 steps, all cut."""
    import numpy as np

    import stitchrl as st
    from stitchrl.data.dataset import Dataset

    random = np.random.default_rng(0)
    episodes = max(1, rows // 1000)
    rows_of = rows // episodes
    rows = episodes * rows_of
    index = np.arange(rows, dtype=np.int32) + np.repeat(np.arange(episodes, dtype=np.int32), rows_of)
    action: Any = np.tanh(random.normal(size=(rows, ACTION))).astype(np.float32)
    if discrete:
        action = random.integers(0, ACTION, rows).astype(np.int32)
    truncated = np.zeros(rows, bool)
    truncated[rows_of - 1 :: rows_of] = True
    roles = ("episode", "observation", "action", "reward", "terminated", "truncated")
    return Dataset(
        observation_table=random.standard_normal((rows + episodes, OBSERVATION), np.float32),
        observation_index=index,
        next_observation_index=index + 1,
        action=action,
        reward=random.standard_normal(rows, np.float32),
        terminated=np.zeros(rows, bool),
        truncated=truncated,
        step=np.tile(np.arange(rows_of), episodes),
        episode_start=np.arange(episodes + 1) * rows_of,
        episode_id=np.arange(episodes),
        schema=st.Schema({role: role for role in roles}, num_actions=ACTION if discrete else None),
    )


def algorithm_of(name: str, **settings: Any) -> Any:
    import stitchrl as st

    return getattr(st, name.split()[0])(**SETTINGS.get(name, {}) | settings)


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Rate of `st.fit`, all seeds together, and what it held in memory."""
    import stitchrl as st
    from stitchrl.algorithms import cql_continuous
    from stitchrl.training import program

    if job.get("in_turn"):
        program._processors = lambda: 1
    if job.get("whole_batch"):
        cql_continuous.tile_count = lambda rows, evaluations: 1

    log = random_log(job.get("rows", 100_000), discrete="discrete" in job["algorithm"])
    algorithm = algorithm_of(job["algorithm"], **job.get("settings", {}))
    updates, chunks = job["updates"], job.get("chunks", 5)
    seeds, stamps = job.get("seeds", 1), []
    every = max(1, updates // chunks)
    st.fit(
        algorithm, log, updates=every * (chunks + 1), seeds=seeds, batch_size=job.get("batch", BATCH),
        log_every_updates=every, callbacks=[lambda *_: stamps.append(time.perf_counter())], progress=False,
        sampling=job.get("sampling", "uniform"), stream=job.get("stream", False),
    )  # fmt: skip
    rates = [seeds * every / (b - a) for a, b in itertools.pairwise(stamps)]
    return {"rates": rates, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def traced(name: str, **settings: Any) -> tuple[Any, Any, Any, Any]:
    """(algorithm, state of one member, one batch, what `prepare` gave) in the setting of this benchmark."""
    import jax
    import jax.numpy as jnp

    from stitchrl.algorithms.base import Spec
    from stitchrl.data.scaling import Scaling
    from stitchrl.feeds.batches import sample_transitions
    from stitchrl.feeds.feed import transition_source
    from stitchrl.training.program import initial_state

    log = random_log(2000, discrete="discrete" in name)
    algorithm = algorithm_of(name, **settings)
    state = jax.tree.map(lambda leaf: leaf[0], initial_state(algorithm, Spec.of(log), [0])).algorithm
    prepared = algorithm.prepare(log, Scaling.of(log), key=jax.random.key(0))
    source = transition_source(prepared.log, Scaling.of(log), columns=prepared.columns)
    batch = dict(sample_transitions(source.arrays, jnp.arange(BATCH), jnp.int32(0)))
    return algorithm, state, batch, prepared.given


def one_update(algorithm: Any, given: Any) -> Callable[..., Any]:
    """(state, batch, key, number of the update) -> (state, metrics)."""
    import jax.numpy as jnp

    from stitchrl.algorithms.base import Step

    def update(state: Any, batch: Any, key: Any, number: Any) -> Any:
        return algorithm.update(state, batch, given, key, Step(number, jnp.int32(1_000_000)))

    return update


def floor(job: dict[str, Any]) -> dict[str, Any]:
    """Rate of the update's matrix products alone."""
    import jax
    import jax.numpy as jnp

    from floor import floor_rates, products_of
    from stitchrl.nn.precision import products_in

    algorithm, state, batch, given = traced(job["algorithm"])
    with products_in(job["precision"]):
        products = products_of(
            one_update(algorithm, given), state, batch, jax.random.key(0), jnp.int32(1), branch_share=0.5
        )
    return {"rates": floor_rates(products), "megaflop": products.flops / 1e6}


def call_an_update(job: dict[str, Any]) -> dict[str, Any]:
    """The common JAX style: NumPy draws the rows, one jitted call makes the update, metrics stay on the device."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from stitchrl.data.scaling import Scaling
    from stitchrl.nn.precision import products_in

    algorithm, state, batch, given = traced(job["algorithm"])
    log = random_log(100_000, discrete="discrete" in job["algorithm"])
    prepared = algorithm.prepare(log, Scaling.of(log), key=jax.random.key(0))
    columns = {
        "obs": log.observation, "next_obs": log.next_observation, "action": log.action, "reward": log.reward,
        "terminated": log.terminated.astype(np.float32), "td_weight": np.ones(len(log.reward), np.float32),
    }  # fmt: skip
    if log.num_actions is not None:
        mask = np.ones((len(log.reward), ACTION), bool)
        columns |= {"action_mask": mask, "next_action_mask": mask}
    columns |= {name: np.asarray(column) for name, column in prepared.columns.items()}
    columns = {name: column for name, column in columns.items() if name in batch}
    update = jax.jit(one_update(algorithm, given), donate_argnums=0)
    random, key = np.random.default_rng(0), jax.random.key(0)

    def run(start: int, count: int) -> Any:
        nonlocal state, key
        for i in range(start, start + count):
            rows = random.integers(0, len(log.reward), BATCH)
            batch = {name: jnp.asarray(column[rows]) for name, column in columns.items()}
            key, now = jax.random.split(key)
            with products_in(job["precision"]):
                state, _ = update(state, batch, now, jnp.int32(i))
        jax.block_until_ready(state)

    run(0, 3)
    every, rates = max(1, job["updates"] // 5), []
    for k in range(5):
        began = time.perf_counter()
        run(3 + k * every, every)
        rates.append(every / (time.perf_counter() - began))
    return {"rates": rates}


def start_up(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds from the start of the process to the end of the first update of IQL, on a log in memory."""
    began = float(os.environ["STITCHRL_BEGAN"])
    import stitchrl as st

    log = random_log(100_000)
    made = time.time()
    first: list[float] = []
    st.fit(st.IQL(), log, updates=1, callbacks=[lambda *_: first.append(time.time())], progress=False)
    return {"rates": [first[0] - began], "making the log": made - began}


JOBS = {
    "ours": ours,
    "floor": floor,
    "call": call_an_update,
    "start": start_up,
}


# --- the comparison --------------------------------------------------------------------------------------------------


def process(kind: str, job: dict[str, Any], *, peer: str | None = None, **environment: str) -> dict[str, Any]:
    """Run one job in a process of its own."""
    words = [sys.executable, str(Path(__file__).resolve()), "--job", kind]
    if peer is not None:
        words = [peer, str(HERE / "d3rlpy_worker.py")]
        job = {"mode": "rate"} | job
    done = subprocess.run(
        words, input=json.dumps(job), capture_output=True, text=True, check=False, cwd=HERE,
        env=os.environ | {"STITCHRL_BEGAN": str(time.time())} | environment,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def middle(rates: list[float]) -> float:
    return statistics.median(rates)


def shown(rates: list[float]) -> str:
    """Median and range."""
    digits = 0 if middle(rates) >= 100 else 1
    return f"{middle(rates):,.{digits}f} ({min(rates):,.{digits}f} to {max(rates):,.{digits}f})"


PRECISIONS = ("float32", "bfloat16")


def rates(peer: str, rounds: int, names: list[str], kept: dict[str, Any]) -> str:
    """A table a precision; algorithms not asked for are as they were."""
    for name in names:
        updates = UPDATES[name]
        timed = max(10, updates // 5)
        theirs = {"algorithm": name, "warmup": max(3, timed // 10), "timed": max(5, timed // 3), "repeats": 3}
        kinds: dict[str, Any] = {}
        if name in PEERS:
            kinds["peer"] = lambda theirs=theirs: process("peer", theirs, peer=peer)
        for chosen in PRECISIONS:
            job = {"algorithm": name, "updates": updates, "precision": chosen}
            own = {"algorithm": name, "updates": updates, "settings": {"precision": chosen}}
            kinds[f"ours {chosen}"] = lambda own=own: process("ours", own)
            kinds[f"floor {chosen}"] = lambda job=job: process("floor", job)
            kinds[f"call {chosen}"] = lambda job=job: process("call", job)
        found, last = in_turns(name, rounds, **kinds)
        kept[name] = found | {"megaflop": last["floor float32"]["megaflop"]}
    lines = [
        "Updates a second, median (range of all samples). Floor: the update's own matrix products and nothing else."
    ]
    if set(names) != set(kept):
        lines.append(f"\nOf the commit named below: {', '.join(names)}; the other rows are of an earlier one.")
    for chosen in PRECISIONS:
        lines += [
            f'\n### `precision="{chosen}"`\n',
            "| algorithm | MFLOP | stitchrl | floor | share of floor (70%) | d3rlpy (float32) | ratio | bar "
            "| one call an update | ratio (1.3) |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for name, found in ((name, kept[name]) for name in UPDATES if name in kept):
            own, floor, call = (found[f"{kind} {chosen}"] for kind in ("ours", "floor", "call"))
            beside = ("-", "-")
            if "peer" in found:
                beside = shown(found["peer"]), f"{middle(own) / middle(found['peer']):.2f}"
            lines.append(
                f"| {name} | {found['megaflop']:,.0f} | {shown(own)} | {shown(floor)} | {middle(own) / middle(floor):.0%} "
                f"| {beside[0]} | {beside[1]} | {BARS.get(name, '-')} | {shown(call)} | {middle(own) / middle(call):.2f} |"
            )
    return "\n".join(lines)


SEEDS: dict[str, tuple[str, dict[str, Any], int]] = {
    "BC": ("BC", {}, 3000),
    "IQL": ("IQL", {}, 800),
    "TD3BC": ("TD3BC", {}, 1000),
    "CQL": ("CQL", {}, 160),
    "IQL, bfloat16": ("IQL", {"settings": {"precision": "bfloat16"}}, 1200),
    "IQL, 64 wide, batch 64": ("IQL", {"settings": {"hidden_sizes": [64, 64]}, "batch": 64}, 16_000),
}


def seeds(rounds: int) -> str:
    lines = [
        "Eight seeds at once against one, updates a second of all seeds together (ratio to one seed; peak MB of the "
        "process): one at a time, and as the loop does it, in as many threads as there are processors.\n",
        "| algorithm | one seed | eight, one at a time | eight, as the loop does it |",
        "|---|---|---|---|",
    ]
    for label, (name, chosen, updates) in SEEDS.items():

        def job(count: int, *, chosen: Any = chosen, name: str = name, updates: int = updates, **how: Any) -> Any:
            return process("ours", {"algorithm": name, "updates": updates // count, "seeds": count} | chosen | how)

        found, last = in_turns(
            label, rounds, one=lambda: job(1), turn=lambda: job(8, in_turn=True), threads=lambda: job(8)
        )
        one = middle(found["one"])
        cells = [
            f"{shown(values)}: {middle(values) / one:.2f}, {last[kind]['megabytes']:,.0f} MB"
            for kind, values in found.items()
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parts(rounds: int) -> str:
    job = {"algorithm": "CQL", "updates": UPDATES["CQL"]}
    found, _ = in_turns(
        "CQL",
        rounds,
        parts=lambda: process("ours", job),
        whole=lambda: process("ours", job | {"whole_batch": True}),
    )
    return (
        f"CQL, gradients of one part of the batch after another: {shown(found['parts'])} updates a second; of the whole batch "
        f"at once: {shown(found['whole'])}. Ratio {middle(found['parts']) / middle(found['whole']):.2f}."
    )


def in_turns(
    label: str, rounds: int, **kinds: Callable[[], dict[str, Any]]
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """Run each kind once a round: all rates of each, and each one's last result."""
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    last: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for kind, run in kinds.items():
            last[kind] = run()
            found[kind] += last[kind]["rates"]
        say(f"{label}: " + ", ".join(f"{kind} {shown(values)}" for kind, values in found.items()))
    return found, last


def starts(rounds: int) -> str:
    cold, warm = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(process("start", {}, XDG_CACHE_HOME=cache)["rates"][0])
            warm += [process("start", {}, XDG_CACHE_HOME=cache)["rates"][0] for _ in range(2)]
    say(f"start: cold {shown(cold)}, warm {shown(warm)}")
    return (
        "Seconds from the start of a process to the end of the first IQL update, imports and the making of a log of "
        "100,000 rows included: "
        f"cold (empty compilation cache) **{middle(cold):.1f}** ({min(cold):.1f} to {max(cold):.1f}; bar 6), "
        f"warm **{middle(warm):.1f}** ({min(warm):.1f} to {max(warm):.1f}; bar 3)."
    )


GROWTH: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "batch": [(f"{b:,}", {"batch": b, "updates": 40_000 // b + 5}) for b in (64, 256, 1024, 4096)],
    "width": [
        (f"{w:,}", {"settings": {"hidden_sizes": [w, w]}, "updates": u})
        for w, u in ((64, 2000), (128, 800), (256, 200), (512, 60), (1024, 20))
    ],
    "critics": [(f"{c}", {"settings": {"num_critics": c}, "updates": 400 // c}) for c in (2, 5, 10, 25, 50)],
    "log rows": [(f"{n:,}", {"rows": n, "updates": 200}) for n in (10_000, 100_000, 1_000_000, 10_000_000)],
}


def growth(rounds: int) -> str:
    lines = [
        "IQL as one size grows, the others at the setting above. GFLOP/s counts the update's matrix products; a cliff would "
        "show as a fall of that number.\n",
        "| size | value | updates a second | transitions a second | GFLOP/s |",
        "|---|---|---|---|---|",
    ]
    curves: dict[str, list[tuple[str, float]]] = {}
    samples: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):  # every point once, then again: a bad minute does not fall on one of them alone
        for size, points in GROWTH.items():
            for label, job in points:
                done = process("ours", {"algorithm": "IQL", "chunks": 4} | job)["rates"]
                samples.setdefault((size, label), []).extend(done)
                say(f"{size} {label}: {shown(samples[size, label])}")
    for size, points in GROWTH.items():
        for label, job in points:
            found = samples[size, label]
            batch = job.get("batch", BATCH)
            flop = iql_flop(batch, job.get("settings", {}))
            lines.append(
                f"| {size} | {label} | {shown(found)} | {middle(found) * batch:,.0f} | {middle(found) * flop / 1e9:,.0f} |"
            )
            curves.setdefault(size, []).append((label, middle(found) * flop / 1e9))
    (HERE / "results" / "growth.svg").write_text(drawn(curves))
    return "\n".join(lines) + "\n\n![GFLOP/s of IQL as each size grows](growth.svg)"


def iql_flop(batch: int, settings: dict[str, Any]) -> float:
    """Multiplications and additions of the matrix products of one IQL update, counted by hand."""
    width = settings.get("hidden_sizes", [256])[0]
    critics = settings.get("num_critics", 2)

    def passes(inputs: int, outputs: int, forwards: int, backwards: int) -> float:
        forward = inputs * width + width * width + width * outputs
        backward = forward + width * width + width * outputs  # weights, then all inputs but the first layer's
        return 2.0 * batch * (forwards * forward + backwards * backward)

    value = passes(OBSERVATION, 1, 3, 1)  # fit; then the new V of obs and next_obs
    actor = passes(OBSERVATION, ACTION, 1, 1)
    return value + actor + critics * passes(OBSERVATION + ACTION, 1, 2, 1)


def drawn(curves: dict[str, list[tuple[str, float]]]) -> str:
    """Small multiples, one a size; the same vertical axis."""
    width, height, top = 230, 190, 1.1 * max(rate for points in curves.values() for _, rate in points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * len(curves)} {height}" '
        'font-family="system-ui, sans-serif" font-size="11" role="img">',
        f'<rect width="{width * len(curves)}" height="{height}" fill="#fff"/>',
    ]
    for k, (size, points) in enumerate(curves.items()):
        left, bottom, inner_w, inner_h = k * width + 40, height - 40, width - 60, height - 75
        parts.append(f'<text x="{left}" y="20" font-weight="600" fill="#1f2933">{size}</text>')
        for tick in range(0, int(top) + 1, 50):
            y = bottom - inner_h * tick / top
            parts.append(f'<line x1="{left}" x2="{left + inner_w}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e7eb"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#616e7c">{tick}</text>')
        at = [
            (left + inner_w * (i + 0.5) / len(points), bottom - inner_h * rate / top)
            for i, (_, rate) in enumerate(points)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f'<polyline points="{path}" fill="none" stroke="#2563a8" stroke-width="2"/>')
        for (x, y), (label, rate) in zip(at, points, strict=True):
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#2563a8"><title>{label}: {rate:.0f}</title></circle>'
            )
            short = label.replace(",000,000", "M").replace(",000", "k")
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" fill="#616e7c">{short}</text>')
    parts.append(
        f'<text x="4" y="{height - 6}" fill="#616e7c">GFLOP/s of the matrix products of one IQL update</text></svg>'
    )
    return "\n".join(parts) + "\n"


def say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


SECTIONS = {
    "rates": "Against the floor and the peer",
    "seeds": "Eight seeds",
    "parts": "Parts of a batch",
    "start": "Start to first update",
    "growth": "Growth",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=str(HERE.parent / ".bench" / "bin" / "python"))
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--algorithms", default=",".join(UPDATES), help="of the section rates")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "throughput.md")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(JOBS[arguments.job](json.loads(sys.stdin.read() or "{}"))))
        return
    kept = arguments.out.with_suffix(".json")
    done: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    makers: dict[str, Any] = {
        "rates": lambda: rates(
            arguments.peer_python, arguments.rounds, arguments.algorithms.split(","), done.setdefault("samples", {})
        ),
        "seeds": lambda: seeds(arguments.rounds),
        "parts": lambda: parts(arguments.rounds),
        "start": lambda: starts(arguments.rounds),
        "growth": lambda: growth(arguments.rounds),
    }
    for section in arguments.only.split(","):
        done[section] = f"{makers[section]()}\n\n{describe(f'python benchmarks/throughput.py --only {section}')}"
        text = "\n\n".join(f"## {title}\n\n{done[name]}" for name, title in SECTIONS.items() if name in done)
        arguments.out.write_text(f"# Throughput of the training loop\n\n{text}\n")
        kept.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
