"""Twenty updates of every algorithm against the official implementations, parameter by parameter.

The official numbers were made once by scripts/golden/make_golden.py, which says how; tests/golden holds them, with the
commits and settings in golden.json. Behaviour cloning and the scale of CQL's penalty are held to NumPy in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from algorithm_cases import model

from golden import (
    CONTINUOUS,
    DISCRETE,
    HIDDEN,
    TOLERANCE,
    UPDATES,
    Arrays,
    Networks,
    differences,
    discrete_batches,
    fresh_state,
    handed_out,
    leaves,
    relative,
    settings_of,
    states_after,
    stored,
    stored_batches,
    with_parameters,
)
from stitchrl.algorithms.behavior import BC
from stitchrl.algorithms.cql import CQL
from stitchrl.algorithms.edac import EDAC
from stitchrl.algorithms.iql import IQL
from stitchrl.algorithms.rebrac import ReBRAC
from stitchrl.algorithms.sac_n import SACN
from stitchrl.algorithms.td3 import TD3
from stitchrl.algorithms.td3bc import TD3BC
from stitchrl.nn.distributions import TanhNormal

# --- IQL -------------------------------------------------------------------------------------------------------------

IQL_NETWORKS: Networks = {
    "value": lambda state: model(state, "value"),
    "actor": lambda state: model(state, "actor").network,
    "critic": lambda state: model(state, "critics").ensemble.members,
    "target_critic": lambda state: state.target_critics.ensemble.members,
}


def iql_differences(run: str, **changes: Any) -> dict[str, float]:
    """IQL against a stored run, after 1 and after 20 updates, some of our settings changed."""
    arrays, official = stored("iql"), settings_of(run)
    settings: dict[str, Any] = {
        "gamma": official["discount"],
        "expectile": official["expectile"],
        "inverse_temperature": official["temperature"],
        "learning_rate": official["learning_rate"],
        "target_rate": official["tau"],
        "actor_decay_updates": official.get("max_steps", 0),
    }
    algorithm = IQL(**{**settings, **changes}, hidden_sizes=HIDDEN)
    start = with_parameters(fresh_state(algorithm, CONTINUOUS), IQL_NETWORKS, arrays, "start")
    start = eqx.tree_at(lambda s: model(s, "actor").log_std, start, jnp.asarray(arrays["start/log_std"]))
    states = states_after(algorithm, CONTINUOUS, start, stored_batches())
    found = {}
    for updates in (1, UPDATES):
        state, at = states[updates - 1], f"{run}/after_{updates}"
        ours = differences(state, IQL_NETWORKS, arrays, at)
        ours["log_std"] = relative(model(state, "actor").log_std, arrays[f"{at}/log_std"])
        found |= {f"{name} after {updates}": value for name, value in ours.items()}
    return found


@pytest.mark.parametrize("run", ["iql", "iql_cosine"])
def test_iql_is_the_official_one(run: str) -> None:
    """With a constant step size of the actor, and with the official default, a cosine over all of training."""
    found = iql_differences(run)
    assert max(found.values()) <= TOLERANCE, found


# --- TD3+BC ----------------------------------------------------------------------------------------------------------

TD3BC_NETWORKS: Networks = {
    "actor": lambda state: model(state, "actor").network,
    "target_actor": lambda state: state.target_actor.network,
    "critic": lambda state: model(state, "critics").ensemble.members,
    "target_critic": lambda state: state.target_critics.ensemble.members,
}


def td3bc_differences(**changes: Any) -> dict[str, float]:
    """TD3+BC against the stored run, after 1 and after 20 updates, some of our settings changed."""
    arrays, official = stored("td3bc"), settings_of("td3bc")
    settings: dict[str, Any] = {
        "gamma": official["discount"],
        "q_weight": official["alpha"],
        "target_noise": official["policy_noise"],
        "noise_clip": official["noise_clip"],
        "actor_every_updates": official["policy_freq"],
        "learning_rate": official["learning_rate"],
        "target_rate": official["tau"],
    }
    algorithm = TD3BC(**{**settings, **changes}, hidden_sizes=HIDDEN)
    states = states_after(
        algorithm,
        CONTINUOUS,
        with_parameters(fresh_state(algorithm, CONTINUOUS), TD3BC_NETWORKS, arrays, "start"),
        stored_batches(),
        [{"normal": [noise]} for noise in arrays["draws/target_noise"]],
    )
    return {
        f"{name} after {updates}": value
        for updates in (1, UPDATES)
        for name, value in differences(states[updates - 1], TD3BC_NETWORKS, arrays, f"td3bc/after_{updates}").items()
    }


def test_td3bc_is_the_official_one() -> None:
    found = td3bc_differences()
    assert max(found.values()) <= TOLERANCE, found


def td3_differences(**changes: Any) -> dict[str, float]:
    """TD3 against the stored run, which starts as that of TD3+BC and takes the same draws."""
    common, arrays, official = stored("td3bc"), stored("td3"), settings_of("td3")
    settings: dict[str, Any] = {
        "gamma": official["discount"],
        "target_noise": official["policy_noise"],
        "noise_clip": official["noise_clip"],
        "actor_every_updates": official["policy_freq"],
        "learning_rate": official["learning_rate"],
        "target_rate": official["tau"],
    }
    algorithm = TD3(**{**settings, **changes}, hidden_sizes=HIDDEN)
    states = states_after(
        algorithm,
        CONTINUOUS,
        with_parameters(fresh_state(algorithm, CONTINUOUS), TD3BC_NETWORKS, common, "start"),
        stored_batches(),
        [{"normal": [noise]} for noise in common["draws/target_noise"]],
    )
    return {
        f"{name} after {updates}": value
        for updates in (1, UPDATES)
        for name, value in differences(states[updates - 1], TD3BC_NETWORKS, arrays, f"td3/after_{updates}").items()
    }


def test_td3_is_the_official_one() -> None:
    found = td3_differences()
    assert max(found.values()) <= TOLERANCE, found


# --- ReBRAC ----------------------------------------------------------------------------------------------------------


def norms_of(perceptron: Any) -> Any:
    """Scales and offsets of layer normalisation, where weights and biases are looked for."""
    return SimpleNamespace(weights=perceptron.norm_scales, biases=perceptron.norm_offsets)


REBRAC_NETWORKS: Networks = {
    **TD3BC_NETWORKS,
    "critic_norm": lambda state: norms_of(TD3BC_NETWORKS["critic"](state)),
    "target_critic_norm": lambda state: norms_of(TD3BC_NETWORKS["target_critic"](state)),
}


def rebrac_differences(**changes: Any) -> dict[str, float]:
    """ReBRAC against the stored run, after 1 and after 20 updates, some of our settings changed."""
    arrays, official = stored("rebrac"), settings_of("rebrac")
    settings: dict[str, Any] = {
        "gamma": official["gamma"],
        "actor_bc_weight": official["actor_bc_coef"],
        "critic_bc_weight": official["critic_bc_coef"],
        "target_noise": official["policy_noise"],
        "noise_clip": official["noise_clip"],
        "actor_every_updates": official["policy_freq"],
        "learning_rate": official["learning_rate"],
        "actor_learning_rate": official["learning_rate"],
        "target_rate": official["tau"],
    }
    algorithm = ReBRAC(**{**settings, **changes}, hidden_sizes=HIDDEN)
    following = {"next_action_known": np.ones(32, np.float32)}
    states = states_after(
        algorithm,
        CONTINUOUS,
        with_parameters(fresh_state(algorithm, CONTINUOUS), REBRAC_NETWORKS, arrays, "start"),
        [
            {**batch, **following, "next_action": action}
            for batch, action in zip(stored_batches(), arrays["draws/next_action"], strict=True)
        ],
        [{"normal": [noise]} for noise in arrays["draws/target_noise"]],
    )
    return {
        f"{name} after {updates}": value
        for updates in (1, UPDATES)
        for name, value in differences(states[updates - 1], REBRAC_NETWORKS, arrays, f"rebrac/after_{updates}").items()
    }


def test_rebrac_is_the_official_one() -> None:
    found = rebrac_differences()
    assert max(found.values()) <= TOLERANCE, found


# --- SAC-N and EDAC --------------------------------------------------------------------------------------------------


def sac_n_differences(kind: type[SACN] | type[EDAC], **changes: Any) -> dict[str, float]:
    """SAC-N or EDAC against its stored run, after 1 and after 20 updates, some of our settings changed."""
    run = {SACN: "sac_n", EDAC: "edac"}[kind]
    arrays, official = stored("sac_n"), settings_of(run)
    settings: dict[str, Any] = {
        "gamma": official["gamma"],
        "num_critics": official["num_critics"],
        "learning_rate": official["learning_rate"],
        "actor_learning_rate": official["alpha_learning_rate"],
        "target_rate": official["tau"],
    } | ({"diversity_weight": official["eta"]} if "eta" in official else {})
    algorithm = kind(**{**settings, **changes}, hidden_sizes=(*HIDDEN, HIDDEN[0]))
    states = states_after(
        algorithm,
        CONTINUOUS,
        with_parameters(fresh_state(algorithm, CONTINUOUS), CQL_NETWORKS, arrays, "start"),
        stored_batches(),
        [{"normal": list(pair)} for pair in zip(arrays["draws/actor"], arrays["draws/target"], strict=True)],
    )
    found = {}
    for updates in (1, UPDATES):
        state, at = states[updates - 1], f"{run}/after_{updates}"
        ours = differences(state, CQL_NETWORKS, arrays, at)
        ours["log_temperature"] = relative(state.actor.log_temperature.model, arrays[f"{at}/log_temperature"])
        found |= {f"{name} after {updates}": value for name, value in ours.items()}
    return found


@pytest.mark.parametrize("kind", [SACN, EDAC])
def test_sac_n_and_edac_are_the_official_ones(kind: type[SACN] | type[EDAC]) -> None:
    found = sac_n_differences(kind)
    assert max(found.values()) <= TOLERANCE, found


# --- CQL -------------------------------------------------------------------------------------------------------------

CQL_NETWORKS: Networks = {
    "actor": lambda state: model(state, "actor").network,
    "critic": lambda state: model(state, "critics").ensemble.members,
    "target_critic": lambda state: state.target_critics.ensemble.members,
}


def cql_draws() -> list[dict[str, list[np.ndarray]]]:
    """The stored draws in the order in which our update takes them."""
    arrays = stored("cql")
    kinds = {"normal": ("actor", "target", "policy", "next_policy"), "uniform": ("uniform",)}
    return [{kind: [arrays[f"draws/{n}"][i] for n in names] for kind, names in kinds.items()} for i in range(UPDATES)]


def cql_differences(run: str, **changes: Any) -> dict[str, float]:
    """Continuous CQL against a stored run, after 1 and after 20 updates, some of our settings changed."""
    arrays, official = stored("cql"), settings_of(run)
    settings: dict[str, Any] = {
        "gamma": official["discount"],
        "cql_weight": official["min_q_weight"],
        "learning_rate": official["qf_lr"],
        "actor_learning_rate": official["policy_lr"],
        "target_rate": official["soft_target_tau"],
        "samples": official["num_random"],
        "lagrange_gap": official["lagrange_thresh"] if official["with_lagrange"] else 0.0,
    }
    algorithm = CQL(**{**settings, **changes}, hidden_sizes=HIDDEN)
    states = states_after(
        algorithm,
        CONTINUOUS,
        with_parameters(fresh_state(algorithm, CONTINUOUS), CQL_NETWORKS, arrays, "start"),
        stored_batches(),
        cql_draws(),
    )
    found = {}
    for updates in (1, UPDATES):
        state, at = states[updates - 1], f"{run}/after_{updates}"
        ours = differences(state, CQL_NETWORKS, arrays, at)
        for name, held in (("log_temperature", state.actor.log_temperature), ("log_multiplier", state.log_multiplier)):
            if f"{at}/{name}" in arrays:
                ours[name] = relative(held.model, arrays[f"{at}/{name}"])
        found |= {f"{name} after {updates}": value for name, value in ours.items()}
    return found


@pytest.mark.parametrize("run", ["cql", "cql_lagrange"])
def test_continuous_cql_is_the_official_one(run: str) -> None:
    """With a fixed weight of the penalty, and with the Lagrange multiplier."""
    found = cql_differences(run)
    assert max(found.values()) <= TOLERANCE, found


def test_continuous_cql_takes_the_actors_gradient_before_the_critics_change() -> None:
    """A deviation from the official code as PyTorch up to 1.4 ran it.

    There the gradient of the actor's loss went through critics that were half changed: activations from before their
    step, weights from after it. Later releases of PyTorch refuse that. Ours takes every gradient before the step. Where
    the two disagree on a sign, Adam moves a parameter of the actor the other way; the critics follow. All stays within
    a fifth of the 0.02 that 20 steps can move a parameter, and the first update of the critics is the same.
    """
    found = cql_differences("cql_in_place")
    assert found["critic after 1"] <= TOLERANCE, found
    assert TOLERANCE < found["actor after 20"] < 0.2 * UPDATES * settings_of("cql_in_place")["policy_lr"], found


def test_density_of_squashed_actions_is_the_official_one_without_its_floor() -> None:
    """A deviation: the official log-density has log(1 - action^2 + 1e-6) where ours has log(1 - action^2), exactly.

    Up to 2 before the tanh nothing is seen of it, and the golden runs stay there. Beyond 9 the official action is 1 to
    the last digit, so its Jacobian is constant and does not pull the actor back; ours does.
    """
    arrays = stored("cql")
    inner, official = arrays["density/inner"], arrays["density/log_prob"]
    # By the reparametrised mean, where the normal's own part is constant; the official derivative has it, as -inner.
    official_pull = arrays["density/derivative"] + inner

    def log_prob(mean: Any) -> Any:
        zeros = jnp.zeros_like(mean)
        with handed_out({"normal": [inner[:, None]]}):
            return TanhNormal(mean, zeros).sample_with_log_prob(key=jax.random.key(0))[1]

    ours, pull_back = jax.vjp(log_prob, jnp.zeros((len(inner), 1), jnp.float32))
    pull = pull_back(jnp.ones_like(ours))[0][:, 0]
    near, far = np.abs(inner) <= 2.0, np.abs(inner) > 9.0
    assert relative(ours[near], official[near]) <= 2.0 * TOLERANCE
    assert relative(pull[near], official_pull[near]) <= 4.0 * TOLERANCE
    exact = -0.5 * inner**2 - 0.5 * np.log(2.0 * np.pi) + 2.0 * np.log(np.cosh(np.float64(inner)))
    assert relative(ours, exact) <= TOLERANCE
    assert relative(pull, 2.0 * np.tanh(np.float64(inner))) <= TOLERANCE
    assert not official_pull[far].any()


def discrete_cql_differences(**changes: Any) -> dict[str, float]:
    """Discrete CQL against the stored run, after 1 and after 20 updates, some of our settings changed."""
    arrays, official = stored("discrete_cql"), settings_of("discrete_cql")
    # One critic and one quantile; there the official loss is a quarter of the squared error and the penalty in full.
    settings: dict[str, Any] = {
        "gamma": official["gamma"],
        "cql_weight": 4.0 * official["minq_weight"],
        "learning_rate": official["learning_rate"],
        "target_rate": 1.0,
        "num_critics": 1,
    }
    algorithm = CQL(**{**settings, **changes}, hidden_sizes=HIDDEN)
    networks: Networks = {
        "critic": lambda s: model(s, "critics").members,
        "target_critic": lambda s: s.target_critics.members,
    }
    start = with_parameters(fresh_state(algorithm, DISCRETE), networks, arrays, "start")
    states = states_after(algorithm, DISCRETE, start, discrete_batches())
    critic: Networks = {"critic": networks["critic"]}
    return {
        f"critic after {n}": differences(states[n - 1], critic, arrays, f"discrete_cql/after_{n}")["critic"]
        for n in (1, UPDATES)
    }


def test_discrete_cql_is_the_official_one_on_one_quantile() -> None:
    """What the two have in common: one critic, a squared error, the target copied after every update."""
    found = discrete_cql_differences()
    assert max(found.values()) <= TOLERANCE, found


# --- a wrong setting is seen -----------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[], dict[str, float]]] = {
    "IQL gamma": lambda: iql_differences("iql", gamma=0.98),
    "IQL expectile": lambda: iql_differences("iql", expectile=0.71),
    "IQL temperature": lambda: iql_differences("iql", inverse_temperature=2.97),
    "IQL target rate": lambda: iql_differences("iql", target_rate=0.006),
    "IQL decay": lambda: iql_differences("iql_cosine", actor_decay_updates=0),
    "TD3BC gamma": lambda: td3bc_differences(gamma=0.98),
    "TD3BC weight": lambda: td3bc_differences(q_weight=2.4),
    "TD3BC noise": lambda: td3bc_differences(target_noise=0.15),
    "TD3BC noise clip": lambda: td3bc_differences(noise_clip=0.45),
    "TD3 gamma": lambda: td3_differences(gamma=0.98),
    "TD3 every": lambda: td3_differences(actor_every_updates=3),
    "ReBRAC gamma": lambda: rebrac_differences(gamma=0.98),
    "ReBRAC weight of the actor": lambda: rebrac_differences(actor_bc_weight=0.49),
    "ReBRAC weight of the critics": lambda: rebrac_differences(critic_bc_weight=0.098),
    "SACN gamma": lambda: sac_n_differences(SACN, gamma=0.98),
    "EDAC weight": lambda: sac_n_differences(EDAC, diversity_weight=1.96),
    "CQL gamma": lambda: cql_differences("cql", gamma=0.98),
    "CQL weight": lambda: cql_differences("cql", cql_weight=4.9),
    "CQL weight under Lagrange": lambda: cql_differences("cql_lagrange", cql_weight=4.9),
    "discrete CQL gamma": lambda: discrete_cql_differences(gamma=0.98),
    "discrete CQL weight": lambda: discrete_cql_differences(cql_weight=4.9),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_is_seen(change: str) -> None:
    """The numbers are sharp enough: a setting that is a little off moves parameters ten tolerances away."""
    found = CHANGES[change]()
    assert max(found.values()) > 10.0 * TOLERANCE, found


# --- by hand, in float64 ---------------------------------------------------------------------------------------------


class Adam64:
    """Adam (Kingma and Ba 2015) on a list of float64 arrays, which it changes."""

    def __init__(self, parameters: list[np.ndarray], learning_rate: float) -> None:
        self.parameters, self.learning_rate, self.count = parameters, learning_rate, 0
        self.first = [np.zeros_like(p) for p in parameters]
        self.second = [np.zeros_like(p) for p in parameters]

    def step(self, gradients: Sequence[np.ndarray]) -> None:
        """One step down the gradients."""
        self.count += 1
        for parameter, first, second, gradient in zip(self.parameters, self.first, self.second, gradients, strict=True):
            first[...] = 0.9 * first + 0.1 * gradient
            second[...] = 0.999 * second + 0.001 * gradient**2
            mean, square = first / (1.0 - 0.9**self.count), second / (1.0 - 0.999**self.count)
            parameter -= self.learning_rate * mean / (np.sqrt(square) + 1e-8)


def forward(layers: list[np.ndarray], obs: np.ndarray) -> list[np.ndarray]:
    """The input of every layer and the output of the last; `layers` are weight, bias, weight, bias, ..."""
    values = [obs]
    for i in range(0, len(layers), 2):
        output = values[-1] @ layers[i] + layers[i + 1]
        values.append(np.maximum(output, 0.0) if i + 2 < len(layers) else output)
    return values


def backward(layers: list[np.ndarray], values: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    """Gradients by the layers, of a loss with this gradient by the output."""
    gradients: list[np.ndarray] = []
    for i in reversed(range(0, len(layers), 2)):
        gradients = [values[i // 2].T @ gradient, gradient.sum(axis=0), *gradients]
        gradient = (gradient @ layers[i].T) * (values[i // 2] > 0)
    return gradients


def test_bc_continuous_is_twenty_steps_of_adam_by_hand() -> None:
    arrays, batches = stored("iql"), stored_batches()
    networks: Networks = {"actor": lambda state: model(state, "actor").network}
    algorithm = BC(learning_rate=1e-3, hidden_sizes=HIDDEN)
    start = with_parameters(fresh_state(algorithm, CONTINUOUS), networks, arrays, "start")
    start = eqx.tree_at(lambda s: model(s, "actor").log_std, start, jnp.asarray(arrays["start/log_std"]))
    layers = [np.array(leaf, np.float64) for leaf in leaves(model(start, "actor").network)]
    log_std = np.array(arrays["start/log_std"], np.float64)
    adam = Adam64([*layers, log_std], 1e-3)
    for batch in batches:
        obs, action = np.float64(batch["obs"]), np.float64(batch["action"])
        values = forward(layers, obs)
        mean = np.tanh(values[-1])
        error = (action - mean) * np.exp(-log_std)
        # Of the mean over rows of sum over numbers in an action of error^2 / 2 + log_std.
        by_mean = -error * np.exp(-log_std) / len(obs)
        adam.step([*backward(layers, values, by_mean * (1.0 - mean**2)), np.mean(1.0 - error**2, axis=0)])

    ours = states_after(algorithm, CONTINUOUS, start, batches)[-1].actor.model
    found = [relative(a, b) for a, b in zip([*leaves(ours.network), ours.log_std], [*layers, log_std], strict=True)]
    assert max(found) <= TOLERANCE, found


def test_bc_discrete_is_twenty_steps_of_adam_by_hand() -> None:
    """With some actions forbidden, never the logged one."""
    rng = np.random.default_rng(0)
    allowed = (rng.random((UPDATES, 32, 4)) < 0.7) | np.eye(4, dtype=bool)[stored("batches")["choice"]]
    batches = discrete_batches(allowed)
    arrays = {"start/actor": stored("discrete_cql")["start/critic.0"]}
    networks: Networks = {"actor": lambda state: model(state, "actor").network}
    algorithm = BC(learning_rate=1e-3, hidden_sizes=HIDDEN)
    start = with_parameters(fresh_state(algorithm, DISCRETE), networks, arrays, "start")
    layers = [np.array(leaf, np.float64) for leaf in leaves(model(start, "actor").network)]
    adam = Adam64(layers, 1e-3)
    for batch in batches:
        values = forward(layers, np.float64(batch["obs"]))
        weights = np.where(batch["action_mask"], np.exp(values[-1]), 0.0)
        probs = weights / weights.sum(axis=1, keepdims=True)
        adam.step(backward(layers, values, (probs - np.eye(4)[batch["action"]]) / len(probs)))

    ours = states_after(algorithm, DISCRETE, start, batches)[-1].actor.model
    found = [relative(a, b) for a, b in zip(leaves(ours.network), layers, strict=True)]
    assert max(found) <= TOLERANCE, found


def first_gradient(optimizer_state: Any) -> Any:
    """The gradient of the first update: Adam's mean of gradients is then a tenth of it."""
    return jax.tree.map(lambda leaf: leaf * 10.0, optax.tree_utils.tree_get(optimizer_state, "mu"))


@pytest.mark.parametrize("cql_weight", [0.0, 0.5, 5.0])
def test_penalty_of_continuous_cql_has_its_full_weight_beside_the_td_loss(cql_weight: float) -> None:
    """Gradient of the critics' loss = that of the squared error + cql_weight times that of the penalty.

    Networks are linear, so that both are a few lines of NumPy: Q(s, a) = w (s, a) + c. Steps of Adam hide the scale of a
    gradient, so the gradient itself is compared.
    """
    batch, draws = stored_batches()[0], cql_draws()[0]
    algorithm = CQL(cql_weight=cql_weight, samples=2, hidden_sizes=(), gamma=0.9)

    start = fresh_state(algorithm, CONTINUOUS)
    # The last layer of an actor is drawn very small, which would give all observations one distribution.
    start = eqx.tree_at(
        lambda s: model(s, "actor").network.weights, start, (30.0 * model(start, "actor").network.weights[0],)
    )
    (after,) = states_after(algorithm, CONTINUOUS, start, [batch], [draws])
    weight, bias = leaves(first_gradient(after.critics.optimizer_state).ensemble.members)
    found = np.concatenate([np.asarray(weight)[:, :, 0], np.asarray(bias)], axis=1)

    td, penalty = linear_cql_gradients(start, batch, draws, gamma=0.9)
    assert relative(found, td + cql_weight * penalty) <= TOLERANCE
    # Both parts matter: with half the weight, or with half the squared error, the gradient is another.
    assert np.abs(0.5 * td).max() > 1e3 * TOLERANCE
    assert np.abs(0.5 * penalty).max() > 1e3 * TOLERANCE


def linear_cql_gradients(
    state: Any, batch: Arrays, draws: Mapping[str, Sequence[np.ndarray]], gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the squared error and of the penalty by (w, c) of two linear critics, each (2, 5 + 3 + 1)."""
    _, target, policy, next_policy = (np.float64(draw) for draw in draws["normal"])
    obs, next_obs, action = (np.float64(batch[name]) for name in ("obs", "next_obs", "action"))

    def features(obs: np.ndarray, action: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [np.broadcast_to(obs, (*action.shape[:-1], 5)), action, np.ones_like(action[..., :1])], -1
        )

    def parameters(critics: Any) -> np.ndarray:
        weight, bias = leaves(critics.ensemble.members)
        return np.concatenate([np.float64(weight)[:, :, 0], np.float64(bias)], axis=1)

    def sampled(obs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions tanh(mean + std noise) and their log-density, by the change of variables."""
        weight, bias = (np.float64(leaf) for leaf in leaves(model(state, "actor").network))
        mean, log_std = np.split(obs @ weight + bias, 2, axis=-1)
        action = np.tanh(mean + np.exp(log_std) * noise)
        normal = np.exp(-0.5 * noise**2) / (np.sqrt(2.0 * np.pi) * np.exp(log_std))
        return action, np.sum(np.log(normal / (1.0 - action**2)), axis=-1)

    critics, target_critics = parameters(model(state, "critics")), parameters(state.target_critics)
    logged = features(obs, action)
    next_q = (features(next_obs, sampled(next_obs, target)[0]) @ target_critics.T).min(axis=1)
    y = np.float64(batch["reward"]) + gamma * (1.0 - batch["terminated"]) * next_q

    uniform = np.float64(draws["uniform"][0])
    drawn = [
        (uniform, np.full(uniform.shape[:2], np.log(0.5**3))),
        sampled(obs, policy),
        sampled(next_obs, next_policy),
    ]
    candidates = features(obs, np.concatenate([a for a, _ in drawn]))
    log_density = np.concatenate([density for _, density in drawn])

    td, penalty = [], []
    for critic in critics:
        td.append(2.0 * np.mean((logged @ critic - y)[:, None] * logged, axis=0))
        share = np.exp(candidates @ critic - log_density)
        share /= share.sum(axis=0)
        penalty.append(np.mean((share[:, :, None] * candidates).sum(axis=0) - logged, axis=0))
    return np.stack(td), np.stack(penalty)


@pytest.mark.parametrize("cql_weight", [0.0, 0.5, 5.0])
def test_penalty_of_discrete_cql_has_its_full_weight_beside_the_td_loss(cql_weight: float) -> None:
    """As for continuous actions, with critics linear in the observation, one output an action."""
    batch = discrete_batches()[0]
    algorithm = CQL(cql_weight=cql_weight, hidden_sizes=(), gamma=0.9)
    start = fresh_state(algorithm, DISCRETE)
    (after,) = states_after(algorithm, DISCRETE, start, [batch])
    found = leaves(first_gradient(after.critics.optimizer_state).members)

    obs, next_obs = np.float64(batch["obs"]), np.float64(batch["next_obs"])
    weight, bias = (np.float64(leaf) for leaf in leaves(model(start, "critics").members))
    q, next_q = obs @ weight + bias[:, None], next_obs @ weight + bias[:, None]
    y = np.float64(batch["reward"]) + 0.9 * (1.0 - batch["terminated"]) * next_q.min(axis=0).max(axis=1)
    chosen = np.eye(4)[batch["action"]]
    td = 2.0 * (np.sum(q * chosen, axis=2) - y)[:, :, None] * chosen
    penalty = np.exp(q) / np.exp(q).sum(axis=2, keepdims=True) - chosen
    by_output = (td + cql_weight * penalty) / len(obs)

    assert relative(found[0], obs.T @ by_output) <= TOLERANCE
    assert relative(found[1], by_output.sum(axis=1)) <= TOLERANCE
    for part in (td, penalty):
        assert np.abs(0.5 * obs.T @ part / len(obs)).max() > 1e3 * TOLERANCE
