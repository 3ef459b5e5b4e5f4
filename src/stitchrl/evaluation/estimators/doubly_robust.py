"""Doubly robust estimation over episodes: dr (Jiang and Li 2016) and wdr (Thomas and Brunskill 2016).

With Q fitted on other episodes, V(s) = E_{a ~ policy} Q(s, a), w_t the cumulative weight and w_{-1} = 1:

    dr    (1/n) sum_i sum_t gamma^t [ w_t (r_t - Q(s_t, a_t)) + w_{t-1} V(s_t) ]
    wdr   the same with w_t / sum_j w_t^j in place of w_t / n

Q = 0 gives pdis and pdwis; an exact Q leaves only the spread of V(s_0) and of the transitions. Cut episodes stop counting at
the cut and hand on their weight as in importance sampling, so that no value of an unknown next state is needed.
"""

from __future__ import annotations

from stitchrl.evaluation.doubly_robust_form import (
    DR,
    WDR,
    DoublyRobust,
    doubly_robust,
    weighted_doubly_robust,
)

__all__ = ["DOUBLY_ROBUST", "DoublyRobust", "doubly_robust", "weighted_doubly_robust"]

DOUBLY_ROBUST = (
    DoublyRobust("dr", "doubly robust: a fitted model, corrected by weights", *DR, False),
    DoublyRobust(
        "wdr",
        "weighted doubly robust: weights that correct a fitted model",
        *WDR,
        True,
        primary_rank=1,
    ),
)
