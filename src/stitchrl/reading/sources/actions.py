"""Actions of several components: continuous ones inside their bounds, and discrete ones as one number."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped

from stitchrl.data.schema import Schema
from stitchrl.encoding.columns import Where
from stitchrl.encoding.values import check_within, float32, whole_numbers
from stitchrl.errors import DataError
from stitchrl.types import NumpyArray

__all__ = ["actions_of_components"]


def actions_of_components(
    raw: Shaped[NumpyArray, "n components"],
    values: Float[NumpyArray, "n components"],
    schema: Schema,
    where: Where,
) -> Shaped[NumpyArray, "n ..."]:
    """Actions as (n,) numbers of discrete actions, or (n, components) continuous ones.

    Args:
        raw: the components as the log has them.
        values: the same as finite float32 numbers.
        schema: of the log.
        where: the block stands, for messages.

    Raises:
        DataError: another number of components than the schema says, or a value outside its bounds or choices.
    """
    declared = schema.action_counts or schema.action_low or schema.action_high
    if declared is not None and len(declared) != values.shape[1]:
        raise DataError(
            f"{where.called} must have {len(declared)} components, as the schema says; got {values.shape[1]}."
        )
    each = [where._replace(name=f"{where.name}[{i}]") for i in range(values.shape[1])]
    for i, component in enumerate(each):
        low, high = (None if bounds is None else bounds[i] for bounds in (schema.action_low, schema.action_high))
        check_within(values[:, i], low, high, component)
    if schema.action_counts is None:
        return values
    if schema.action_bins is not None:
        # Edges are float32 like the values, so that a dose of .7 is on the edge .7 whatever type the file has.
        chosen = [
            np.searchsorted(float32(edges), values[:, i], side="right") for i, edges in enumerate(schema.action_bins)
        ]
    else:
        chosen = [
            whole_numbers(raw[:, i], count, each[i]).astype(np.int64) for i, count in enumerate(schema.action_counts)
        ]
    return np.ravel_multi_index(chosen, schema.action_counts).astype(np.int32)
