"""Preferences in a finite world, by a judge whose law is known exactly."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from stitchrl.data.dataset import Dataset
from stitchrl.data.preferences import Preferences
from stitchrl.data.schema import Schema
from stitchrl.errors import ConfigurationError
from stitchrl.mdp.finite import FiniteEpisodes, FiniteMDP
from stitchrl.reading.read import read
from stitchrl.types import NumpyArray

__all__ = ["draw_preferences", "every_preference"]


def draw_preferences(
    mdp: FiniteMDP,
    probs: Float[NumpyArray, "S A"],
    pairs: int,
    *,
    seed: int,
    length: int | None = 1,
    values: Float[NumpyArray, "S A"] | None = None,
    gamma: float = 1.0,
    inverse_temperature: float = 1.0,
    observations: Float[NumpyArray, "S D"] | None = None,
) -> Preferences:
    """Draw pairs of segments under a policy, and have each judged by a Bradley-Terry judge.

    The judge prefers w to l with probability sigma(inverse_temperature (u_w - u_l)), where u is the discounted sum over the
    steps of a segment of the rewards received, or of `values`. Both segments of a pair start in the same state.

    Args:
        mdp: the world.
        probs: (S, A) the policy that both segments are drawn from; it is logged.
        pairs: how many, at least 1.
        seed: of all draws.
        length: steps of a segment, at least 1, fewer where its episode ends; the states that pairs start in are those that the
            policy visits, as often as it visits them. None draws whole episodes, of at most 1,000 steps, from their start.
        values: (S, A) what the judge takes an action to be worth, such as its advantage; None is the reward received.
        gamma: discount of the sum, in [0, 1].
        inverse_temperature: how sure the judge is, finite and at least 0; at 0 both segments are preferred equally often.
        observations: what is seen of each state; by default 1 at the number of the state and 0 elsewhere.

    Raises:
        ConfigurationError: a number outside its range.
    """
    if pairs < 1 or (length is not None and length < 1) or not 0 <= gamma <= 1:
        raise ConfigurationError(
            "`pairs` and `length` of draw_preferences must be at least 1 and `gamma` in [0, 1]; got "
            f"{pairs}, {length} and {gamma}."
        )
    _check_judge(mdp, values, inverse_temperature)
    # Separate streams of random numbers: which visits are taken must not depend on how the visits were drawn.
    seeds = [int(one) for one in np.random.SeedSequence(seed).generate_state(4)]
    walk_seed, judge_seed, visit_seed, rng = seeds[1], seeds[2], seeds[3], np.random.default_rng(seeds[0])
    if length is None:
        starts = rng.choice(mdp.num_states, pairs, p=mdp.initial)
    else:
        starts = rng.choice(mdp.draw(probs, pairs, seed=visit_seed).state, pairs)
    twice = np.repeat(starts, 2)
    drawn = mdp.draw(probs, 2 * pairs, seed=walk_seed, max_steps=length or 1000, starts=twice)
    worth = drawn.reward if values is None else values[drawn.state, drawn.action]
    utility = np.bincount(drawn.episode, worth * gamma**drawn.step, minlength=2 * pairs).reshape(pairs, 2)
    sure = _sigmoid(inverse_temperature * (utility[:, 0] - utility[:, 1]))
    second = (np.random.default_rng(judge_seed).random(pairs) >= sure).astype(np.int64)
    first = 2 * np.arange(pairs)
    return Preferences(_log_of(mdp, probs, drawn, gamma, observations), first + second, first + 1 - second)


def every_preference(
    mdp: FiniteMDP,
    probs: Float[NumpyArray, "S A"],
    values: Float[NumpyArray, "S A"],
    *,
    inverse_temperature: float = 1.0,
    observations: Float[NumpyArray, "S D"] | None = None,
) -> Preferences:
    """The limit of infinitely many pairs of single actions: every pair, both ways round, weighted by its frequency.

    Every state that is not terminal is equally frequent, and two different actions a and b are drawn from `probs` there; the
    weight of "a rather than b" is probs[a] probs[b] sigma(inverse_temperature (values[a] - values[b])). Actions that the policy
    never takes are in no pair.

    Args:
        mdp: the world.
        probs, values, inverse_temperature, observations: as for `draw_preferences`.

    Raises:
        ConfigurationError: a number outside its range.
    """
    _check_judge(mdp, values, inverse_temperature)
    taken = (probs > 0) & ~mdp.terminal[:, None]
    state, action = np.nonzero(taken)
    none, no = np.zeros(len(state)), np.zeros(len(state), bool)
    each = FiniteEpisodes(np.arange(len(state)), none.astype(int), state, action, none, state, no, ~no)
    log = _log_of(mdp, probs, each, 1.0, observations, what_followed=False)
    number = np.cumsum(taken).reshape(taken.shape) - 1  # of each action among the segments
    at, one, other = np.nonzero(taken[:, :, None] & taken[:, None, :] & ~np.eye(mdp.num_actions, dtype=bool))
    preferred, rejected = number[at, one], number[at, other]
    own, worth = probs[state, action], values[state, action]
    sure = _sigmoid(inverse_temperature * (worth[preferred] - worth[rejected]))
    return Preferences(log, preferred, rejected, own[preferred] * own[rejected] * sure)


def _check_judge(mdp: FiniteMDP, values: Float[NumpyArray, "S A"] | None, inverse_temperature: float) -> None:
    """Raise ConfigurationError for values or an inverse temperature that a judge cannot use."""
    if not 0 <= inverse_temperature < np.inf:
        raise ConfigurationError(
            f"`inverse_temperature` of a judge must be finite and at least 0; got {inverse_temperature}. At 0 the judge decides "
            "by chance, and with a large number hardly ever errs."
        )
    if values is not None and (values.shape != (mdp.num_states, mdp.num_actions) or not np.isfinite(values).all()):
        raise ConfigurationError(
            f"`values` of a judge must be one finite number for each of the {mdp.num_states} states and {mdp.num_actions} "
            f"actions; got shape {values.shape}, of which {int((~np.isfinite(values)).sum())} are not finite."
        )


def _sigmoid(x: Float[NumpyArray, " n"]) -> Float[NumpyArray, " n"]:
    return np.exp(-np.logaddexp(0.0, -x))


def _log_of(
    mdp: FiniteMDP,
    probs: Float[NumpyArray, "S A"],
    drawn: FiniteEpisodes,
    gamma: float,
    observations: Float[NumpyArray, "S D"] | None,
    *,
    what_followed: bool = True,
) -> Dataset:
    """Segments as a log, with the probabilities of the policy that made them, and next observations if `what_followed`."""
    seen = np.eye(mdp.num_states) if observations is None else observations
    columns = {
        "episode": drawn.episode,
        "step": drawn.step,
        "observation": seen[drawn.state].astype(np.float32),
        "observation_id": drawn.state,
        "action": drawn.action,
        "reward": drawn.reward.astype(np.float32),
        "terminated": drawn.terminated,
        "truncated": drawn.truncated,
        "behavior_probs": probs[drawn.state].astype(np.float32),
        "behavior_log_prob": np.log(probs[drawn.state, drawn.action]),
    }
    if what_followed:
        columns["next_observation"] = seen[drawn.next_state].astype(np.float32)
    return read(columns, Schema({name: name for name in columns}, num_actions=mdp.num_actions, gamma=gamma))
