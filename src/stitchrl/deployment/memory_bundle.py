"""A bundle whose policy remembers its episode: it acts step by step, and hands back what it remembers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from stitchrl.deployment.asked import Asked, answer, given_actions
from stitchrl.deployment.bundle import Bundle, is_numpy
from stitchrl.deployment.chance import drawn_discretely, generator
from stitchrl.deployment.guard import CLIP, REFUSE
from stitchrl.deployment.stepping import beginning, begun_anew, stepped
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.messages import shown
from stitchrl.types import Int, NumpyArray, Shaped

__all__ = ["EpisodeState", "MemoryBundle"]

STEP_BY_STEP = (
    "The policy remembers its episode, so that an observation alone does not say what it does. Ask it step by step: "
    "`action, state = policy.predict(observation, state)`, with `state=None` at the start of an episode."
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class EpisodeState:
    """What a policy remembers of B episodes that go on side by side; it holds NumPy arrays alone, and can be stored.

    Attributes:
        carry: what the policy inside remembers.
        last_action: (B,) or (B, action) what `predict` answered last.
        steps: (B,) how many steps there were so far.
        of: tells the policy that it belongs to from others.
    """

    carry: Any
    last_action: Shaped[NumpyArray, "B ..."]
    steps: Int[NumpyArray, " B"]
    of: str

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        steps = sorted({int(self.steps.min()), int(self.steps.max())}) if len(self) else [0]
        return (
            f"EpisodeState({len(self)} episode{'s' * (len(self) != 1)}, steps so far: {' to '.join(map(str, steps))})"
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MemoryBundle(Bundle):
    """A policy that remembers its episode, ready for use; attributes and the forms of a row are those of `Bundle`.

    It acts by `predict` alone, which takes and gives back what is remembered, as recurrent policies of Stable-Baselines3 do. Its
    guard refuses, or clips: where something else acted, the policy would remember an observation that never was.
    """

    has_memory = True

    @property
    def uses_reward(self) -> bool:
        """Whether the policy must be told what each step paid."""
        return bool(self.policy.uses_reward)

    @property
    def has_density(self) -> bool:
        """Whether the probability of an action given its history is known."""
        return bool(self.policy.has_density)

    def guarded(self, on_outside: Any = REFUSE) -> MemoryBundle:
        """A bundle that does something else with rows that its guard does not admit: "refuse", or "clip".

        Raises:
            ConfigurationError: anything else.
        """
        if not (isinstance(on_outside, str) and on_outside in (REFUSE, CLIP)):
            raise ConfigurationError(
                f'The guard of a policy that remembers its episode must "refuse" or "clip"; got {shown(on_outside)}. Where an '
                "observation is unknown, act by other means, and begin anew with `episode_start=True` when it is known again."
            )
        return dataclasses.replace(self, guard=dataclasses.replace(self.guard, on_outside=on_outside))

    def towards(self, target_return: float) -> MemoryBundle:
        """A bundle whose policy acts towards another return, the sum of rewards to reach, in units of the log.

        Raises:
            ConfigurationError: the policy acts towards no return, or is one of NumPy.
        """
        self._refuse_numpy("told another return")
        from stitchrl.nn.memory import policy_towards

        return dataclasses.replace(self, policy=policy_towards(self.policy, target_return))

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        *,
        last_action: Any = None,
        last_reward: Any = None,
        action_mask: Any = None,
        seed: int | np.random.Generator | None = None,
    ) -> tuple[Shaped[NumpyArray, "..."], EpisodeState]:
        """The action to take, and what is remembered after it, to be given back at the next step: (action, state).

        Args:
            observation: one row, or a row for each of B episodes, as `Bundle.predict` takes them.
            state: what the step before gave back; None begins the episodes.
            episode_start: True where an episode begins at this step, for one row a bool, else (B,). With `state=None` all do.
            deterministic: whether to take the preferred action; False draws one.
            last_action: what was done in the step before where that is not what `predict` answered, () or (B,), vectors
                (action,) or (B, action); ignored where an episode begins.
            last_reward: what the step before paid, () or (B,); ignored where an episode begins. Only policies with `uses_reward`
                need it.
            action_mask: the allowed actions, (A,) for one row or (B, A).
            seed: of the draw, an int or a NumPy generator.

        Raises:
            DataError: a row that cannot be used, or that the guard does not admit; a state of another number of episodes; a
                reward that is missing.
        """
        asked = self._asked(observation, action_mask)
        held, last, paid = self._before(asked, state, episode_start, last_action, last_reward)
        rng = None if deterministic else generator(seed)
        found, carry = stepped(self.policy, held.carry, asked.rows, last, paid, rng=rng, action_mask=asked.action_mask)
        if self.discrete:
            found = (found.argmax(1) if rng is None else drawn_discretely(found, rng)).astype(np.int64)
        # A copy is given out, so that what is done to it does not change what is remembered.
        return answer(found.copy(), asked), EpisodeState(carry, found, held.steps + 1, self._fingerprint)

    def _before(
        self, asked: Asked, state: Any, episode_start: Any, last_action: Any, last_reward: Any
    ) -> tuple[EpisodeState, NumpyArray, NumpyArray]:
        """What is remembered, done and paid before this step, checked. Raises DataError as `predict`."""
        count = len(asked.rows)
        starts = _bools(episode_start, count)
        if state is None:
            held = self._fresh(count)
        else:
            self._check_state(state, count)
            held = self._begun_anew(state, starts) if starts.any() else state
        begins = held.steps == 0
        last = held.last_action
        if last_action is not None:
            given = _where_known(last_action, begins, held.last_action)
            last = given_actions(given, asked, self.schema, self._action_size, called="last_action")
        if last_reward is None and self.uses_reward and not begins.all():
            raise DataError(
                "The policy acts by the rewards so far, and `last_reward` is missing: give what the step before paid, in the "
                "units of the log."
            )
        return held, last, np.zeros(count) if last_reward is None else _rewards(last_reward, begins)

    def _check_state(self, state: Any, count: int) -> None:
        """Raise DataError unless a state is of this policy, and of so many episodes."""
        if not isinstance(state, EpisodeState):
            raise DataError(
                f"`state` must be what the step before gave back, or None where the episodes begin; got {shown(state)}."
            )
        if state.of != self._fingerprint:
            raise DataError(
                "`state` is of another policy, or of this one with another `backend`. Begin the episodes anew with `state=None`, "
                "or let them end with the policy that began them."
            )
        if len(state) != count:
            raise DataError(
                f"`state` is of {len(state)} episodes, and the observation has {count} rows. Give a row for each episode, in the "
                "order of the step before."
            )

    def _fresh(self, count: int) -> EpisodeState:
        shape = self.policy.action_shape
        nothing = np.zeros((count, *shape), np.float32 if shape else np.int64)
        return EpisodeState(beginning(self.policy, count), nothing, np.zeros(count, np.int64), self._fingerprint)

    def _begun_anew(self, state: EpisodeState, begins: NumpyArray) -> EpisodeState:
        carry = begun_anew(self.policy, state.carry, begins)
        return dataclasses.replace(state, carry=carry, steps=np.where(begins, 0, state.steps))

    @cached_property
    def _fingerprint(self) -> str:
        """A few letters that differ between policies, and between what computes them."""
        known = {"backend": is_numpy(self.policy), "from": self.provenance, "guard": self.guard.to_dict()["low"]}
        return hashlib.blake2b(json.dumps(known, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()

    @property
    def _action_size(self) -> int:
        """How many numbers a continuous action has."""
        shape: tuple[int, ...] = self.policy.action_shape
        return shape[0] if shape else 1

    # --- what a policy without memory answers, and this one cannot ------------------------------------------------------

    def probs(self, obs: Any, *, action_mask: Any = None) -> NoReturn:
        """Raises DataError: an observation alone does not say what came before it."""
        raise DataError(STEP_BY_STEP)

    def log_prob(self, obs: Any, action: Any, *, action_mask: Any = None) -> NoReturn:
        """Raises DataError, as `probs`."""
        raise DataError(STEP_BY_STEP)

    def mode(self, obs: Any, *, action_mask: Any = None) -> NoReturn:
        """Raises DataError, as `probs`."""
        raise DataError(STEP_BY_STEP)

    def sample(self, obs: Any, *, seed: Any = None, key: Any = None, action_mask: Any = None) -> NoReturn:
        """Raises DataError, as `probs`."""
        raise DataError(STEP_BY_STEP)

    def clipped(self, low: Any, high: Any) -> NoReturn:
        """Raises ConfigurationError: only policies without memory are clipped."""
        raise ConfigurationError("A policy that remembers its episode cannot be clipped.")

    def smoothed(self, std: Any, low: Any, high: Any) -> NoReturn:
        """Raises ConfigurationError: only policies without memory are smoothed."""
        raise ConfigurationError("A policy that remembers its episode cannot be smoothed.")


def _bools(episode_start: Any, count: int) -> NumpyArray:
    """(B,) where episodes begin. Raises DataError for anything else than booleans, one an episode."""
    if episode_start is None:
        return np.zeros(count, bool)
    found = np.asarray(episode_start)
    found = found[None] if found.ndim == 0 else found
    if found.shape != (count,) or found.dtype.kind not in "biu" or not np.isin(found, (0, 1)).all():
        raise DataError(
            f"`episode_start` must be True or False for each of the {count} episodes; got {shown(episode_start)}."
        )
    return found.astype(bool)


def _where_known(given: Any, begins: NumpyArray, nothing: NumpyArray) -> Any:
    """What a caller gave, with what is ignored, since an episode begins, replaced by what is valid; as it is where it is odd."""
    try:
        found = np.array(given)
    except (TypeError, ValueError):
        return given
    if found.shape == nothing.shape and begins.any() and found.dtype.kind in "biuf":
        found[begins] = 0
    return found if found.dtype.kind in "biuf" and not np.ma.is_masked(given) else given


def _rewards(last_reward: Any, begins: NumpyArray) -> NumpyArray:
    """(B,) rewards, 0 where an episode begins. Raises DataError for anything else than finite numbers, one an episode."""
    count = len(begins)
    try:
        found = np.asarray(last_reward, np.float64)
    except (TypeError, ValueError):
        raise DataError(f"`last_reward` must be a number for each episode; got {shown(last_reward)}.") from None
    found = found[None] if found.ndim == 0 else found
    if found.shape == (count,):
        found = np.where(begins, 0.0, found)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise DataError(
            f"`last_reward` must be one finite number for each of the {count} episodes; got {shown(last_reward)}."
        )
    return found
