"""Settings of an algorithm: dataclass fields that know their range and meaning, checked and revived in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from stitchrl.errors import ConfigurationError
from stitchrl.nn.networks import Network

__all__ = [
    "INTERVALS",
    "check_settings",
    "choice",
    "default_settings",
    "flag",
    "network_setting",
    "revived_settings",
    "setting",
]

INTERVALS = {
    "(0, 1)": lambda x: 0 < x < 1,
    "(0, 1]": lambda x: 0 < x <= 1,
    "[0, 1)": lambda x: 0 <= x < 1,
    "[0, 0.5)": lambda x: 0 <= x < 0.5,
    "[0, 1]": lambda x: 0 <= x <= 1,
    "(-inf, inf)": lambda x: float("-inf") < x < float("inf"),
    "(0, inf)": lambda x: 0 < x < float("inf"),
    "[0, inf)": lambda x: 0 <= x < float("inf"),
    "at least 0": lambda x: isinstance(x, Integral) and int(x) >= 0,
    "at least 1": lambda x: isinstance(x, Integral) and int(x) >= 1,
    "at least 2": lambda x: isinstance(x, Integral) and int(x) >= 2,
}


def setting(default: Any, interval: str, meaning: str, *, static: bool = False, kw_only: bool = False) -> Any:
    """A dataclass field with its allowed range and meaning, checked when the algorithm is made.

    Settings that are floats are inputs of the compiled program, so that another value compiles nothing and several values
    train together (`fit_grid`). Whole numbers and tuples are built into it.

    Args:
        default: value when not given.
        interval: a key of `INTERVALS`; for tuples every entry must lie in it.
        meaning: one sentence; it ends the error message, so say what larger does.
        static: True where Python code branches on a number or `prepare` reads it, so that it is built into the program.
        kw_only: as for `dataclasses.field`.
    """
    kind = {"interval": interval, "meaning": meaning, "input": isinstance(default, float) and not static}
    return dataclasses.field(default=default, metadata=kind, kw_only=kw_only)


def choice(default: str, choices: tuple[str, ...], meaning: str) -> Any:
    """A setting that is one word of several; keyword-only, and built into the program."""
    return dataclasses.field(default=default, metadata={"choices": choices, "meaning": meaning}, kw_only=True)


def flag(default: bool, meaning: str) -> Any:
    """A setting that is yes or no; keyword-only, and built into the program."""
    return dataclasses.field(default=default, metadata={"choices": (True, False), "meaning": meaning}, kw_only=True)


def network_setting(default: Network | None, meaning: str) -> Any:
    """A setting that is the shape of a network; keyword-only. Plain widths such as (128, 128) stand for a `Network`.

    Args:
        default: the shape when none is given; None where another network's shape then holds.
        meaning: one sentence, the end of the error message.
    """
    return dataclasses.field(default=default, metadata={"network": True, "meaning": meaning}, kw_only=True)


def check_settings(algorithm: Any) -> None:
    """Bring the fields of a new algorithm into their own types. Raises ConfigurationError outside a field's range."""
    name = type(algorithm).__name__
    for field in dataclasses.fields(algorithm):
        value, meta = getattr(algorithm, field.name), field.metadata
        if "choices" in meta:
            # 1 == True: compare kinds too.
            if not any(value == c and type(value) is type(c) for c in meta["choices"]):
                allowed = " or ".join(f'"{c}"' if isinstance(c, str) else str(c) for c in meta["choices"])
                raise ConfigurationError(
                    f"`{field.name}` of {name} must be {allowed}; got {value!r}. {meta['meaning']}"
                )
        elif "network" in meta:
            object.__setattr__(algorithm, field.name, _as_network(name, field, value))
        elif "interval" in meta:
            if isinstance(value, list):  # as JSON and people write it; settings are hashed
                value = tuple(value)
                object.__setattr__(algorithm, field.name, value)
            if value is not None or field.default is not None:
                _check_interval(name, field, value)


def _check_interval(name: str, field: dataclasses.Field[Any], value: Any) -> None:
    interval = field.metadata["interval"]
    values = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(v, Real) and not isinstance(v, bool) and INTERVALS[interval](v) for v in values):
        rule = interval if interval.startswith("at") else f"in {interval}"
        raise ConfigurationError(f"`{field.name}` of {name} must be {rule}; got {value!r}. {field.metadata['meaning']}")


def _as_network(name: str, field: dataclasses.Field[Any], value: Any) -> Network | None:
    if value is None and field.default is None:
        return None
    if isinstance(value, Network):
        return value
    try:
        if isinstance(value, Mapping | list | tuple):
            revived = _revived(value)
            return revived if isinstance(revived, Network) else Network(tuple(revived))
    except TypeError as error:
        raise ConfigurationError(f"`{field.name}` of {name} cannot be read: {error}.") from None
    raise ConfigurationError(
        f"`{field.name}` of {name} must be a st.Network or a tuple of widths; got {value!r}. {field.metadata['meaning']}"
    )


def default_settings(kind: type) -> dict[str, Any]:
    """The defaults of an algorithm's settings, as plain content; those without a default are left out."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return {name: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for name, v in found.items()}  # type: ignore[arg-type]


def revived_settings(settings: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Settings as the constructor of an algorithm takes them, from their JSON.

    A setting that is an object is made anew from its fields, by the kind of object that is its default.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    revived = {}
    for name, value in settings.items():
        made = Network if name not in fields or "network" in fields[name].metadata else type(fields[name].default)
        revived[name] = _revived(value, made)
    return revived


def _revived(value: Any, kind: type = Network) -> Any:
    """A setting from its JSON: lists were tuples, and what has fields was an object of this kind."""
    if isinstance(value, Mapping):
        return kind(**{name: _revived(entry) for name, entry in value.items()})
    return tuple(value) if isinstance(value, list) else value
