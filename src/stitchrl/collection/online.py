"""Learning while acting: the program of the training loop, fed from a replay of what the learner itself does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv

from stitchrl.algorithms.base import Algorithm, ArraySpec, BoxAction, DiscreteAction, Spec
from stitchrl.collection.acting import Actor, Space, Steps, Uniform, steps_of
from stitchrl.feeds.replay import Replay
from stitchrl.nn.policy import Policy
from stitchrl.training.program import initial_state, program_of

__all__ = ["Snapshot", "learn_online"]

IMAGE_BYTES = 2**30
"""What the images of a replay may take together."""


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """The learner after so many steps of the environment.

    Attributes:
        steps: of the environment.
        policy: of the learner, as trained.
        played: what was done since the last snapshot, oldest first.
    """

    steps: int
    policy: Policy
    played: list[Steps]


def learn_online(
    algorithm: Algorithm,
    env: SyncVectorEnv,
    space: Space,
    acting: Callable[[Policy, float], Actor],
    *,
    steps: int,
    seed: int,
    snapshot_every: int,
    warmup: int = 1_000,
    batch_size: int = 128,
    capacity: int = 100_000,
    updates_at_once: int = 64,
) -> Iterator[Snapshot]:
    """Act and learn, one update for every step of the environment after a warm-up of uniform actions.

    Args:
        algorithm: learns from the replay; it must need no preparation by a log.
        env: copies of the environment.
        space: its spaces.
        acting: (policy, share of the steps done) -> who decides; the policy is that of the last update.
        steps: of the environment, over all copies.
        seed: of the environment, the actions, the networks and the batches.
        snapshot_every: steps between snapshots; the last one is at the end.
        warmup: steps before the first update.
        batch_size: transitions of an update.
        capacity: transitions of the replay, fewer where they hold large images.
        updates_at_once: updates in one call of the program.
    """
    action = BoxAction(len(space.low)) if space.num_actions is None else DiscreteAction((space.num_actions,))
    observed = space.observations
    spec = Spec(ArraySpec(observed.shape, observed.dtype), action)
    most = max(IMAGE_BYTES // (2 * int(np.prod(observed.shape))), batch_size) if observed.image else capacity
    replay = Replay(min(capacity, steps, most), space.num_actions)
    program = program_of([algorithm], [seed], replay.draw, batch_size, updates=steps, log_every_updates=updates_at_once)
    placed = program.place(initial_state(algorithm, spec, [seed]))
    policy = algorithm.policy(program.member(placed, 0).algorithm, None)
    decides: list[Actor] = [Uniform(space)]
    done, updates, last, played = 0, 0, 0, list[Steps]()
    try:
        for made in steps_of(env, space, lambda: decides[0], seed=seed, purpose="learning"):
            replay.add(_transitions(made))
            played.append(made)
            done += len(made.reward)
            if done >= warmup and done - warmup - updates >= updates_at_once:
                placed, fetch = program.start(placed, replay.arrays, [(updates, updates + updates_at_once)])
                fetch()
                updates += updates_at_once
                policy = algorithm.policy(program.member(placed, 0).algorithm, None)
                decides[0] = acting(policy, done / steps)
            if done - last >= snapshot_every or done >= steps:
                yield Snapshot(done, policy, played)
                last, played = done, []
            if done >= steps:
                return
    finally:
        program.close()


def _transitions(made: Steps) -> dict[str, Any]:
    """The columns that a replay holds."""
    return {
        "obs": made.obs,
        "action": made.action,
        "reward": made.reward,
        "next_obs": made.next_obs,
        "terminated": made.terminated,
    }
