"""A bundle without JAX: loaded in the time that NumPy takes, and one action in microseconds.

    from stitchrl.deployment.numpy_policy import load_policy

    policy = load_policy("runs/first/policy")
    action, _ = policy.predict(observation)

It is the same as `st.load_policy(folder, backend="numpy")`, and computes what the JAX policy computes: probabilities to 1e-6,
continuous actions to 1e-6 of their largest size, log-densities to 2e-6.
"""

from __future__ import annotations

import os

from stitchrl.deployment.bundle import Bundle
from stitchrl.deployment.loading import load_policy as load_by_backend

__all__ = ["load_policy"]


def load_policy(folder: str | os.PathLike[str]) -> Bundle:
    """Read a bundle whose policy is computed with NumPy alone.

    Args:
        folder: a `policy` folder of `stitchrl run` or `stitchrl train`.

    Raises:
        CheckpointError: there is no bundle, or it is damaged.
    """
    found = load_by_backend(folder, backend="numpy")
    assert isinstance(found, Bundle)
    return found
