"""Critics of each source: where a log was made by several people, policies or machines, each has critics of its own.

With S sources in the column `source` and `num_critics` N there are S N critics, of which critic i learns from the rows of
source i // N alone:

    (1)  L_Q = sum_i E[ 1(source = i // N, there is a y) / share(i // N) (y - Q_i(s, a))^2 ]

share(k) is the share of all rows of the log that are of source k and have a TD target y: a row whose next observation
is not known has none. By (1) the loss of a critic is the mean over its own source's rows with a target, however few
they are. This holds only where rows are drawn uniformly, so that `fit` refuses another rule of `sampling`. The critics
are joined as always (`CriticSettings`): by their minimum, an action has the value of the source whose critics value it
least, and with `deviations=0` the mean over sources. Critics extrapolate to what their source never tried, as all
critics do. Losses of critics that are not a squared error, such as XQL's, and CQL's penalty are weighted in the same
way.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stitchrl.algorithms.base import Prepared
from stitchrl.algorithms.critic_settings import CriticSettings
from stitchrl.algorithms.settings import flag
from stitchrl.data.dataset import Dataset
from stitchrl.data.scaling import Scaling
from stitchrl.errors import ConfigurationError, DataError
from stitchrl.jax_types import Array, Batch, Key
from stitchrl.messages import shown
from stitchrl.types import PyTree

__all__ = ["SourceCriticSettings"]

MOST_SOURCES = 100


@dataclasses.dataclass(frozen=True)
class SourceCriticSettings(CriticSettings):
    """Base of the algorithms that can have critics for each source; a subclass has the setting `num_critics`."""

    critic_per_source: bool = flag(
        False,
        "`num_critics` critics for each value of the column `source`, each learning from that source's rows only.",
    )

    def prepare(self, log: Dataset, scaling: Scaling, *, key: Key) -> Prepared:
        return self.with_sources(Prepared(log))

    def with_sources(self, ready: Prepared) -> Prepared:
        """What `prepare` made, with the number of each row's source and the shares of sources where the setting is on.

        Raises:
            DataError: the log has no column `source`, too many sources, or one whose critics would learn nothing.
            ConfigurationError: all rows are of one source.
        """
        if not self.critic_per_source:
            return ready
        log = ready.log
        if log.source is None:
            raise DataError(
                f"`critic_per_source` of {self.name} needs the column `source`, which says who or what chose the actions; "
                "the log has none. Name that column in the schema, or leave the setting off."
            )
        names, number = np.unique(log.source, return_inverse=True)
        if len(names) == 1:
            raise ConfigurationError(
                f"`critic_per_source` of {self.name} makes critics for each value of the column `source`, and in this log all "
                f"{len(log.source):,} rows have one value, {shown(str(names[0]))}: the critics would be those of the setting "
                "off. Leave it off, or learn from a log of several sources."
            )
        if len(names) > MOST_SOURCES:
            raise DataError(
                f"`critic_per_source` of {self.name} takes at most {MOST_SOURCES} sources; the column `source` has "
                f"{len(names)} values. Join those that act alike, or leave the setting off."
            )
        targets = np.bincount(number.ravel(), log.can_bootstrap.astype(np.float64), minlength=len(names))
        if not targets.all():
            raise DataError(
                f"`critic_per_source` of {self.name} needs rows of every source that terminated or whose next observation is "
                f"known; the source {shown(str(names[int(np.argmin(targets))]))} has none, and its critics would learn nothing. "
                "Leave its rows out, or leave the setting off."
            )
        share = targets / len(log.source)
        columns = {**ready.columns, "source_number": number.ravel().astype(np.int32)}
        return ready._replace(columns=columns, given={**(ready.given or {}), "source_share": share.astype(np.float32)})

    def count_critics(self, given: PyTree, num_critics: int) -> int:
        """How many critics there are in all."""
        return num_critics * given["source_share"].shape[0] if self.critic_per_source else num_critics

    def critic_weight(self, batch: Batch, given: PyTree, num_critics: int) -> Float[Array, " B"] | Float[Array, "C B"]:
        """The weight of each row in the loss: (B,) the same for all critics, or (C, B) that of equation (1)."""
        td_weight: Float[Array, " B"] = batch["td_weight"]
        if not self.critic_per_source:
            return td_weight
        share = given["source_share"]
        of_critic = jnp.repeat(jnp.arange(share.shape[0], dtype=jnp.int32), num_critics)
        own = batch["source_number"][None, :] == of_critic[:, None]
        return jnp.where(own, td_weight[None, :] / share[of_critic][:, None], 0.0)
