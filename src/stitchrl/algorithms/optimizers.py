"""Optimisers with the schedules that settings ask for, a model beside its optimiser's state, and slow copies."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from stitchrl.jax_types import Array, Scalar
from stitchrl.types import PyTree

__all__ = ["Trainable", "adam", "apply_gradients", "polyak"]

Model = TypeVar("Model")


class Trainable(eqx.Module, Generic[Model]):
    """A model and the state of its optimiser.

    Attributes:
        model: any pytree of arrays: a policy, critics, a number.
        optimizer_state: what its optimiser remembers.
    """

    model: Model
    optimizer_state: PyTree

    @classmethod
    def create(cls, model: Model, optimizer: optax.GradientTransformation) -> Trainable[Model]:
        """A fresh model with a fresh optimiser state."""
        return cls(model, optimizer.init(model))

    def step(self, optimizer: optax.GradientTransformation, gradients: Any) -> Trainable[Model]:
        """The pair after one step of the optimiser."""
        return Trainable(*apply_gradients(optimizer, gradients, self.optimizer_state, self.model))


def adam(
    learning_rate: Scalar,
    *,
    warmup_updates: int = 0,
    decay_updates: int = 0,
    max_gradient_norm: float = 0.0,
    weight_decay: Scalar | None = None,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015), with a schedule, clipping and decay where asked for.

    Args:
        learning_rate: the step size, above 0.
        warmup_updates: the step size rises linearly from 0 over this many updates; 0 is off.
        decay_updates: it falls to 0 as a cosine over this many updates, warm-up included; 0 is off.
        max_gradient_norm: longer gradients are shortened to it; 0 is off.
        weight_decay: each step shrinks the parameters by this share times the step size (Loshchilov and Hutter 2019,
            arXiv 1711.05101); None is off.
    """

    def schedule(count: Array) -> Array:
        done = count.astype(jnp.float32)
        rate = jnp.asarray(learning_rate, jnp.float32)
        if warmup_updates:
            rate = rate * jnp.minimum((done + 1.0) / warmup_updates, 1.0)
        if decay_updates:
            rate = rate * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(done / decay_updates, 1.0)))
        return rate

    rate = schedule if warmup_updates or decay_updates else learning_rate
    optimizer = optax.adam(rate) if weight_decay is None else optax.adamw(rate, weight_decay=weight_decay)
    if max_gradient_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(max_gradient_norm), optimizer)
    return optimizer


def polyak(target: Any, online: Any, target_rate: Scalar) -> Any:
    """Slow copy: target + target_rate (online - target)."""
    return jax.tree.map(lambda slow, fast: slow + target_rate * (fast - slow), target, online)


def apply_gradients(
    optimizer: optax.GradientTransformation, gradients: Any, optimizer_state: Any, parameters: Any
) -> tuple[Any, Any]:
    """One optimiser step: (new parameters, new optimiser state)."""
    # Optax raises a Python float to an int32 count, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        changes, optimizer_state = optimizer.update(gradients, optimizer_state, parameters)
    return optax.apply_updates(parameters, changes), optimizer_state
