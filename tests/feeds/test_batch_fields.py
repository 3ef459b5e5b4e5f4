"""The fields of a batch, against the columns of the log they are of."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from worlds import random_log

from stitchrl.data.scaling import Scaling
from stitchrl.feeds.batches import sample_transitions
from stitchrl.feeds.feed import transition_source


def test_batches_hold_what_the_log_says() -> None:
    log = random_log(40)
    source = transition_source(log, Scaling.identity(3, reward_scale=0.5))
    index = jnp.asarray([0, 5, 33, 2], jnp.int32)
    rows = np.asarray(index)
    batch = sample_transitions(source.arrays, index, jnp.int32(0))
    np.testing.assert_array_equal(batch["obs"], log.observation[rows])
    np.testing.assert_array_equal(batch["next_obs"], log.next_observation[rows])
    np.testing.assert_array_equal(batch["reward"], log.reward[rows] * np.float32(0.5))
    for name in ("action", "action_mask", "next_action_mask"):
        np.testing.assert_array_equal(batch[name], getattr(log, name)[rows], err_msg=name)
    for name, column in (
        ("terminated", "terminated"),
        ("truncated", "truncated"),
        ("td_weight", "can_bootstrap"),
    ):
        np.testing.assert_array_equal(batch[name], getattr(log, column)[rows].astype(np.float32), err_msg=name)
    np.testing.assert_array_equal(batch["row"], rows)
    assert source.count == log.num_transitions


def test_a_log_without_masks_allows_everything() -> None:
    source = transition_source(random_log(12, with_masks=False), Scaling.identity(3))
    batch = sample_transitions(source.arrays, jnp.arange(5), jnp.int32(0))
    assert batch["action_mask"].shape == (5, 3)
    assert np.asarray(batch["action_mask"]).all()
    assert np.asarray(batch["next_action_mask"]).all()
