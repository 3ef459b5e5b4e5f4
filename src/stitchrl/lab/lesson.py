"""What a lesson is made of: prose, figures, the controls of a figure and the numbers shown beside it.

A figure is answered in one of two ways. By *frames*: every position of its controls was computed beforehand, and the page
picks rows. *Live*: a small JavaScript function in `assets/live.js` computes rows and numbers, and a test holds it to its
Python twin.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stitchrl.errors import ConfigurationError

__all__ = ["Choice", "Control", "Figure", "Lesson", "Number", "Slider"]


@dataclasses.dataclass(frozen=True)
class Slider:
    """A slider over a list of values.

    Attributes:
        name: an identifier. The chart has a parameter of this name, and so has each frame.
        label: what it sets, as a person reads it, with the unit where there is one.
        values: the positions, in order.
        start: the value shown first, one of `values`.
        names: the values as a person reads them, where a plain number will not do.
        play: shows a button that steps through the positions, for a figure that is an animation.
    """

    name: str
    label: str
    values: Sequence[float]
    start: float
    names: Sequence[str] | None = None
    play: bool = False

    def __post_init__(self) -> None:
        _check(self, self.values, self.names)


@dataclasses.dataclass(frozen=True)
class Choice:
    """Buttons of which one is pressed.

    Attributes:
        name, label, start, names: as in `Slider`.
        values: what can be chosen; texts or numbers.
    """

    name: str
    label: str
    values: Sequence[str | float]
    start: str | float
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _check(self, self.values, self.names)


Control = Slider | Choice


@dataclasses.dataclass(frozen=True)
class Number:
    """A number or a short text shown beside a figure, which follows its controls.

    Attributes:
        name: its key in the frames, or in what the live function returns as `numbers`.
        label: what it is, as a person reads it, with the unit where there is one.
        decimals: places after the point; texts are shown as they are.
        percent: shown as a percentage.
    """

    name: str
    label: str
    decimals: int = 2
    percent: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A chart, its controls, and the numbers beside it.

    Attributes:
        name: letters, digits, `_` and `-`, unique in its lesson; the prose places it by `[[ figure("name") ]]`.
        title: one sentence that says what to look at.
        chart: an Altair chart. It has a parameter for each control that its rows depend on, made by `figures.parameter`.
        description: what the chart shows, for those who cannot see it.
        controls: sliders and choices, at most three, of which one has a play button.
        numbers: what is shown beside it.
        frames: one mapping for each combination of control values: the value of each control and of each number.
            Empty where the figure is live or where nothing is shown beside it.
        live: name of the function in `assets/live.js` that is called with the values of the controls and `given`, and returns
            `{"rows": {data name: rows}, "numbers": {name: value}}`.
        given: constants handed to the live function.
    """

    name: str
    title: str
    chart: Any
    description: str
    controls: Sequence[Control] = ()
    numbers: Sequence[Number] = ()
    frames: Sequence[Mapping[str, Any]] = ()
    live: str | None = None
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_names()
        if self.live is not None or not self.numbers:
            return
        keys = [control.name for control in self.controls]
        positions = [tuple(frame.get(key) for key in keys) for frame in self.frames]
        seen, wanted = set(positions), set(itertools.product(*(control.values for control in self.controls)))
        if seen != wanted or len(seen) < len(positions):
            raise ConfigurationError(
                f"Figure {self.name!r} needs a frame for each of the {len(wanted)} positions of its controls; "
                f"{len(wanted - seen)} are missing, {len(seen - wanted)} fit none and {len(positions) - len(seen)} come twice."
            )
        for frame, number in itertools.product(self.frames, self.numbers):
            if number.name not in frame:
                raise ConfigurationError(
                    f"Figure {self.name!r} shows the number {number.name!r}, which its frames lack."
                )

    def _check_names(self) -> None:
        """The page finds a figure, its controls and its numbers by their names."""
        names = [control.name for control in self.controls], [number.name for number in self.numbers]
        if not re.fullmatch(r"[A-Za-z][\w-]*", self.name):
            raise ConfigurationError(f"The name of a figure must be of letters, digits, _ and -; got {self.name!r}.")
        if any(len(set(some)) < len(some) for some in names):
            raise ConfigurationError(
                f"The controls of figure {self.name!r} must have names of their own, and so must its numbers; got {names[0]} "
                f"and {names[1]}."
            )
        plays = sum(isinstance(control, Slider) and control.play for control in self.controls)
        if len(self.controls) > 3 or plays > 1:
            raise ConfigurationError(
                f"A figure has at most three controls and one play button; {self.name!r} has {len(self.controls)} and {plays}."
            )


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A page.

    Attributes:
        title: of the page.
        question: the question that it answers, in one sentence.
        figures: in any order; the prose places them.
        values: numbers and texts that the prose names by `[[ name ]]`; a filter writes a number, as `[[ name | fixed(2) ]]`.
    """

    title: str
    question: str
    figures: Sequence[Figure]
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [figure.name for figure in self.figures]
        if len(set(names)) < len(names):
            raise ConfigurationError(f"The figures of lesson {self.title!r} must have names of their own; got {names}.")


def _check(control: Control, values: Sequence[Any], names: Sequence[str] | None) -> None:
    """One sentence on a control that cannot work."""
    if not control.name.isidentifier():
        raise ConfigurationError(f"The name of a control must be an identifier; got {control.name!r}.")
    if len(set(values)) < max(len(values), 2) or control.start not in values:
        raise ConfigurationError(
            f"Control {control.name!r} needs at least two different values with its start {control.start!r} among them; "
            f"got {list(values)!r}."
        )
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise ConfigurationError(f"The values of control {control.name!r} must be finite; name infinity by `names`.")
    if names is not None and len(names) != len(values):
        raise ConfigurationError(f"Control {control.name!r} has {len(values)} values and {len(names)} names.")
