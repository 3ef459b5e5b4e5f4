"""Do the 95% intervals of the gain cover? Fresh logs of known worlds, policies whose exact gain is known.

    python benchmarks/coverage.py [--minutes 45] [--scale 1.0] [--work runs/coverage] [--out benchmarks/results/coverage.md]

A cell is a world, a number of logged episodes, and where the behaviour's probabilities come from. As in the main job .4 of the
episodes serve the estimate and .6 the models. Misses are counted by side: a lower end above the truth makes a false GO.
Every replicate draws new logs; the policies, and of each size two sets of Q networks, come from logs of their own, and so
does what coverage is conditional on. A fitted behaviour is fitted anew in every replicate. Replicates are kept in the folder
`--work` as they are made, and the same command continues them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import stats

from environment import describe
from stitchrl.algorithms.iql import IQL
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import unit_return_scale
from stitchrl.evaluation.behavior_registry import fit_behavior
from stitchrl.evaluation.estimators.fqe import FittedQEvaluation
from stitchrl.evaluation.evaluate import evaluate_fits
from stitchrl.evaluation.refit import FitQ
from stitchrl.evaluation.settings import FitSettings
from stitchrl.evaluation.units import effective_sample_size
from stitchrl.nn.ladder import LadderPolicy
from stitchrl.nn.policy import DiscretePolicy
from stitchrl.nn.tabular import TabularPolicy
from stitchrl.training.fit import fit

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from exact_worlds import HOSPITAL, TABULAR, TableQ, World, of_rows, tilted, world_named
from known_fits import KnownFits, fit_tables, table_of

SIZES = (500, 2000, 8000, 20_000)
FITTING, ESTIMATE = 0.6, 0.4
"""Shares of a log for the models and for the estimate, as in the main job."""
KNOWN, ELSEWHERE, CROSSED = "known", "fitted on the rest", "cross-fitted"
MODES = (KNOWN, ELSEWHERE, CROSSED)
NETWORKS = 2
"""Sets of Q networks of each size, from different logs; replicates take turns."""
TARGET = {
    KNOWN: dict(zip(SIZES, (1000, 600, 160, 40), strict=True)),
    ELSEWHERE: dict(zip(SIZES, (20, 40, 40, 30), strict=True)),
    CROSSED: dict(zip(SIZES, (10, 20, 20, 10), strict=True)),
}
"""Replicates of a cell, by mode and size."""
RUNGS = ((1.0, 0.1), (3.0, 0.1), (1.0, 0.05), (3.0, 0.05))
TRAINED, GREEDY, RARE = "pi as trained", "pi greedy", "pi^1.5 b^-.5, large ratios"


class Subject(NamedTuple):
    """The policies of a world.

    Attributes:
        tables: name -> (L, A) probabilities.
        truth: name -> exact gain.
        served_by: which of the two fitted Q, of `pi` and of greedy `pi`, serves each.
    """

    world: World
    tables: dict[str, np.ndarray]
    truth: dict[str, float]
    served_by: list[int]


def subject_of(name: str) -> Subject:
    """Policies that were learned from another log, and rungs between them and the behaviour."""
    world = world_named(name)
    train = world.log(12_000, 10_000)
    learned = _learned(world, train)
    behavior = fit_behavior(train, FitSettings()).policy
    pi = table_of(world, learned)
    tables = {}
    for power, floor in RUNGS:
        rung = LadderPolicy(learned, behavior, jnp.float32(power), jnp.float32(floor))
        tables[f"pi^{power:g}, b at least {floor:g}"] = table_of(world, rung)
    tables[TRAINED] = pi
    tables[GREEDY] = np.eye(pi.shape[1])[pi.argmax(1)]
    tables[RARE] = rare(world, pi)
    truth = {key: world.gain(table) for key, table in tables.items()}
    return Subject(world, tables, truth, [int(key == GREEDY) for key in tables])


def rare(world: World, pi: np.ndarray) -> np.ndarray:
    """pi^1.5 b^-.5: it prefers what the behaviour takes rarely."""
    b = world.behavior[: world.live]
    return tilted(b, 1.5 * np.log(np.maximum(pi, 1e-12) / np.maximum(b, 1e-12)))


def _learned(world: World, train: Dataset) -> DiscretePolicy:
    """IQL in the hospital; elsewhere a tilt of the behaviour towards advantages that are known with noise."""
    if world.name == HOSPITAL:
        algorithm = IQL(
            expectile=0.8, inverse_temperature=10.0, gamma=1.0, target_rate=0.02, hidden_sizes=(128, 128),
            learning_rate=1e-3,
        )  # fmt: skip
        policy = fit(algorithm, train, updates=2000, seeds=1, reward_scale=unit_return_scale(train)).policy
        assert isinstance(policy, DiscretePolicy)
        return policy
    b = world.behavior[: world.live]
    q = world.mdp.action_values(world.behavior)[: world.live]
    advantage = q - (b * q).sum(1, keepdims=True)
    spread = advantage.std()
    noise = 0.5 * spread * np.random.default_rng(3).normal(size=q.shape)
    table = tilted(b, 1.5 * (advantage + noise) / spread)
    return TabularPolicy(jnp.asarray(world.features), jnp.log(jnp.asarray(table, jnp.float32)))


@cache
def rows_for(name: str, episodes: int) -> int:
    """Rows that a log of so many episodes has nearly surely."""
    world = world_named(name)
    lengths = world.log(2000, 1).episode_lengths
    return int(lengths.mean() * episodes - 4 * lengths.std() * np.sqrt(episodes)) // 10 * 10


def networks(subject: Subject, episodes: int, which: int, work: Path) -> list[TableQ]:
    """Q of `pi` and of greedy `pi`, from a log of so many episodes; made once and kept."""
    path = work / f"{subject.world.name.replace(', ', '-').replace(' ', '-')}-{episodes}-{which}.npz"
    if not path.exists():
        size = int(FITTING * episodes)
        log = of_rows(subject.world.log(size, 500_000 + which), rows_for(subject.world.name, size))
        found = fit_tables(subject.world, log, [subject.tables[TRAINED], subject.tables[GREEDY]], FitSettings())
        np.savez(path, **{f"{part}{k}": getattr(q, part) for k, q in enumerate(found) for part in ("phi", "q")})
    with np.load(path) as arrays:
        return [TableQ(arrays[f"phi{k}"], arrays[f"q{k}"]) for k in range(2)]


@lru_cache(maxsize=4)
def _drawn(name: str, episodes: int, block: int, propensities: bool, seed: int) -> Dataset:
    """The logs of several replicates in one, since a draw costs more than what is drawn."""
    return world_named(name).log(episodes * logs_at_once(episodes), seed + block, propensities=propensities)


def logs_at_once(episodes: int) -> int:
    """How many logs of so many episodes are drawn together."""
    return max(1, 8000 // episodes)


def fresh_log(world: World, episodes: int, replicate: int, *, propensities: bool, seed: int) -> Dataset:
    """The log of a replicate."""
    block, place = divmod(replicate, logs_at_once(episodes))
    drawn = _drawn(world.name, episodes, block, propensities, seed)
    return drawn.select_episodes(np.arange(place * episodes, (place + 1) * episodes))


def one_replicate(subject: Subject, episodes: int, mode: str, replicate: int, models: list[TableQ]) -> dict[str, Any]:
    """What the product says about every policy on a fresh log."""
    world, known = subject.world, mode == KNOWN
    log = fresh_log(world, int(ESTIMATE * episodes), replicate, propensities=known, seed=20_000)
    rest, fitted_on = None, log.num_episodes // 2
    if mode == ELSEWHERE:
        fitted_on = int(FITTING * episodes)
        rest = fresh_log(world, fitted_on, replicate, propensities=False, seed=900_000)
    fits = KnownFits(
        world,
        list(subject.tables.values()),
        log,
        log if known else rest,  # nothing is fitted where propensities are known
        models=models,
        rows=rows_for(world.name, fitted_on),
        settings=FitSettings(seed=replicate),
        served_by=subject.served_by,
        compare=replicate == 0 and known,
    )
    evaluations = evaluate_fits(fits, (FittedQEvaluation(),), confirm=False)
    refits = [found.refit for found in fits.get(FitQ())]
    gains = np.stack([one.contributions for one in refits], 1) - log.episode_returns()[:, None]
    n = len(gains)
    sample = gains.std(0, ddof=1) / np.sqrt(n)
    ends = percentiles(gains, seed=0)
    rows = {}
    for k, (name, one) in enumerate(zip(subject.tables, evaluations, strict=True)):
        gain = one.gain["fqe"]
        assert gain.lower is not None
        per_episode = np.add.reduceat(np.abs(refits[k].weights), log.episode_start[:-1])
        rows[name] = {
            "value": gain.value, "sample": sample[k], "expected": gain.predictable_error, "error": gain.standard_error,
            "lower": gain.lower, "upper": gain.upper, "healthy": gain.healthy,
            "failed": [check.key for check in gain.checks if not check.passed],
            "old_lower": ends[0, k], "old_upper": ends[1, k],
            "old_healthy": old_health(refits[k], per_episode, log, float(one.estimates["fqe"].value or 0.0)),
        }  # fmt: skip
    return rows


def percentiles(gains: np.ndarray, *, seed: int, resamples: int = 1000) -> np.ndarray:
    """(2, K) ends of the percentile bootstrap of means of (n, K), as commit cbe9abc computed them."""
    n, rng = len(gains), np.random.default_rng(seed)
    at_once = max(1, 2_000_000 // n)
    found = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
        found.append(np.bincount(drawn.reshape(-1), minlength=rows * n).reshape(rows, n) @ gains / n)
    return np.quantile(np.concatenate(found), [0.025, 0.975], axis=0)


def old_health(refit: Any, per_episode: np.ndarray, log: Dataset, value: float) -> bool:
    """The checks of commit cbe9abc: effective share of transitions, largest share, balance on the features, returns seen."""
    returns = log.episode_returns()
    return bool(
        effective_sample_size(refit.weights) / len(refit.weights) >= 0.1
        and per_episode.max() / max(per_episode.sum(), 1e-300) <= 0.02
        and refit.imbalance <= 0.2
        and returns.min() <= value <= returns.max()
    )


# --- the tables ---------------------------------------------------------------------------------------------------


def share(count: int, n: int) -> str:
    """A share with its 95% interval (Clopper and Pearson)."""
    if n == 0:
        return "-"
    low = stats.beta.ppf(0.025, count, n - count + 1) if count else 0.0
    high = stats.beta.ppf(0.975, count + 1, n - count) if count < n else 1.0
    return f"{count / n:.1%} ({low:.1%} to {high:.1%})"


def number(value: float, *, sign: bool = False) -> str:
    """Four decimals, or a power of ten where an estimate has run away."""
    return f"{value:{'+' if sign else ''}.4f}" if abs(value) < 1000 else f"{value:{'+' if sign else ''}.0e}"


class Cell:
    """Replicates of one policy in one cell."""

    def __init__(self, truth: float, rows: list[dict[str, Any]]) -> None:
        self.truth, self.n = truth, len(rows)
        names = ("value", "sample", "expected", "error", "lower", "upper", "old_lower", "old_upper")
        numbers = {name: np.array([row[name] for row in rows], float) for name in names}
        self.value, self.numbers = numbers["value"], numbers
        self.healthy = np.array([row["healthy"] for row in rows], bool)
        self.old_healthy = np.array([row["old_healthy"] for row in rows], bool)
        self.low, self.high = numbers["lower"] > truth, numbers["upper"] < truth
        self.old_low, self.old_high = numbers["old_lower"] > truth, numbers["old_upper"] < truth
        failed = [key for row in rows for key in row["failed"]]
        self.failed = {key: failed.count(key) for key in sorted(set(failed), key=failed.count, reverse=True)}

    @property
    def too_many(self) -> bool:
        """Whether more than 2.5% low misses among healthy ones are established (one-sided, level 1%)."""
        n, count = int(self.healthy.sum()), int((self.low & self.healthy).sum())
        return n > 0 and stats.binom.sf(count - 1, n, 0.025) < 0.01

    def line(self) -> str:
        """The numbers of the main table."""
        n, healthy = self.n, int(self.healthy.sum())
        why = ", ".join(f"{key} {count / n:.0%}" for key, count in list(self.failed.items())[:2]) or "-"
        return " | ".join(
            [
                f"{n}", f"{self.truth:+.4f}", number(self.value.mean(), sign=True), number(self.value.std()),
                number(self.numbers["sample"].mean()), number(self.numbers["expected"].mean()),
                share(int(self.low.sum()), n), share(int(self.high.sum()), n), f"{healthy / n:.0%}",
                share(int((self.low & self.healthy).sum()), healthy),
                share(int((self.high & self.healthy).sum()), healthy), why,
            ]
        )  # fmt: skip

    def old_line(self) -> str:
        """The numbers of the table of the version before."""
        n, healthy = self.n, int(self.old_healthy.sum())
        return " | ".join(
            [
                f"{n}", share(int(self.old_low.sum()), n), share(int(self.old_high.sum()), n), f"{healthy / n:.0%}",
                share(int((self.old_low & self.old_healthy).sum()), healthy),
                share(int((self.old_high & self.old_healthy).sum()), healthy),
            ]
        )  # fmt: skip


HEADS = ("episodes, for the estimate", "policy", "replicates", "true gain", "mean estimate", "true spread",
         "mean SE, sample", "mean SE, expected", "misses low", "misses high", "healthy", "low, healthy only",
         "high, healthy only", "checks that failed most")  # fmt: skip
OLD_HEADS = ("episodes, for the estimate", "policy", "replicates", "misses low", "misses high", "healthy then",
             "low, healthy only", "high, healthy only")  # fmt: skip


def table(heads: tuple[str, ...], rows: list[str]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *rows, ""]


def pooled(cells: dict[tuple[str, str, int], dict[str, Cell]]) -> list[str]:
    """Misses below the lower end by world, mode and size, policies together: now and before."""
    rows = []
    for (world, mode, size), by_policy in cells.items():
        every = list(by_policy.values())
        now = [sum(int((c.low & c.healthy).sum()) for c in every), sum(int(c.healthy.sum()) for c in every)]
        old = [sum(int((c.old_low & c.old_healthy).sum()) for c in every), sum(int(c.old_healthy.sum()) for c in every)]
        total = sum(c.n for c in every)
        worst = max(by_policy, key=lambda name: _rate(by_policy[name]))
        rows.append(
            f"| {world} | {mode} | {size:,} | {every[0].n} | {now[1] / total:.0%} | {_percent(*now)} "
            f"| {_error(every)} "
            f"| {_worst(worst, by_policy[worst])} "
            f"| {old[1] / total:.0%} | {_percent(*old)} |"
        )
    heads = ("world", "propensities", "episodes", "replicates", "healthy", "low, healthy only", "its SE, logs as units",
             "the worst policy",
             "before: healthy", "before: low, healthy only")  # fmt: skip
    return table(heads, rows)


def _error(cells: list[Cell]) -> str:
    """The standard error of the share of healthy low misses, policies together: those of one log are not independent."""
    misses = np.sum([cell.low & cell.healthy for cell in cells], axis=0)
    healthy = np.sum([cell.healthy for cell in cells], axis=0)
    if not healthy.sum():
        return "-"
    rate = misses.sum() / healthy.sum()
    return f"{np.sqrt(((misses - rate * healthy) ** 2).sum()) / healthy.sum():.1%}"


def _percent(count: int, n: int) -> str:
    return f"{count / n:.1%}" if n else "-"


def _worst(name: str, cell: Cell) -> str:
    return f"{name}: {_rate(cell):.1%} of {int(cell.healthy.sum())}" if _rate(cell) else "-"


def _rate(cell: Cell) -> float:
    healthy = int(cell.healthy.sum())
    return float((cell.low & cell.healthy).sum()) / healthy if healthy >= 10 else 0.0


def report(kept: dict[tuple[str, str, int], list[dict[str, Any]]], subjects: dict[str, Subject], command: str) -> str:
    """Everything as Markdown, failures first."""
    order = [(w, m, s) for w in subjects for m in MODES for s in SIZES if kept.get((w, m, s))]
    cells = {
        key: {name: Cell(truth, [row[name] for row in kept[key]]) for name, truth in subjects[key[0]].truth.items()}
        for key in order
    }
    failures = [
        f"| {world} | {mode} | {size:,} | {name} | {cell.truth:+.4f} | {number(cell.value.mean(), sign=True)} "
        f"| {cell.healthy.mean():.0%} | {share(int((cell.low & cell.healthy).sum()), int(cell.healthy.sum()))} |"
        for (world, mode, size), by_policy in cells.items()
        for name, cell in by_policy.items()
        if cell.too_many
    ]
    lines = [
        "# Coverage of the 95% intervals of the gain\n",
        describe(command),
        "",
        STOPPED,
        "",
        *INTRODUCTION,
        "## Failures first\n",
    ]
    lines += [
        "Cells in which the lower end lies above the truth, among estimates that are called healthy, in more than 2.5% of "
        "logs beyond doubt (one-sided binomial test at 1%; about one cell in a hundred is listed by luck alone):\n"
    ]
    failing = (
        "world",
        "propensities",
        "episodes",
        "policy",
        "true gain",
        "mean estimate",
        "healthy",
        "low, healthy only",
    )
    lines += table(failing, failures) if failures else ["None.\n"]
    lines += ["## All policies of a cell together\n", *pooled(cells)]
    for heads, title, old in (
        (HEADS, "{world}, propensities {mode}", False),
        (OLD_HEADS, "Before: {world}, {mode}", True),
    ):
        for world in subjects:
            for mode in MODES:
                rows = [
                    f"| {size:,}, {int(ESTIMATE * size):,} | {name} | {cell.old_line() if old else cell.line()} |"
                    for (w, m, size), by_policy in cells.items()
                    if (w, m) == (world, mode)
                    for name, cell in by_policy.items()
                ]
                if rows:
                    lines += ["## " + title.format(world=world, mode=mode) + "\n", *table(heads, rows)]
    return "\n".join(lines)


STOPPED = "The clock stopped it on a busy machine, before all cells had the replicates that the program asks for."
INTRODUCTION = (
    "The interval is the product's own: refitted FQE less the logged returns, Student's quantile, the larger of the sample's "
    "standard error and the expected one, and the health checks that a verdict goes by. *Low* misses have their lower end above "
    "the truth (what makes a false GO), *high* ones their upper end below it; 2.5% of each are promised. In brackets: 95% "
    "intervals of Clopper and Pearson.",
    "",
    "*Episodes* are those of the whole log: .6 fit the models and .4 make the estimate. Propensities are *known*, or the "
    "product's model of the behaviour is *fitted on the rest* of the log, or *cross-fitted* within the .4. Policies come from a "
    "log of 12,000 episodes of their own (IQL in the hospital; in the random worlds a tilt towards the behaviour's advantages "
    "with noise), and Q networks from two further logs of each size, so coverage is conditional on these. Policies of one cell "
    "meet the same logs. Rungs of the ladder use a model of the behaviour fitted to the policy's log.",
    "",
    "*Before* is what commit cbe9abc would have printed on the same logs: the sample's standard error, the percentile bootstrap "
    "of 1,000 resamples, and the health checks of that time.",
    "",
)


# --- the run ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--scale", type=float, default=1.0, help="times the replicates of every cell")
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--worlds", nargs="*", default=[HOSPITAL, *TABULAR])
    parser.add_argument("--modes", nargs="*", default=list(MODES), help="where propensities come from")
    parser.add_argument("--work", type=Path, default=Path("runs/coverage"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "coverage.md")
    args = parser.parse_args()
    began = time.monotonic()
    args.work.mkdir(parents=True, exist_ok=True)
    subjects = {name: subject_of(name) for name in args.worlds}
    kept = load(args.work / "replicates.jsonl")
    cells = [(w, m, s) for s in args.sizes for w in subjects for m in args.modes]
    command = "python benchmarks/coverage.py"
    rounds = 20
    with (args.work / "replicates.jsonl").open("a") as out:
        for turn in range(1, rounds + 1):
            for world, mode, size in cells:
                found = kept.setdefault((world, mode, size), [])
                wanted = int(np.ceil(args.scale * TARGET[mode][size] * turn / rounds))
                while len(found) < wanted and time.monotonic() - began < 60 * args.minutes:
                    replicate = len(found)
                    models = networks(subjects[world], size, replicate % NETWORKS, args.work)
                    rows = one_replicate(subjects[world], size, mode, replicate, models)
                    found.append(rows)
                    out.write(json.dumps([world, mode, size, rows], default=float) + "\n")
                    out.flush()
            args.out.write_text(report(kept, subjects, command), encoding="utf-8")
            print(f"round {turn} of {rounds}, {time.monotonic() - began:.0f} s", flush=True)
            if time.monotonic() - began > 60 * args.minutes:
                break


def load(path: Path) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """The replicates that an earlier run left; a last line that was cut is left out."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            world, mode, size, rows = json.loads(line)
        except json.JSONDecodeError:
            continue
        found.setdefault((world, mode, size), []).append(rows)
    return found


if __name__ == "__main__":
    main()
