"""`--set fit.setting=value` of `stitchrl evaluate`: how the models that estimators rest on are fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

import stitchrl
from stitchrl.errors import ConfigurationError

if TYPE_CHECKING:
    from stitchrl.evaluation.settings import FitSettings

__all__ = ["FitAssignments", "fit_settings"]

LABEL = "fit"
FitAssignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="fit.SETTING=VALUE",
        help="Change how the models of values and of the behaviour are fitted, such as fit.hidden_sizes=64x64, "
        "fit.behavior=counts or fit.learning_rate=0.0003. May be repeated. It wins over --evaluation-updates and --seed.",
    ),
]


def fit_settings(updates: int, seed: int, assignments: Sequence[str] | None) -> FitSettings:
    """The settings of an evaluation's fits, changed by texts fit.setting=value.

    Raises:
        ConfigurationError: a text of another form, an unknown setting, or a value that does not fit.
    """
    from stitchrl.messages import printable
    from stitchrl.pipeline.assignments import settings_of, with_setting

    settings = stitchrl.FitSettings(updates=updates, seed=seed)
    known = settings_of(settings)
    for text in assignments or ():
        target, equals, value = text.partition("=")
        name = target.strip().removeprefix(f"{LABEL}.").strip()
        if not equals or name not in known:
            raise ConfigurationError(
                f"`--set` of `stitchrl evaluate` must be {LABEL}.setting=value, such as {LABEL}.hidden_sizes=64x64; got "
                f"{printable(repr(text))}. The settings are {', '.join(f'{LABEL}.{each}' for each in known)}."
            )
        settings = with_setting(settings, LABEL, [name], value.strip())
    return settings
