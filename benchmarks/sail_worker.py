"""sail-leakage on logs that `treatment_leaks.py` wrote, in a process of its own: reads a folder, prints JSON.

    python sail_worker.py FOLDER

Each case is NAME.csv and NAME.json, which holds the arguments of `sail.check`. A scoring function is told as the column that
holds the score ("column"), or as "own" and "dose" with a "weight" where its formula is known.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import sail


def scoring(told: dict[str, Any]) -> Any:
    """The scoring function that a case names."""
    if "column" in told:
        return lambda row: row[told["column"]]
    return lambda row: row[told["own"]] + told["weight"] * row[told["dose"]]


def main() -> None:
    found = {}
    for path in sorted(Path(sys.argv[1]).glob("*.json")):
        given = json.loads(path.read_text())
        frame = pd.read_csv(path.with_suffix(".csv"))
        if "construction_spec" in given:
            given["construction_spec"]["scoring_fn"] = scoring(given["construction_spec"].pop("scoring"))
        report = sail.check(frame, **given)
        found[path.stem] = {finding.category: finding.flagged for finding in report.findings}
    print(json.dumps({"version": importlib.metadata.version("sail-leakage"), "found": found}))


if __name__ == "__main__":
    main()
