"""The encoder of rows that a policy is asked about: as of a log that is read, with sentences for whoever asks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from stitchrl.data.schema import Schema
from stitchrl.encoding.columns import Where
from stitchrl.encoding.observations import ObservationEncoder
from stitchrl.encoding.vocabularies import Vocabularies
from stitchrl.errors import DataError
from stitchrl.messages import shown
from stitchrl.types import NumpyArray

__all__ = ["AskedEncoder"]

ORIGIN = "what the policy is asked about"


class AskedEncoder(ObservationEncoder):
    """Turns the named columns that a policy is asked about into the numbers that it learned from.

    Args:
        schema: of the policy.
        lenient: whether unseen categories are no error.

    Attributes:
        unseen: for each column that holds unseen categories, the (n,) rows in which it does.
    """

    def __init__(self, schema: Schema, *, lenient: bool = False) -> None:
        super().__init__(schema, ORIGIN)
        self.unseen: dict[str, NumpyArray] = {}
        self._vocabularies = _Learned(self.unseen if lenient else None)


class _Learned(Vocabularies):
    """The categories that a policy learned; unseen ones are refused, or noted where there is something to note them in."""

    def __init__(self, noted: dict[str, NumpyArray] | None) -> None:
        super().__init__()
        self._noted = noted

    def refuse(self, text: pa.Array, unseen: Bool[NumpyArray, " n"], categories: Sequence[str], where: Where) -> None:
        if self._noted is not None:
            self._noted[where.name] = np.array(unseen)
            return
        at = int(np.argmax(unseen))
        raise DataError(
            f"Column {shown(where.name)} must hold one of the {len(categories)} categories that the policy learned; got "
            f"{shown(text[at].as_py())} in row {at}. Correct the value, or say which action to take in such rows: "
            "`policy.guarded(action)`."
        )
