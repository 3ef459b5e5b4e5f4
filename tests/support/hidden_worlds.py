"""Simulated worlds with a cause that the log hides or shows, for the history check.

Each world is a function `(episodes, seed, shown) -> Dataset`. With `shown` the observation holds everything that decides
actions and outcomes; without it the cause is left out. Worlds in `SOUND` hide nothing in any case.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

import stitchrl as st
from stitchrl.data.dataset import Dataset
from stitchrl.data.schema import Schema
from stitchrl.mdp.icu_sepsis import compact_table, demo_log, draw_log

__all__ = [
    "HIDING",
    "MEMORYLESS",
    "SOUND",
    "control",
    "drift",
    "preference",
    "sepsis",
    "severity",
    "target",
    "unseen_noise",
]

World = Callable[[int, int, bool], Dataset]
Act = Callable[[np.ndarray], np.ndarray]
"""Logits of the actions of a policy, from what the log observes when the cause is hidden; in place of the behaviour."""


# --- a simulation in lockstep ---------------------------------------------------------------------------------------


class Recorder:
    """Collects steps of all running episodes and makes a log of them."""

    def __init__(self) -> None:
        self.steps: list[dict[str, np.ndarray]] = []

    def add(self, running: np.ndarray, **columns: np.ndarray) -> None:
        """One step of the running episodes."""
        step = np.full(len(running), len(self.steps))
        self.steps.append({"episode": running, "step": step} | columns)

    def log(self, num_actions: int | None, names: tuple[str, ...] = ()) -> Dataset:
        """Everything that was recorded, as a log."""
        columns: dict[str, np.ndarray] = {
            name: np.concatenate([step[name] for step in self.steps]) for name in self.steps[0]
        }
        order = np.lexsort((columns["step"], columns["episode"]))
        columns = {name: values[order] for name, values in columns.items()}
        for name in ("observation", "next_observation", "reward"):
            columns[name] = columns[name].astype(np.float32)
        columns.setdefault("truncated", np.zeros(len(order), bool))
        schema = Schema({name: name for name in columns}, num_actions=num_actions, gamma=1.0, name="simulated")
        log = st.read(columns, schema)
        if names:
            object.__setattr__(log, "observation_names", names)
        return log


def draw_rows(logits: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An action for each row of logits, and its log-probability."""
    log_probs = special.log_softmax(logits, axis=1)
    action = (log_probs + rng.gumbel(size=logits.shape)).argmax(1)
    return action.astype(np.int32), log_probs[np.arange(len(action)), action]


def walk(
    episodes: int,
    seed: int,
    shown: bool,
    *,
    start: Callable[[np.random.Generator, int], np.ndarray],
    move: Callable[[np.random.Generator, np.ndarray], np.ndarray],
    on_action: float,
    on_reward: float,
    on_next: float = 0.0,
    steps: int = 12,
    propensities: bool = False,
    act: Act | None = None,
) -> Dataset:
    """Three vital signs that forget slowly and a hidden number, three actions, rewards of all of them."""
    rng = np.random.default_rng(seed)
    seen, cause = rng.normal(size=(episodes, 3)), start(rng, episodes)
    weight = np.array([[0.8, -0.4, 0.0], [-0.5, 0.6, 0.3], [0.0, 0.3, -0.6]])
    lean = np.array([-1.0, 0.0, 1.0])
    recorder, everyone = Recorder(), np.arange(episodes)
    for step in range(steps):
        whole = np.concatenate([seen, cause[:, None]], 1) if shown else seen
        logits = act(seen) if act else seen @ weight + on_action * cause[:, None] * lean
        action, log_prob = draw_rows(logits, rng)
        reward = seen[:, 0] - 0.3 * action + on_reward * cause * (action - 1) + rng.normal(size=episodes)
        seen = 0.7 * seen + 0.3 * (action[:, None] - 1) * np.array([1.0, -0.5, 0.0])
        seen = seen + on_next * cause[:, None] + 0.6 * rng.normal(size=seen.shape)
        cause = move(rng, cause)
        after = np.concatenate([seen, cause[:, None]], 1) if shown else seen
        last = np.full(episodes, step == steps - 1)
        columns = {"behavior_log_prob": log_prob.astype(np.float32)} if propensities else {}
        recorder.add(everyone, observation=whole, action=action, reward=reward, next_observation=after,
                     terminated=last, **columns)  # fmt: skip
    names = ("pulse", "pressure", "fever", "cause")
    return recorder.log(3, names[: 3 + shown])


def severity(episodes: int, seed: int, shown: bool, strength: float = 0.8, act: Act | None = None) -> Dataset:
    """How ill a patient is does not change, decides treatments and outcomes, and is not recorded."""
    return walk(
        episodes,
        seed,
        shown,
        start=lambda rng, n: rng.normal(size=n),
        move=lambda rng, cause: cause,
        act=act,
        on_action=strength,
        on_reward=strength,
    )


def drift(episodes: int, seed: int, shown: bool, act: Act | None = None) -> Dataset:
    """A hidden number that changes slowly, decides treatments, and moves the vital signs."""
    return walk(
        episodes,
        seed,
        shown,
        start=lambda rng, n: rng.normal(size=n),
        move=lambda rng, cause: 0.9 * cause + np.sqrt(1 - 0.81) * rng.normal(size=len(cause)),
        act=act,
        on_action=0.8,
        on_reward=0.5,
        on_next=0.3,
    )


def preference(episodes: int, seed: int, shown: bool) -> Dataset:
    """Clinicians differ in how much they treat; outcomes depend on the treatment only, not on who gives it."""
    return walk(
        episodes,
        seed,
        shown,
        start=lambda rng, n: rng.choice([-1.0, 1.0], n),
        move=lambda rng, cause: cause,
        on_action=0.8,
        on_reward=0.0,
    )


def unseen_noise(episodes: int, seed: int, shown: bool, act: Act | None = None) -> Dataset:
    """A hidden number drawn afresh at each step decides the treatment and the reward of that step: it leaves no trace."""
    return walk(
        episodes,
        seed,
        shown,
        start=lambda rng, n: rng.normal(size=n),
        move=lambda rng, cause: rng.normal(size=len(cause)),
        act=act,
        on_action=0.8,
        on_reward=0.8,
    )


# --- sepsis, after the published description of a simulator (Oberst and Sontag 2019) -----------------------------------


def sepsis(
    episodes: int,
    seed: int,
    shown: bool,
    hidden: tuple[str, ...] = ("glucose", "diabetic"),
    attention: float = 2.0,
    steps: int = 20,
    act: Act | None = None,
) -> Dataset:
    """Stays with heart rate, blood pressure, oxygen and glucose in levels, a diabetes flag, and three treatments.

    Antibiotics calm heart rate and pressure, ventilation brings oxygen, vasopressors raise the pressure, and glucose in
    diabetics. Levels that no treatment moves go up or down by chance. Three levels out of range mean death, all normal
    without treatment means discharge. The doctor sees everything, and heeds glucose and diabetes by `attention`.
    """
    rng = np.random.default_rng(seed)
    diabetic = rng.random(episodes) < 0.2
    heart = rng.choice([0, 1, 2], episodes, p=[0.1, 0.5, 0.4])
    pressure = rng.choice([0, 1, 2], episodes, p=[0.4, 0.4, 0.2])
    oxygen = rng.choice([0, 1], episodes, p=[0.4, 0.6])
    of_diabetics = rng.choice(5, episodes, p=[0.05, 0.15, 0.3, 0.3, 0.2])
    glucose = np.where(diabetic, of_diabetics, rng.choice(5, episodes, p=[0, 0.1, 0.8, 0.1, 0]))
    on = np.zeros((episodes, 3), bool)
    recorder, running = Recorder(), np.arange(episodes)
    names = (
        "heart_rate",
        "blood_pressure",
        "oxygen",
        "glucose",
        "antibiotics",
        "ventilation",
        "vasopressors",
        "diabetic",
    )
    kept = [j for j, name in enumerate(names) if shown or name not in hidden]
    for step in range(steps):
        whole = np.stack([heart, pressure, oxygen, glucose, *on.T, diabetic], 1)
        chance = 1 / (1 + np.exp(-np.stack([
            -1.0 + 1.8 * (heart == 2) + 1.2 * (pressure == 2) + 0.6 * on[:, 0] + attention * (np.abs(glucose - 2) > 1),
            -1.4 + 2.8 * (oxygen == 0) + 0.8 * on[:, 1],
            -0.8 + 2.6 * (pressure == 0) + 0.6 * on[:, 2]
            - attention * (1.5 * diabetic + (glucose > 2) - 1.0 * (glucose < 2)),
        ], 1)))  # fmt: skip
        given = rng.random(chance.shape) < chance
        if act:
            chosen, _ = draw_rows(act(whole[:, kept]), rng)
            given = (chosen[:, None] & np.array([4, 2, 1])) > 0
        heart, pressure, oxygen, glucose = _vitals(rng, heart, pressure, oxygen, glucose, on, given, diabetic)
        on = given
        wrong = (heart != 1).astype(int) + (pressure != 1) + (oxygen != 1) + (glucose != 2)
        died, left = wrong >= 3, (wrong == 0) & ~given.any(1)
        ended = died | left
        after = np.stack([heart, pressure, oxygen, glucose, *on.T, diabetic], 1)
        recorder.add(
            running,
            observation=whole[:, kept],
            action=(given @ np.array([4, 2, 1])).astype(np.int32),
            reward=left.astype(float) - died,
            next_observation=after[:, kept],
            terminated=ended,
            truncated=np.full(len(running), step == steps - 1) & ~ended,
        )
        go = ~ended
        running, heart, pressure, oxygen, glucose = running[go], heart[go], pressure[go], oxygen[go], glucose[go]
        on, diabetic = on[go], diabetic[go]
        if not len(running):
            break
    return recorder.log(8, tuple(names[j] for j in kept))


def _vitals(
    rng: np.random.Generator,
    heart: np.ndarray,
    pressure: np.ndarray,
    oxygen: np.ndarray,
    glucose: np.ndarray,
    on: np.ndarray,
    given: np.ndarray,
    diabetic: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """The levels an hour later."""

    def happens(chance: Any) -> np.ndarray:
        return rng.random(len(heart)) < chance

    def wander(level: np.ndarray, top: int, chance: Any) -> np.ndarray:
        draw = rng.random(len(level))
        return (level + (draw < chance) - (draw > 1 - chance)).clip(0, top)

    started, stopped = given, on & ~given
    new_heart = np.where(started[:, 0], np.where((heart == 2) & happens(0.5), 1, heart), wander(heart, 2, 0.1))
    new_heart = np.where(stopped[:, 0] & (heart == 1) & happens(0.1), 2, new_heart)
    calm = np.where((pressure == 2) & happens(0.5), 1, pressure)
    raised = np.where(happens(np.where(diabetic, 0.9, 0.7)), pressure + 1, pressure)
    raised = np.where(diabetic & (pressure == 0) & happens(0.4), 2, raised).clip(0, 2)
    dropped = np.where(happens(np.where(diabetic, 0.05, 0.1)), pressure - 1, pressure).clip(0, 2)
    new_pressure = np.where(started[:, 0], calm, wander(pressure, 2, 0.1))
    new_pressure = np.where(started[:, 2], raised, np.where(stopped[:, 2], dropped, new_pressure))
    new_oxygen = np.where(started[:, 1], np.where(happens(0.7), 1, oxygen), wander(oxygen, 1, 0.1))
    new_glucose = wander(glucose, 4, np.where(diabetic, 0.3, 0.1))
    new_glucose = np.where(started[:, 2] & diabetic & happens(0.5), (glucose + 1).clip(0, 4), new_glucose)
    return new_heart, new_pressure, new_oxygen, new_glucose


def sepsis_diabetes(episodes: int, seed: int, shown: bool) -> Dataset:
    """The sepsis world with glucose recorded, and diabetes not."""
    return sepsis(episodes, seed, shown, hidden=("diabetic",))


# --- numbers as actions ---------------------------------------------------------------------------------------------


def target(episodes: int, seed: int, shown: bool) -> Dataset:
    """A cart is pushed towards a place that only the driver knows; it changes now and then."""
    rng = np.random.default_rng(seed)
    place, speed, goal = rng.normal(size=episodes), np.zeros(episodes), rng.normal(size=episodes)
    recorder, everyone = Recorder(), np.arange(episodes)

    def seen() -> np.ndarray:
        return np.stack([place, speed, goal][: 2 + shown], 1)

    for step in range(25):
        before = seen()
        push = (0.8 * (goal - place) - 0.6 * speed + 0.4 * rng.normal(size=episodes)).astype(np.float32)
        speed = 0.9 * speed + 0.3 * push + 0.05 * rng.normal(size=episodes)
        place = place + 0.3 * speed
        reward = -((place - goal) ** 2) - 0.1 * push**2
        goal = np.where(rng.random(episodes) < 0.05, rng.normal(size=episodes), goal)
        recorder.add(everyone, observation=before, action=push[:, None], reward=reward, next_observation=seen(),
                     terminated=np.full(episodes, step == 24))  # fmt: skip
    return recorder.log(None, ("place", "speed", "goal")[: 2 + shown])


def control(episodes: int, seed: int, shown: bool = True) -> Dataset:
    """Two joints pushed by a neural network with noise; dynamics are not linear, and nothing is hidden."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(11)
    first, second = fixed.normal(size=(4, 16)), fixed.normal(size=(16, 2)) / 2
    angle, speed = rng.uniform(-2, 2, (episodes, 2)), rng.normal(size=(episodes, 2))
    recorder, everyone = Recorder(), np.arange(episodes)
    for step in range(30):
        before = np.concatenate([angle, speed], 1)
        push = np.tanh(np.tanh(before @ first) @ second) + 0.3 * rng.normal(size=(episodes, 2))
        speed = 0.9 * speed + 0.2 * (np.sin(angle) - 0.7 * angle + push) - 0.1 * np.sin(angle[:, ::-1] - angle)
        speed = speed + 0.05 * rng.normal(size=speed.shape)
        angle = angle + 0.2 * speed
        reward = np.cos(angle).sum(1) - 0.1 * (push**2).sum(1)
        recorder.add(everyone, observation=before, action=push.astype(np.float32), reward=reward,
                     next_observation=np.concatenate([angle, speed], 1),
                     terminated=np.zeros(episodes, bool), truncated=np.full(episodes, step == 29))  # fmt: skip
    return recorder.log(None, ("angle_1", "angle_2", "speed_1", "speed_2"))


# --- nothing hidden -------------------------------------------------------------------------------------------------


def _network(episodes: int, seed: int, sharpness: float, forgets: float, steps: int = 15) -> Dataset:
    """Six numbers that follow their past and the action, four actions drawn by a neural network."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(12)
    first, second = fixed.normal(size=(6, 16)), fixed.normal(size=(16, 4))
    push = fixed.normal(size=(4, 6)) * 0.4
    seen = rng.normal(size=(episodes, 6))
    recorder, everyone = Recorder(), np.arange(episodes)
    for step in range(steps):
        before = seen
        action, _ = draw_rows(sharpness * np.tanh(seen @ first) @ second, rng)
        reward = np.sin(seen[:, 0]) + np.abs(seen[:, 1]) * (action == 1) + 0.5 * rng.normal(size=episodes)
        seen = (1 - forgets) * np.tanh(seen + 0.5 * seen[:, ::-1] ** 2 * 0.3) + push[action]
        seen = seen + 0.4 * rng.normal(size=seen.shape)
        recorder.add(everyone, observation=before, action=action, reward=reward, next_observation=seen,
                     terminated=np.full(episodes, step == steps - 1))  # fmt: skip
    return recorder.log(4)


def network_policy(episodes: int, seed: int, shown: bool = True) -> Dataset:
    """Actions drawn from a neural network; nothing is hidden."""
    return _network(episodes, seed, 0.7, 0.2)


def decided_policy(episodes: int, seed: int, shown: bool = True) -> Dataset:
    """A network that hardly ever hesitates; nothing is hidden."""
    return _network(episodes, seed, 6.0, 0.2)


def threshold_policy(episodes: int, seed: int, shown: bool = True) -> Dataset:
    """Treatment where two slow numbers lie in certain boxes, otherwise in 3 of 100 cases; nothing is hidden."""
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(episodes, 2))
    recorder, everyone = Recorder(), np.arange(episodes)
    for step in range(15):
        before = seen
        inside = ((np.floor(2 * seen).sum(1) % 2) == 0) & (np.abs(seen).max(1) < 1.5)
        action = (rng.random(episodes) < np.where(inside, 0.97, 0.03)).astype(np.int32)
        reward = inside * 1.0 + rng.normal(size=episodes)
        seen = 0.95 * seen + 0.2 * (action[:, None] - 0.3) + 0.25 * rng.normal(size=seen.shape)
        recorder.add(everyone, observation=before, action=action, reward=reward, next_observation=seen,
                     terminated=np.full(episodes, step == 14))  # fmt: skip
    return recorder.log(2)


def wide_observation(episodes: int, seed: int, shown: bool = True) -> Dataset:
    """Forty numbers drawn afresh at each step, four actions, propensities logged; nothing is hidden."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(13)
    weight = fixed.normal(size=(40, 4)) * 0.3
    recorder, everyone = Recorder(), np.arange(episodes)
    seen = rng.normal(size=(episodes, 40))
    for step in range(10):
        action, log_prob = draw_rows(seen @ weight, rng)
        reward = seen[:, 0] * (action - 1.5) + rng.normal(size=episodes)
        after = rng.normal(size=seen.shape)
        recorder.add(everyone, observation=seen, action=action, reward=reward, next_observation=after,
                     terminated=np.full(episodes, step == 9), behavior_log_prob=log_prob.astype(np.float32))  # fmt: skip
        seen = after
    return recorder.log(4)


def hospital(episodes: int, seed: int, shown: bool = True) -> Dataset:
    """A fresh draw of the hospital log; nothing is hidden."""
    return demo_log(compact_table(draw_log(episodes, seed=1000 + seed)))


HIDING: dict[str, World] = {
    "hidden severity": severity,
    "weak hidden severity": functools.partial(severity, strength=0.3),
    "hidden slow drift": drift,
    "sepsis, glucose and diabetes hidden": sepsis,
    "sepsis, diabetes hidden": sepsis_diabetes,
    "sepsis, both hidden and hardly heeded": functools.partial(sepsis, attention=0.7),
    "hidden preference of the clinician": preference,
    "hidden target, continuous action": target,
}
"""Worlds whose hidden cause has a memory."""
MEMORYLESS: dict[str, World] = {"hidden cause without memory": unseen_noise}
"""Worlds whose hidden cause leaves no trace in the past: nothing that looks at the past can see it."""
SOUND: dict[str, World] = {
    "network policy": network_policy,
    "network policy, nearly deterministic": decided_policy,
    "boxes, nearly deterministic": threshold_policy,
    "forty fresh numbers, propensities logged": wide_observation,
    "joints under a network, continuous action": control,
    "hospital": hospital,
}
"""Worlds that hide nothing."""
