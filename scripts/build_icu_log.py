"""Build the embedded hospital log and its world from the files of ICU-Sepsis (Choudhary et al. 2024, MIT).

    python scripts/build_icu_log.py DYNAMICS.npz          # the world and the log the package ships
    python scripts/build_icu_log.py --stays 200 --seed 1 --out small.parquet
    python scripts/build_icu_log.py --survival-reward 1 --death-reward -100 --out wide.parquet --wide

The same command gives the same content hash. Without DYNAMICS.npz the world the package ships is used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from stitchrl.mdp import icu_sepsis


def build_world(dynamics: Path, out: Path) -> None:
    """Keep what the product uses: transitions, first states, clinicians, features, severity; rewards are implied."""
    with np.load(dynamics, allow_pickle=False) as arrays:
        reward = arrays["r_mat"]
        live = slice(0, icu_sepsis.DEATH)
        expected = np.arange(reward.shape[2]) == icu_sepsis.SURVIVAL
        if not (reward[live] == expected).all():
            raise SystemExit("The reward of this world is not 1 on survival; the log's reward would be wrong.")
        np.savez_compressed(
            out,
            transition=arrays["tx_mat"],
            initial=arrays["d_0"],
            clinicians=arrays["expert_policy"],
            features=arrays["state_cluster_centers"].astype(np.float32),
            sofa=arrays["sofa_scores"],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dynamics", type=Path, nargs="?", help="dynamics.npz of ICU-Sepsis 2.0.1; rebuilds the world")
    parser.add_argument("--stays", type=int, default=icu_sepsis.NUM_STAYS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--survival-reward", type=float, default=1.0)
    parser.add_argument("--death-reward", type=float, default=0.0)
    parser.add_argument("--wide", action="store_true", help="write the self-contained table, features in every row")
    parser.add_argument("--out", type=Path, default=icu_sepsis.FOLDER / "stays.parquet")
    args = parser.parse_args()
    if args.dynamics is not None:
        build_world(args.dynamics, icu_sepsis.FOLDER / "icu_sepsis.npz")
    table = icu_sepsis.compact_table(icu_sepsis.draw_log(args.stays, seed=args.seed))
    log = icu_sepsis.demo_log(table, survival_reward=args.survival_reward, death_reward=args.death_reward)
    pq.write_table(
        icu_sepsis.log_table(log) if args.wide else table, args.out, compression="zstd", compression_level=19
    )
    print(
        f"{args.out}: {log.num_episodes:,} stays, {log.num_transitions:,} transitions, content hash {log.content_hash}"
    )


if __name__ == "__main__":
    main()
