"""The fixed rows of a log on which a probe measures a run while it learns, in the units of its batches."""

from __future__ import annotations

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.feeds.batches import fields_of, mask_shared_by_all
from stitchrl.types import NumpyArray

__all__ = ["probed_rows"]


def probed_rows(log: Dataset, scaling: Scaling, count: int, *, seed: int = 0) -> dict[str, NumpyArray]:
    """Up to `count` rows drawn without replacement, as a batch of transitions.

    Rows whose target cannot be computed (the log was cut there and what followed is unknown) are drawn only where there
    are no others.

    Args:
        log: where the rows are from.
        scaling: the units of batches.
        count: rows, at least 1.
        seed: of the draw.
    """
    known = np.flatnonzero(log.can_bootstrap)
    among = known if len(known) else np.arange(log.num_transitions)
    rows = np.sort(np.random.default_rng(seed).choice(among, min(count, len(among)), replace=False))
    after = np.maximum(log.next_observation_index[rows], 0)
    batch = {
        "obs": scaling.observations(log.observation_table[log.observation_index[rows]]),
        "next_obs": scaling.observations(log.observation_table[after]),
    }
    batch |= {name: field.read(log, scaling, rows) for name, field in fields_of(log).items()}
    batch |= {name: np.repeat(mask, len(rows), axis=0) for name, mask in mask_shared_by_all(log).items()}
    return batch
