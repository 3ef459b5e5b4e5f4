"""The baseline of a run: the policy that gains are taken over, where that is not the behaviour."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.deployment.bundle import Bundle
from stitchrl.errors import ConfigurationError, StitchRLError
from stitchrl.evaluation.log_of_policy import as_judged, notes_on_policies
from stitchrl.evaluation.logged_policy import knows_every_action
from stitchrl.evaluation.looks import fingerprint
from stitchrl.evaluation.probabilities import PolicyLike
from stitchrl.messages import printable
from stitchrl.nn.memory import has_memory
from stitchrl.storage.looks import SAME_POLICY

__all__ = ["Baseline", "same_baseline"]


@dataclasses.dataclass(frozen=True, eq=False)
class Baseline:
    """A policy that gains are taken over.

    Attributes:
        policy: the policy, as `st.evaluate` takes it.
        name: what the files of the run and the report call it; "" is the label of a bundle, or the name of the policy's class.
        force: whether to compare with it also where the log has, or seems to have, other units than its own.
    """

    policy: PolicyLike
    name: str = ""
    force: bool = False

    @property
    def title(self) -> str:
        """What the files of the run and the report call it."""
        label = self.policy.provenance.get("label") if isinstance(self.policy, Bundle) else None
        return printable(self.name or str(label or type(self.policy).__name__))

    def identity(self, log: Dataset) -> dict[str, Any]:
        """What tells this baseline from others: its title, and a few numbers that depend on everything it does on the log.

        Raises:
            ConfigurationError: the policy cannot be asked about the rows of the log, or not about every action; or it learned
                from columns, actions or units with another meaning.
        """
        if not any(hasattr(self.policy, name) for name in ("probs", "sample", "mode", "log_prob")):
            raise ConfigurationError(
                f"`baseline` must be a policy, such as `st.load_policy` gives; got {printable(repr(self.policy))}."
            )
        if has_memory(self.policy):
            raise ConfigurationError(
                "`baseline` must be a policy of observations, since candidates are ranked by fitted values of them; "
                f"{self.title!r} remembers its episode. `st.evaluate(policy, log, baseline=...)` compares by weights."
            )
        if not knows_every_action(self.policy, log):
            raise ConfigurationError(
                "`baseline` must be a policy that is known for every action, since candidates are ranked by fitted values; of "
                f"{self.title!r} this log has the probability of the logged action alone. Add `policy_probs`, or give a policy "
                "that can act."
            )
        try:
            notes_on_policies([self.policy], log, unseen=0, force=self.force)
            numbers = fingerprint(as_judged(self.policy), log)
        except StitchRLError as error:
            raise ConfigurationError(f"The baseline {self.title!r} does not fit this log: {error}") from None
        return {"baseline": self.title, "baseline_fingerprint": [float(number) for number in numbers]}


def same_baseline(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two runs are over the same baseline, whatever it is called: rounding differs between machines."""
    one, other = (np.asarray(entry.get("baseline_fingerprint", ()), np.float64) for entry in (found, wanted))
    return bool(one.size and one.shape == other.shape and (np.abs(one - other) <= SAME_POLICY).all())
