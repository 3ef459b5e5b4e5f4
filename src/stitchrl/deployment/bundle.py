"""A bundle: a policy with its schema, guard and provenance, in one directory that can be loaded without training code.

Nothing here needs JAX: the policy inside does, or is one of NumPy (`deployment/numpy_policy.py`).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.data.episode_memory import EpisodeMemory
from stitchrl.data.schema import Schema
from stitchrl.deployment.asked import Asked, allowed, answer, given_actions
from stitchrl.deployment.chance import drawn_discretely, draws, generator
from stitchrl.deployment.guard import ANSWER, BEHAVIOR, CLIP, REFUSE, Guard, OnOutside
from stitchrl.deployment.observed import Observed, mask_columns, observed
from stitchrl.deployment.observed_images import observed_images, refusal_of_image
from stitchrl.deployment.outside_range import action_outside, action_range, refusal
from stitchrl.deployment.places import (
    Place,
    beyond_bounds,
    impossible_categories,
    names_of_numbers,
    places_of,
    refuse_impossible,
)
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.messages import listed
from stitchrl.storage.files import make_directory, write_json
from stitchrl.storage.learned_from import EPISODES, write_learned_from
from stitchrl.types import Bool, Float, NumpyArray, Shaped

__all__ = ["BEHAVIOR_FILE", "CARD", "FORMAT_VERSION", "POLICY", "Bundle", "is_numpy", "save_bundle"]

FORMAT_VERSION = 1
POLICY, BEHAVIOR_FILE, CARD = "policy.safetensors", "behavior.safetensors", "policy.json"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Bundle:
    """A policy that is ready for use.

    Its methods take one row or many, and return one result or many. A row is D numbers as in `log.observation`, many rows are
    (B, D); or it is named columns with values as in the file of the log, as a dict, a list of dicts, or a frame of pandas, Polars
    or Arrow, which the rules of the schema turn into numbers. Columns that the policy does not observe are ignored. Where the
    policy sees images a row is one of these, (height, width, channels), whole numbers from 0 to 255 as in the log.

    Rows that the guard does not admit are refused with a `DataError`, unless the guard is set to do something else (`guarded`).

    Attributes:
        policy: the policy, with its scaling.
        schema: the meaning of the columns of the log.
        guard: the ranges of the observations in the training log, and what is done outside them.
        provenance: where the policy comes from and what is known of it: algorithm, seed, log, verdict.
        learned_from: a record of the episodes that it learned from, or was chosen on; None where they are not known, as in
            bundles of the oldest versions.
        behavior: a model of the log's own behaviour, for `guarded("behavior")`; None where there is none.
    """

    policy: Any
    schema: Schema
    guard: Guard
    provenance: dict[str, Any]
    learned_from: EpisodeMemory | None = None
    behavior: Any = None

    def knows(self, log: Dataset) -> Bool[NumpyArray, " E"]:
        """(E,) which episodes of a log equal ones that the policy learned from, in all observations and actions, or share most of
        their rows with them; all False where it is not known what it learned from.

        Where there are few different observations, different episodes may be equal by coincidence. Leaving out the equal ones
        then selects by the actions that were taken, and estimates on the others are biased. `st.evaluate` says where that is so.
        """
        if self.learned_from is None:
            return np.zeros(log.num_episodes, bool)
        return self.learned_from.recognised(log)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def discrete(self) -> bool:
        """Whether its actions are the integers 0, 1, ..."""
        return self.schema.num_actions is not None

    @property
    def has_density(self) -> bool:
        """Whether `log_prob` is a real (log-)probability or density."""
        one_action = not isinstance(self.guard.on_outside, str)
        return bool(self.policy.has_density) and (self.discrete or not one_action)

    @property
    def described(self) -> str:
        """What was done to the policy, and what acts outside the guard's range; "" where there is neither."""
        inner, act = str(getattr(self.policy, "described", "")), self.guard.on_outside
        if act in (REFUSE, ANSWER):
            return inner
        words = {
            CLIP: "guarded by clipping observations to the range of its log",
            BEHAVIOR: "guarded by the behaviour outside the range of its log",
        }
        guarded = words[act] if isinstance(act, str) else f"guarded by action {act} outside the range of its log"
        return f"{inner}{', then ' if inner else ''}{guarded}"

    def __repr__(self) -> str:
        known = self.provenance
        seed = "" if known.get("seed") is None else f" seed {known['seed']}"
        acts = f", {known['acts']}" if known.get("acts") else ""
        actions = f"{self.schema.num_actions} discrete actions" if self.discrete else "continuous actions"
        log = (known.get("log") or {}).get("name")
        parts = [
            f"{known.get('label') or type(self.policy).__name__}{seed}{acts}",
            *([self.described] if self.described else []),
            f"{actions}{f' of the log {log!r}' if log else ''}",
            f"verdict {(known.get('verdict') or {}).get('decision', 'not known')}",
        ]
        return f"Bundle({'; '.join(parts)})"

    def greedy(self) -> Bundle:
        """A bundle whose policy always takes the most probable action of this one; its provenance is still that of this one."""
        return dataclasses.replace(self, policy=self.policy.greedy())

    def clipped(self, low: float | NumpyArray, high: float | NumpyArray) -> Bundle:
        """A bundle whose policy is clipped to [low, high], by `st.ClippedPolicy`; all else is as in this one.

        Raises ConfigurationError where the actions are not normal, or discrete, or the policy is one of NumPy.
        """
        self._refuse_numpy("clipped")
        from stitchrl.nn.clipped import ClippedPolicy  # here, so that acting without JAX needs none

        return dataclasses.replace(self, policy=ClippedPolicy(self.policy, low, high))

    def smoothed(self, std: float | NumpyArray, low: float | NumpyArray, high: float | NumpyArray) -> Bundle:
        """A bundle whose policy has normal noise, by `st.SmoothedPolicy`; all else is as in this one.

        Raises ConfigurationError where actions are discrete, or the policy is one of NumPy.
        """
        self._refuse_numpy("smoothed")
        from stitchrl.nn.smoothed import SmoothedPolicy

        return dataclasses.replace(self, policy=SmoothedPolicy(self.policy, std, low, high))

    def guarded(self, on_outside: Any = REFUSE) -> Bundle:
        """A bundle that does something else with rows that its guard does not admit.

        The bundle returned is another policy with a value of its own: evaluate that one.

        Args:
            on_outside: "refuse": a `DataError`. "clip": act as at the nearest values that are admitted. "behavior": act as the
                model of the log's behaviour does, where the bundle has one. An action, by its number, its name or its numbers:
                take that one. Where a value is missing only an action can be taken; the others refuse.

        Raises:
            ConfigurationError: no such choice or action, or a bundle without a model of the behaviour.
        """
        if on_outside in (REFUSE, CLIP) if isinstance(on_outside, str) else False:
            told: OnOutside = on_outside
        elif isinstance(on_outside, str) and on_outside == BEHAVIOR:
            if self._behavior is None:
                raise ConfigurationError(
                    "This bundle holds no model of the behaviour, which bundles of `stitchrl run` do over discrete actions, and "
                    "over continuous ones where the policy is a rung of a ladder. Let "
                    'its guard refuse, clip, or take a given action: `policy.guarded("clip")`.'
                )
            told = BEHAVIOR
        else:
            told = action_outside(on_outside, self.schema, self._action_size, action_range(self.policy, self.schema))
        return dataclasses.replace(self, guard=dataclasses.replace(self.guard, on_outside=told))

    def unguarded(self) -> Bundle:
        """A bundle that acts on any row, however far from its log: for studying a policy, not for use."""
        return dataclasses.replace(self, guard=dataclasses.replace(self.guard, on_outside=ANSWER))

    # --- what it does --------------------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        *,
        action_mask: Any = None,
        seed: int | np.random.Generator | None = None,
    ) -> tuple[Shaped[NumpyArray, "..."], Any]:
        """The action to take, in the form of `predict` of Stable-Baselines3: (action, state).

        Args:
            observation: one row or many, see the class.
            state: returned unchanged, since this policy has no memory.
            episode_start: not used, for the same reason.
            deterministic: whether to take the preferred action; False draws one. The default of Stable-Baselines3 is False.
            action_mask: the allowed actions, (A,) for one row or (B, A).
            seed: of the draw, as in `sample`.

        Returns:
            The action: one row gives a number () or a vector (action,), many rows (B,) or (B, action); and `state`.

        Raises:
            DataError: a row that cannot be used, or that the guard does not admit.
        """
        del episode_start
        if deterministic:
            return self.mode(observation, action_mask=action_mask), state
        return self.sample(observation, seed=seed, action_mask=action_mask), state

    def probs(self, obs: Any, *, action_mask: Any = None) -> Float[NumpyArray, "..."]:
        """(B, A) probabilities of the actions, (A,) of one row.

        Raises:
            DataError: the actions are continuous, or as `predict`.
        """
        if not self.discrete:
            raise DataError("Continuous actions have no probabilities: use `sample`, `mode` or `log_prob`.")
        asked = self._asked(obs, action_mask)
        return answer(self._probs(asked), asked)

    def log_prob(self, obs: Any, action: Any, *, action_mask: Any = None) -> Float[NumpyArray, "..."]:
        """(B,) log-probabilities, or log-densities, of the given actions; () of one row.

        Raises:
            DataError: there is no density, actions that are none, or as `predict`.
        """
        if not self.has_density:
            raise DataError("The policy has no density of its actions (`has_density` is False): use `predict`.")
        asked = self._asked(obs, action_mask)
        given = given_actions(action, asked, self.schema, self._action_size)
        if asked.outside is None:
            found = np.asarray(self.policy.log_prob(asked.rows, given, action_mask=asked.action_mask))
        elif self.discrete:
            with np.errstate(divide="ignore"):
                found = np.log(np.take_along_axis(self._probs(asked), given[:, None], 1)[:, 0])
        else:
            inside, other = (np.asarray(one.log_prob(asked.rows, given)) for one in (self.policy, self._behavior))
            found = np.where(asked.outside, other, inside)
        return answer(found, asked)

    def mode(self, obs: Any, *, action_mask: Any = None) -> Shaped[NumpyArray, "..."]:
        """(B,) the most probable allowed action of each row; (B, action) where actions are continuous. Raises as `predict`."""
        asked = self._asked(obs, action_mask)
        if self.discrete and asked.outside is not None:
            return answer(self._probs(asked).argmax(1), asked)
        found = np.asarray(self.policy.mode(asked.rows, action_mask=asked.action_mask))
        if self.discrete:
            return answer(found.astype(np.int64), asked)
        return answer(self._or_else(found, asked, lambda policy: policy.mode(asked.rows)), asked)

    def sample(
        self,
        obs: Any,
        *,
        seed: int | np.random.Generator | None = None,
        key: Any = None,
        action_mask: Any = None,
    ) -> Shaped[NumpyArray, "..."]:
        """(B,) an action drawn for each row; (B, action) where actions are continuous.

        Args:
            obs: one row or many, see the class.
            seed: an int, which gives the same draws each time; a NumPy generator to draw from; None: other draws each time.
            key: a JAX key instead of a seed.
            action_mask: as in `predict`.

        Raises:
            DataError: as `predict`.
            ConfigurationError: `seed` and `key` together.
        """
        if seed is not None and key is not None:
            raise ConfigurationError("Draws take a `seed` or a `key` of JAX; both were given. Leave one of them out.")
        asked = self._asked(obs, action_mask)
        if self.discrete and (key is None or asked.outside is not None):
            return answer(drawn_discretely(self._probs(asked), generator(seed, key)), asked)
        rng = key if key is not None else generator(seed)
        found = draws(self.policy, asked.rows, asked.action_mask, rng)
        if self.discrete:
            return answer(found.astype(np.int64), asked)
        return answer(self._or_else(found, asked, lambda policy: draws(policy, asked.rows, None, rng)), asked)

    def _refuse_numpy(self, done: str) -> None:
        if is_numpy(self.policy):
            raise ConfigurationError(
                f"A policy of NumPy cannot be {done}: load the bundle with JAX, "
                '`st.load_policy(folder, backend="jax")`.'
            )

    # --- inside ----------------------------------------------------------------------------------------------------------

    @property
    def _behavior(self) -> Any:
        """The model of the behaviour that the bundle holds, perhaps as a part of its policy."""
        if self.behavior is not None:
            return self.behavior
        policy = self.policy
        while type(policy).__name__ in ("GreedyPolicy", "NumpyGreedyPolicy", "RescaledPolicy", "NumpyRescaledPolicy"):
            policy = policy.policy
        return getattr(policy, "behavior", None)

    @cached_property
    def _action_size(self) -> int:
        """How many numbers a continuous action has."""
        if self.discrete:
            return 1
        return int(np.asarray(self.policy.mode(self.guard.low[None])).shape[1])

    def _asked(self, obs: Any, action_mask: Any) -> Asked:
        """The rows as numbers, and where something else acts than the policy. Raises DataError as `predict`."""
        told = self.guard.on_outside
        if self._sees_images:
            given = observed_images(obs, self.guard)
        else:
            given = observed(obs, self.schema, len(self.guard.low), gaps=not isinstance(told, str))
        rows, single = given.rows, given.single
        mask = self._mask(given, action_mask)
        if told == ANSWER:
            return Asked(rows, mask, None, single)
        if told == REFUSE and self._bounded and (error := beyond_bounds(rows, self._bounded)) is not None:
            raise error
        inside = self.guard.inside(rows)
        # From named columns the numbers of categories are always right; numbers given directly may be no category.
        odd = None if given.named or not self._categories else impossible_categories(rows, self._categories)
        if odd is None and inside.all():
            return Asked(rows, mask, None, single)
        unknown = ~inside if told == REFUSE else ~np.isfinite(rows)
        if isinstance(told, str) and unknown.any() and self._sees_images:
            raise refusal_of_image(rows, unknown, self.guard)
        if isinstance(told, str) and unknown.any():
            raise refusal(rows, unknown, self.guard, names_of_numbers(self.schema, rows.shape[1]))
        if isinstance(told, str) and odd is not None:
            raise refuse_impossible(rows, odd, self._categories)
        clipped = self.guard.clipped(np.nan_to_num(rows))
        if told == CLIP:
            return Asked(clipped, mask, None, single)
        asked = rows if told == BEHAVIOR else clipped  # where the guard gives an action, these rows do not matter
        outside: NumpyArray = np.logical_not(inside.all(axis=tuple(range(1, inside.ndim))))
        return Asked(asked, mask, outside if odd is None else outside | odd.any(1), single)

    def _mask(self, given: Observed, action_mask: Any) -> NumpyArray | None:
        """The mask that the caller gave, or else the one among the named columns. Raises DataError where neither is there."""
        count, columns = len(given.rows), mask_columns(self.schema)
        if action_mask is not None:
            return allowed(action_mask, self.schema, count, single=given.single)
        if given.mask is None:
            if columns and count:
                raise DataError(
                    f"The policy learned which actions are allowed from the column{'s' if len(columns) > 1 else ''} "
                    f"{listed(columns)}, and the input has neither these nor `action_mask`. Give one of them; a mask is True "
                    "everywhere if every action is allowed."
                )
            return None
        unknown = np.isnan(given.mask).any(1)
        if unknown.any():
            raise DataError(
                f"The action mask in the columns {listed(columns)} must be true or false (or 1 and 0); in row "
                f"{int(np.argmax(unknown))} it is not. Correct it, or give `action_mask`."
            )
        return allowed(given.mask, self.schema, count, single=False)

    @property
    def _sees_images(self) -> bool:
        """Whether an observation is an image."""
        return self.guard.low.ndim == 3

    @cached_property
    def _bounded(self) -> tuple[Place, ...]:
        """The columns whose values the schema bounds."""
        if self._sees_images:
            return ()
        return tuple(
            one for one in places_of(self.schema, len(self.guard.low)) if {one.rule.low, one.rule.high} != {None}
        )

    @cached_property
    def _categories(self) -> tuple[Place, ...]:
        """The columns of categories."""
        if self._sees_images:
            return ()
        return tuple(one for one in places_of(self.schema, len(self.guard.low)) if one.rule.categories is not None)

    def _probs(self, asked: Asked) -> NumpyArray:
        probs = np.asarray(self.policy.probs(asked.rows, action_mask=asked.action_mask))
        if asked.outside is None:
            return probs
        if self.guard.on_outside == BEHAVIOR:
            other = np.asarray(self._behavior.probs(asked.rows, action_mask=asked.action_mask))
        else:
            action = self.guard.on_outside
            assert isinstance(action, int)
            other = np.zeros_like(probs)
            other[:, action] = 1
            if asked.action_mask is not None and not asked.action_mask[asked.outside, action].all():
                raise DataError(
                    f"The guard takes action {action} outside the range of the policy's log, and `action_mask` "
                    "forbids it in some such row. Give the guard an action that is always allowed."
                )
        return np.where(asked.outside[:, None], other, probs)

    def _or_else(self, found: NumpyArray, asked: Asked, act: Any) -> NumpyArray:
        """Continuous actions of the policy, replaced by those of the behaviour, or by the guard's action, outside its range."""
        if asked.outside is None:
            return found
        told = self.guard.on_outside
        other = act(self._behavior) if told == BEHAVIOR else np.asarray(told, found.dtype)
        return np.where(asked.outside[:, None], other, found)


def save_bundle(folder: Path, bundle: Bundle) -> None:
    """Write a bundle: the files of tensors first, then policy.json, which marks it as complete. `docs/bundle.md` describes them.

    A bundle that was there stays unchanged until all files of the new one are written. Then the old policy.json is removed first
    and the new one put there last, so that a mixture is never taken for a bundle. Files that the new bundle lacks are removed.

    Raises:
        ConfigurationError: the policy is one of NumPy, which are read and not written.
    """
    from stitchrl.nn.saving import save_policy_file

    if is_numpy(bundle.policy):
        raise ConfigurationError(
            'A policy of NumPy is not written: load the bundle with `backend="jax"`, or copy its folder.'
        )
    card = {
        "format": FORMAT_VERSION,
        "schema": bundle.schema.to_dict(),
        "guard": bundle.guard.to_dict(),
        "provenance": bundle.provenance,
    }
    make_directory(folder)
    beside = folder / f".{os.getpid()}.part"
    try:
        make_directory(beside)
        save_policy_file(beside / POLICY, bundle.policy)
        if bundle.behavior is not None:
            save_policy_file(beside / BEHAVIOR_FILE, bundle.behavior)
        if bundle.learned_from is not None:
            write_learned_from(beside, bundle.learned_from.arrays())
        write_json(beside / CARD, card)
        (folder / CARD).unlink(missing_ok=True)
        for name in (POLICY, BEHAVIOR_FILE, EPISODES, CARD):
            if (beside / name).exists():
                os.replace(beside / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def is_numpy(policy: Any) -> bool:
    """Whether a policy is computed with NumPy alone."""
    return type(policy).__module__.startswith("stitchrl.deployment.numpy_")
