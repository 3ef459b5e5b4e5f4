"""FilteredBC: behaviour cloning of the episodes with the highest returns ("%BC").

    (1)  keep the ceil(top_fraction E) of E episodes with the highest undiscounted returns, and all tied with the last
    (2)  L = -E_kept[ log pi(a | s) ]

There are two published definitions: Chen et al. 2021 (arXiv 2106.01345; kzl/decision-transformer) keep top episodes until a
share of TIMESTEPS is reached; CORL (any_percent_bc.py) keeps a share of EPISODES by discounted return. Here it is a share of
episodes by undiscounted return.

Deviations: every episode tied with the threshold is kept, so with a 0-or-1 outcome the filter keeps all successes,
however small top_fraction is; no tie is broken by chance.

It is BC on rows drawn by `TopFractionSampling`; observations are scaled by what those rows show.

Imitation cannot stitch: it never does better than the actions of the episodes that it kept.

Use: where some episodes are plainly better than others, and success is known at their end.

Avoid: where returns are mostly luck, since the lucky episodes are then imitated.

First knob: `top_fraction`, from 0.05 to 0.5: smaller keeps better episodes, and fewer.

Metrics: those of BC.
"""

from __future__ import annotations

import dataclasses

from stitchrl.algorithms.behavior import Imitation
from stitchrl.algorithms.settings import setting
from stitchrl.data.sampling import Sampling, TopFractionSampling

__all__ = ["FilteredBC"]


@dataclasses.dataclass(frozen=True)
class FilteredBC(Imitation):
    """Behaviour cloning of the best episodes."""

    top_fraction: float = setting(
        0.1, "(0, 1]", "Share of episodes kept; smaller is pickier and learns from less.", static=True
    )

    @property
    def sampling(self) -> Sampling:
        """Only rows of the episodes with the highest returns."""
        return TopFractionSampling(self.top_fraction)
