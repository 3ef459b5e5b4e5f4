"""Speed on an accelerator: IQL at 1, 8 and 64 seeds against Unifloral's own train step, and all algorithms against d3rlpy.

    python benchmarks/gpu.py --unifloral CHECKOUT [--unifloral-python PY] [--peer-python PY] [--seconds 460]

Takes at most 8 minutes. CHECKOUT is a checkout of github.com/EmptyJackson/unifloral, whose code is imported, never
copied; PY are Pythons with its packages (jax, flax, optax, distrax) and with benchmarks/requirements-peer.txt. A side
that is not there is skipped with a sentence. Setting: 17 numbers an observation, 6 an action, 256x256, batch 256, random
data. Ours is `st.fit` as a user calls it, logging every 100 updates; Unifloral's is its step under `lax.scan`, as its
script has it, and once more unrolled as ours is. Both sides are alive at once and take turns, call by call; a number is
the median of these calls, a ratio the median of the ratios turn by turn.

Without an accelerator it runs end to end on the CPU, with few updates and two seeds at most, and says that nothing was
measured.
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
from throughput import ACTION, BATCH, OBSERVATION, algorithm_of, random_log

HERE = Path(__file__).parent
SEEDS = {1: 8000, 8: 4000, 64: 1600}
"""Seeds -> updates of a call."""
UPDATES = {"IQL": 8000, "TD3BC": 8000, "BC": 16_000, "CQL": 1600}
ON_A_CPU = 800
"""On a CPU so many times fewer updates, and at most two seeds: enough to see that every part runs."""
LOG_EVERY = 100
UNROLL = 5


# --- our side, one process -------------------------------------------------------------------------------------------


def ours() -> None:
    """Answer jobs on standard input, one JSON a line: updates a second of `st.fit`, all seeds together."""
    import jax

    import stitchrl as st

    log = random_log(100_000)
    device = jax.local_devices()[0]
    for line in sys.stdin:
        job = json.loads(line)
        updates, stamps = job["updates"], {}

        def note(done: int, total: int, means: Any, stamps: dict[int, float] = stamps) -> None:
            stamps[done] = time.perf_counter()

        # Saving is where a call of the loop ends: `updates` apart, so that the stamps there are of whole calls.
        st.fit(
            algorithm_of(job["algorithm"]), log, updates=updates * (1 + job["repeats"]), seeds=job["seeds"],
            batch_size=BATCH, log_every_updates=job["log_every"], save_every_updates=updates, callbacks=[note],
            progress=False,
        )  # fmt: skip
        ends = [stamps[updates * (k + 1)] for k in range(job["repeats"] + 1)]
        rates = [job["seeds"] * updates / (b - a) for a, b in itertools.pairwise(ends)]
        memory = device.memory_stats() or {}
        megabytes = memory.get("peak_bytes_in_use", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 2**20
        answer = {
            "rates": rates,
            "megabytes": megabytes,
            "device": device.device_kind,
            "backend": jax.default_backend(),
        }
        print(json.dumps(answer), flush=True)


# --- workers ---------------------------------------------------------------------------------------------------------


class Worker:
    """A process that answers one JSON line with another. Raises RuntimeError, with what it said, once it has ended."""

    def __init__(self, *words: str | Path, **environment: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | environment, cwd=HERE,
        )  # fmt: skip

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._errors.seek(0)
            raise RuntimeError(self._errors.read()[-1500:].strip() or "it ended without a word")
        return dict(json.loads(line))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()


def in_turns(turns: int, **sides: Callable[[], dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Ask every side once a turn, in changing order."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(turns):
        for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            found[name].append(sides[name]())
    return found


def rate(answers: list[dict[str, Any]]) -> float:
    return statistics.median(r for answer in answers for r in answer["rates"])


def shown(answers: list[dict[str, Any]]) -> str:
    rates = [r for answer in answers for r in answer["rates"]]
    digits = 0 if min(rates) >= 100 else 1
    return f"{rate(answers):,.{digits}f} ({min(rates):,.{digits}f} to {max(rates):,.{digits}f})"


def ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    return statistics.median(rate([a]) / rate([b]) for a, b in zip(ours, theirs, strict=True))


# --- the comparison --------------------------------------------------------------------------------------------------


class Session:
    """One run of the script: its workers, what was found, and how much of its time is left."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._began, self._arguments = time.monotonic(), arguments
        self._ours = Worker(sys.executable, Path(__file__).resolve(), "--ours")
        first = self._ours.ask(
            {"algorithm": "BC", "seeds": 1, "updates": 10, "repeats": 1, "log_every": 10}
        )  # which device it is
        self.device, self.measured = first["device"], first["backend"] != "cpu"
        self.turns, self.repeats = (arguments.turns, 2) if self.measured else (1, 1)
        self.seeds = SEEDS if self.measured else {1: SEEDS[1], 2: SEEDS[8]}
        self.results: dict[str, Any] = {"device": self.device, "measured": self.measured}
        self.sentences: list[str] = []

    def left(self) -> float:
        return float(self._arguments.seconds) - (time.monotonic() - self._began)

    def skip(self, what: str, why: str) -> None:
        self.sentences.append(f"{what}: skipped. {why}")
        say(self.sentences[-1])

    def updates(self, usual: int) -> int:
        return usual if self.measured else max(2, usual // ON_A_CPU)

    def our_job(self, algorithm: str, seeds: int, updates: int, log_every: int = LOG_EVERY) -> Callable[[], Any]:
        every = log_every if self.measured else max(1, updates // 4)
        job = {"algorithm": algorithm, "seeds": seeds, "updates": updates, "repeats": self.repeats, "log_every": every}
        return lambda: self._ours.ask(job)

    def against_unifloral(self) -> None:
        """IQL at 1, 8 and 64 seeds."""
        checkout = self._arguments.unifloral
        there = checkout is not None and (checkout / "algorithms" / "iql.py").exists()
        if not there:
            self.skip("Unifloral", f"There is no checkout of it at {str(checkout)!r} (`--unifloral`).")
        for seeds, usual in self.seeds.items():
            if self.left() < 60 and self.measured:
                self.skip(f"IQL at {seeds} seeds", "No time was left.")
                continue
            updates = self.updates(usual)
            sides, workers = {"ours": self.our_job("IQL", seeds, updates)}, []
            sides["ours"]()  # compiles
            job = {
                "rows": 100_000, "observation": OBSERVATION, "actions": ACTION, "batch": BATCH, "seeds": seeds,
                "updates": updates, "repeats": self.repeats,
            }  # fmt: skip
            for name, unroll in (("theirs", 1), ("theirs, unrolled", UNROLL))[: (2 if seeds == 1 else 1) * there]:
                own = job | {"unroll": unroll}
                worker = self._unifloral(own)
                if worker is not None:
                    workers.append(worker)
                    sides[name] = lambda worker=worker, own=own: worker.ask(own)
            self.results[f"IQL {seeds}"] = in_turns(self.turns, **sides)
            for worker in workers:
                worker.close()

    def _unifloral(self, job: dict[str, Any]) -> Worker | None:
        """A worker that has compiled the job; None where it fails, which is said."""
        words = (self._arguments.unifloral_python, HERE / "unifloral_worker.py", self._arguments.unifloral.resolve())
        for extra in ((), ("--plain",)):
            worker = Worker(*words, *extra)
            try:
                worker.ask(job)
                return worker
            except RuntimeError as error:
                worker.close()
                self.skip(
                    f"Unifloral{''.join(f' {word}' for word in extra)}, {job['seeds']} seeds", f"It failed: {error}"
                )
        return None

    def cost_of_logging(self) -> None:
        """IQL with the default log rows against one log row a call of the loop."""
        updates = self.updates(SEEDS[1])
        often, rarely = self.our_job("IQL", 1, updates), self.our_job("IQL", 1, updates, updates)
        rarely()
        self.results["logging"] = in_turns(self.turns, ours=often, rarely=rarely)

    def against_d3rlpy(self) -> None:
        """Every algorithm at one seed."""
        peer = self._arguments.peer_python
        there = (
            peer.exists()
            and not subprocess.run([peer, "-c", "import d3rlpy"], capture_output=True, check=False).returncode
        )
        if not there:
            self.skip(
                "d3rlpy", f"It is not installed in {str(peer)!r} (`--peer-python`, benchmarks/requirements-peer.txt)."
            )
        for name, usual in UPDATES.items():
            if self.left() < 40 and self.measured:
                self.skip(f"{name} against d3rlpy", "No time was left.")
                continue
            side = self.our_job(name, 1, self.updates(usual))
            side()
            found = in_turns(self.turns, ours=side)
            if there:
                found |= self._peer(name)
            self.results[name] = found

    def _peer(self, name: str) -> dict[str, list[dict[str, Any]]]:
        """d3rlpy's answers, plain and with CUDA graphs; its processes are its own, since it holds the device."""
        found = {}
        job = {"mode": "rate", "algorithm": name, "repeats": 3} | (
            {"device": "cuda:0", "warmup": 60, "timed": 100}
            if self.measured
            else {"warmup": 1, "timed": 2, "rows": 5000}
        )
        for label, graph in (("d3rlpy", False), ("d3rlpy, compile_graph", True)):
            if graph and not self.measured:
                self.skip(f"{label}, {name}", "d3rlpy compiles graphs on CUDA only.")
                continue
            words = [self._arguments.peer_python, HERE / "d3rlpy_worker.py"]
            text = json.dumps(job | {"compile_graph": graph})
            done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
            if done.returncode:
                self.skip(f"{label}, {name}", f"It failed: {done.stderr.strip()[-300:]}")
            else:
                found[label] = [json.loads(done.stdout.strip().splitlines()[-1])]
        return found

    def write(self, out: Path) -> None:
        """What was found so far."""
        self.results["seconds"] = time.monotonic() - self._began
        out.write_text(report(self))
        out.with_suffix(".json").write_text(json.dumps(self.results, indent=1) + "\n")

    def close(self) -> None:
        self._ours.close()


def report(session: Session) -> str:
    """What was found, as Markdown."""
    found, lines = session.results, ["# Speed on an accelerator\n"]
    if not session.measured:
        lines.append(
            "**The GPU result is not measured: there was no accelerator.** The numbers below are of a few updates on a "
            "CPU; they say that the script runs, and nothing about speed.\n"
        )
    lines += [
        f"Device: {session.device}. Updates a second of all seeds together, median (range); ratios are medians of turns.\n",
        "## IQL against Unifloral's own train step\n",
        "| seeds | stitchrl (`st.fit`) | Unifloral (scan) | ratio (bar 1, aim 1.3) | Unifloral, unrolled | ratio "
        "| MB of ours at most |",
        "|---|---|---|---|---|---|---|",
    ]
    for seeds in session.seeds:
        sides = found.get(f"IQL {seeds}")
        if sides is not None:
            cells = [str(seeds), shown(sides["ours"])]
            for name in ("theirs", "theirs, unrolled"):
                cells += [shown(sides[name]), f"{ratio(sides['ours'], sides[name]):.2f}"] if name in sides else ["", ""]
            lines.append(f"| {' | '.join(cells)} | {max(a['megabytes'] for a in sides['ours']):,.0f} |")
    if "logging" in found and session.measured:
        share = 1.0 - ratio(found["logging"]["ours"], found["logging"]["rarely"])
        lines.append(f"\nThe default `log_every_updates` costs {share:.1%} of the speed (bar 5%).")
    lines += [
        "\n## Every algorithm at one seed, against d3rlpy\n",
        "| algorithm | stitchrl | d3rlpy | ratio | d3rlpy, compile_graph | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for name in UPDATES:
        if name in found:
            cells = [name, shown(found[name]["ours"])]
            for label in ("d3rlpy", "d3rlpy, compile_graph"):
                theirs = found[name].get(label)
                cells += (
                    ["", ""] if theirs is None else [shown(theirs), f"{rate(found[name]['ours']) / rate(theirs):.1f}"]
                )
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {sentence}" for sentence in session.sentences)]
    for answers in found.get("IQL 1", {}).values():
        if "versions" in answers[0]:
            lines.append(f"- Unifloral's side: {', '.join(' '.join(pair) for pair in answers[0]['versions'].items())}")
            break
    return "\n".join([*lines, describe("python benchmarks/gpu.py"), f"- took {found['seconds']:.0f} s"]) + "\n"


def say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unifloral", type=Path, help="a checkout of github.com/EmptyJackson/unifloral")
    parser.add_argument("--unifloral-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--peer-python", type=Path, default=HERE.parent / ".bench" / "bin" / "python")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=460.0, help="after which no new part begins")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.md")
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        ours()
        return
    session = Session(arguments)
    for part in (session.against_unifloral, session.cost_of_logging, session.against_d3rlpy):
        say(f"{part.__doc__} {session.left():.0f} s left.")
        try:
            part()
        except RuntimeError as error:
            session.skip(str(part.__doc__).rstrip("."), f"Our side failed: {error}")
        session.write(arguments.out)
    session.close()
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
