"""The path of a stranger from a file to a policy in use: every command, its exit status, what it says first, and its seconds.

    python benchmarks/strangers.py --data FOLDER

FOLDER holds open_bandit (two logs of a recommender) and mujoco (hopper_medium.parquet). The hospital's export is written here: a
German spreadsheet saved as CSV, with semicolons, decimal commas, Latin-1, dates with the day first, ja and nein, a reward in
the last row of a stay only, and a stay told by two columns. Nothing is edited between the commands but what the page says.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from environment import describe

RESULTS = Path(__file__).resolve().parent / "results" / "strangers.md"
TREATMENTS = ("keine", "Tablette", "Infusion")
MOST_LINES = 6
"""Lines of a command's output that the page shows."""
QUICK = "--updates 400 --evaluation-updates 400 --seeds 1"


def german(number: float) -> str:
    return str(number).replace(".", ",")


def export(path: Path, *, seed: int, patients: int, fahrenheit: bool = False) -> None:
    """Stays of a hospital whose doctors treat by the pulse, as its spreadsheet program writes them."""
    rng = np.random.default_rng(seed)
    begin = np.datetime64("2025-01-31T08:00", "m")
    lines = ["PatientID;Visit;Zeit;Puls;Temperatur;Geschlecht;Therapie;Propensity;Ende;Outcome;Arzt;Zeitlimit"]
    for patient in range(patients):
        for visit in range(int(rng.integers(1, 3))):
            steps, when, pulse, good = (
                int(rng.integers(3, 7)),
                begin + int(rng.integers(0, 400_000)),
                rng.normal(90, 12),
                0,
            )
            for step in range(steps):
                when += 240
                warmth = rng.normal(37 + 0.02 * (pulse - 80), 0.4)
                warmth = warmth * 1.8 + 32 if fahrenheit else warmth
                probs = np.array([0.3, 0.4, 0.3] if pulse < 95 else [0.2, 0.3, 0.5])
                action, last = int(rng.choice(3, p=probs)), step == steps - 1
                good += (action == 2) * (pulse > 90) + (action == 0) * (pulse <= 90)
                reward = int(rng.random() < 0.35 + 0.55 * good / steps) if last else ""
                cells = (
                    1000 + patient + 10_000 * seed, visit, f"{when.astype(object):%d.%m.%Y %H:%M}", german(round(pulse, 1)),
                    german(round(warmth, 2)), "mw"[patient % 2], TREATMENTS[action], german(round(float(probs[action]), 2)),
                    "ja" if last else "nein", reward, "Müller", 240,
                )  # fmt: skip
                lines.append(";".join(map(str, cells)))
                pulse += rng.normal(0, 5) - (action == 2) * 6
    path.write_bytes("\n".join(lines).encode("latin-1"))


class Walk:
    """A stranger's commands, one after another in one folder, as a page.

    Args:
        folder: where they are run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines, self.errors, self.seconds, self.commands = folder, list[str](), 0, 0.0, 0

    def say(self, text: str) -> None:
        self.lines += [text, ""]

    def run(self, words: str, *, expect: int = 0) -> None:
        """Run `stitchrl words`, and show what it says; its exit status must be the one expected."""
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "stitchrl.cli", *shlex.split(words)],
            cwd=self.folder, capture_output=True, text=True, check=False,
            env={**os.environ, "STITCHRL_STATE": str(self.folder / "state")},
        )  # fmt: skip
        seconds = time.monotonic() - started
        assert done.returncode == expect, f"{words}: status {done.returncode}\n{done.stderr}"
        self.seconds, self.commands, self.errors = (
            self.seconds + seconds,
            self.commands + 1,
            self.errors + (expect == 2),
        )
        said = [line for line in (done.stderr if expect == 2 else done.stdout).splitlines() if line.strip()]
        more = [f"... ({len(said) - MOST_LINES} more lines)"] if len(said) > MOST_LINES else []
        self.lines += [
            "```", f"$ stitchrl {words}    # {seconds:.0f} s, exit status {done.returncode}",
            *said[:MOST_LINES], *more, "```", "",
        ]  # fmt: skip

    def summary(self) -> str:
        refused = f"{self.errors} of them refused in one sentence"
        return f"{self.commands} commands, {refused}, {self.seconds / 60:.1f} minutes of waiting."


def hospital(path: Walk) -> None:
    export(path.folder / "stays.csv", seed=0, patients=1500)
    export(path.folder / "new.csv", seed=1, patients=1200)
    export(path.folder / "fahrenheit.csv", seed=2, patients=300, fahrenheit=True)
    path.say("## A hospital's export")
    path.run("audit stays.csv", expect=2)
    path.say("The sentence names the way out:")
    path.run("schema stays.csv --out stays.toml")
    path.run("schema stays.csv --check stays.toml")
    path.run("audit stays.csv")
    path.run(f"run stays.csv --out run {QUICK}")
    path.say("Half a year later, another export without a schema: it is read by the policy's.")
    path.run("evaluate run new.csv --evaluation-updates 400")
    path.say(
        "Three things that must not pass: the log that it learned from, a log in another unit, and a log without a column."
    )
    path.run("evaluate run stays.csv", expect=2)
    path.run("evaluate run fahrenheit.csv", expect=2)
    text = (path.folder / "new.csv").read_bytes().decode("latin-1").replace("Puls;", "Herzfrequenz;", 1)
    (path.folder / "renamed.csv").write_bytes(text.encode("latin-1"))
    path.run("evaluate run renamed.csv", expect=2)
    path.run("predict run new.csv --out actions.parquet")


def recommender(path: Walk, data: Path) -> None:
    path.say("## A recommender's log")
    (path.folder / "random").symlink_to(data / "open_bandit" / "random")
    path.run("audit random/all.csv")
    path.run(f"run random/all.csv --out run {QUICK} --algorithms BC,FilteredBC")


def robot(path: Walk, data: Path) -> None:
    path.say("## A robot's log")
    for name in ("hopper_medium", "hopper_medium_replay"):
        (path.folder / f"{name}.parquet").symlink_to(data / "mujoco" / f"{name}.parquet")
    path.run("audit hopper_medium.parquet")
    path.run("train hopper_medium.parquet --out bc --algorithm BC --updates 500")
    path.run("evaluate bc hopper_medium.parquet", expect=2)
    path.run("evaluate bc hopper_medium_replay.parquet --evaluation-updates 300 --horizon 200")
    path.run("predict bc hopper_medium_replay.parquet --out actions.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    data, pages = args.data.resolve(), []
    for walk in (hospital, lambda path: recommender(path, data), lambda path: robot(path, data)):
        with tempfile.TemporaryDirectory() as folder:
            path = Walk(Path(folder))
            walk(path)
            path.say(path.summary())
            pages += [line.replace(folder, "FOLDER") for line in path.lines]
            print(path.summary(), flush=True)
    head = ["# A stranger's path", "", describe("python benchmarks/strangers.py"), ""]
    head += [
        "Settings are small (400 updates, one seed), and seconds are of a machine that others use as well. What three "
        "customers of an earlier trial met here: nine commands, six errors and a script of their own from the file to a verdict.",
        "",
    ]
    args.out.write_text("\n".join([*head, *pages]).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
