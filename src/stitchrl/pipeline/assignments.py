"""Candidates and their settings as people write them: `--algorithms`, `--set LABEL.setting=value`, and TOML tables."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from stitchrl.algorithms.base import Algorithm
from stitchrl.errors import ConfigurationError
from stitchrl.messages import printable
from stitchrl.pipeline.candidates import job_algorithm, unique_labels
from stitchrl.pipeline.own_algorithms import is_own, own_algorithm

__all__ = ["candidates_of", "candidates_of_tables", "settings_of", "with_assignments", "with_setting"]

Classes = Mapping[str, type[Algorithm]]
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def candidates_of(names: str, classes: Classes, gamma: float, *, continuous: bool = False) -> dict[str, Algorithm]:
    """Label -> algorithm, of names separated by commas, each with the main job's settings.

    Args:
        names: such as "BC,IQL,IQL", whose second IQL gets the label "IQL-2"; "mine.py:Mine" is the class of a file.
        classes: name -> algorithm, of all there are.
        gamma: the log's discount.
        continuous: whether the log's actions are.

    Raises:
        ConfigurationError: a name that is no algorithm's, or none at all.
    """
    kinds = [_class_of(name.strip(), classes) for name in names.split(",") if name.strip()]
    if not kinds:
        raise ConfigurationError(f"At least one algorithm must be named; there are {', '.join(classes)}.")
    labels = unique_labels(kind.__name__ for kind in kinds)
    return {label: job_algorithm(kind, gamma, continuous=continuous) for label, kind in zip(labels, kinds, strict=True)}


def candidates_of_tables(
    tables: Any, classes: Classes, gamma: float, *, continuous: bool = False
) -> dict[str, Algorithm]:
    """Label -> algorithm, of the `[[candidate]]` tables of a TOML file.

    Args:
        tables: each names its `algorithm`, may have a `label`, and says which settings differ from the main job's.
        classes, gamma, continuous: as of `candidates_of`.

    Raises:
        ConfigurationError: a table without an algorithm, two of one label, an unknown setting, or a value out of range.
    """
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigurationError("Candidates of a TOML file must be tables, each under a line [[candidate]].")
    for table in tables:
        if "algorithm" not in table:
            raise ConfigurationError(
                f"Every [[candidate]] must name its `algorithm`, one of {', '.join(classes)}; one has only "
                f"{', '.join(map(printable, table)) or 'nothing'}."
            )
    kinds = [_class_of(str(table["algorithm"]), classes) for table in tables]
    labels = unique_labels(str(table.get("label", kind.__name__)) for table, kind in zip(tables, kinds, strict=True))
    found: dict[str, Algorithm] = {}
    for table, kind, label in zip(tables, kinds, labels, strict=True):
        if "label" in table and label != str(table["label"]):
            raise ConfigurationError(f"Two candidates have the label {str(table['label'])!r}; labels must differ.")
        algorithm = job_algorithm(kind, gamma, continuous=continuous)
        for setting, value in table.items():
            if setting not in ("algorithm", "label"):
                algorithm = _with_table(algorithm, label, (setting,), value)
        found[label] = algorithm
    return found


def with_assignments(candidates: Mapping[str, Algorithm], assignments: Sequence[str]) -> dict[str, Algorithm]:
    """The candidates with settings changed, each by a text LABEL.setting=value.

    Where there is one candidate, its label may be left out.

    Raises:
        ConfigurationError: a text of another form, an unknown label or setting, or a value that does not fit.
    """
    changed = dict(candidates)
    by_label = {label.lower(): label for label in candidates}
    for text in assignments:
        target, equals, value = text.partition("=")
        parts = [part.strip() for part in target.split(".")]
        if not equals or not all(parts):
            raise ConfigurationError(
                f"`--set` must be LABEL.setting=value, such as IQL.expectile=0.9; got {printable(repr(text))}."
            )
        label = by_label.get(parts[0].lower())
        if label is not None and len(parts) > 1:
            parts = parts[1:]
        elif len(candidates) == 1 and (len(parts) == 1 or parts[0] in settings_of(next(iter(changed.values())))):
            (label,) = candidates
        else:
            raise ConfigurationError(
                f"`--set {printable(text)}` must begin with the label of a candidate and a dot; the candidates are "
                f"{', '.join(candidates)}."
            )
        changed[label] = with_setting(changed[label], label, parts, value.strip())
    return changed


def with_setting(holder: Any, label: str, path: Sequence[str], value: Any) -> Any:
    """A copy of an algorithm, or of an object among its settings, with one setting changed.

    Args:
        holder: a frozen dataclass.
        label: what messages call it.
        path: name of the setting; of a setting inside an object that is a setting, the names that lead there.
        value: as text, or as TOML gives it; it is converted to the setting's type.

    Raises:
        ConfigurationError: there is no such setting, or the value is of another type or out of range.
    """
    name, rest = path[0], path[1:]
    known = settings_of(holder)
    if name not in known:
        raise ConfigurationError(f"{label} has no setting {printable(name)!r}; it has {', '.join(known)}.")
    hint, meaning = known[name]
    kinds: list[Any] = [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]
    old = getattr(holder, name)
    if kinds and not rest:
        inner = ", ".join(f"{name}.{entry}" for entry in settings_of(kinds[0]))
        raise ConfigurationError(f"`{name}` of {label} holds several settings; name one of {inner}.")
    if rest:
        if old is None and kinds:
            old = kinds[0]()
        if not dataclasses.is_dataclass(old):
            raise ConfigurationError(f"`{name}` of {label} is one value and has no setting {'.'.join(rest)!r}.")
        return dataclasses.replace(holder, **{name: with_setting(old, f"{label}.{name}", rest, value)})
    return dataclasses.replace(holder, **{name: _converted(value, hint, f"`{name}` of {label}", meaning)})


def _class_of(name: str, classes: Classes) -> type[Algorithm]:
    """The algorithm of a name, whose large and small letters are alike, or of FILE.py:CLASS."""
    if is_own(name):
        return own_algorithm(name)
    for known, kind in classes.items():
        if known.lower() == name.lower():
            return kind
    raise ConfigurationError(
        f"There is no algorithm {printable(name)!r}; there are {', '.join(classes)}. One of your own is named as FILE.py:CLASS."
    )


def settings_of(holder: Any) -> dict[str, tuple[Any, str]]:
    """Name -> (type, meaning), of everything that the constructor takes."""
    found = {}
    for name, hint in typing.get_type_hints(holder if isinstance(holder, type) else type(holder)).items():
        field = holder.__dataclass_fields__.get(name)
        if field is not None and field.init and typing.get_origin(hint) is not typing.ClassVar:
            kind = hint.type if isinstance(hint, dataclasses.InitVar) else hint
            found[name] = (kind, field.metadata.get("meaning", ""))
    return found


def _with_table(algorithm: Algorithm, label: str, path: tuple[str, ...], value: Any) -> Algorithm:
    """A setting as TOML gives it; a table holds the settings of an object that is a setting."""
    if isinstance(value, dict):
        for name, entry in value.items():
            algorithm = _with_table(algorithm, label, (*path, name), entry)
        return algorithm
    changed: Algorithm = with_setting(algorithm, label, path, value)
    return changed


def _converted(value: Any, hint: Any, where: str, meaning: str) -> Any:
    """A text or a TOML value as the type of a setting. Raises ConfigurationError saying what is expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and isinstance(value, str) and value.lower() == "none":
            return None
        return _converted(value, next(kind for kind in arguments if kind is not type(None)), where, meaning)
    if origin is tuple:
        return _numbers(value, arguments, where, meaning)
    if origin is Literal:
        if value not in arguments:
            raise _refused(where, " or ".join(f'"{word}"' for word in arguments), value, meaning)
        return value
    number = _number(value)
    if hint is bool:
        word = WORDS.get(str(value).lower())
        if word is None:
            raise _refused(where, "true or false", value, meaning)
        return word
    if hint is int:
        if number is None or isinstance(number, float):
            raise _refused(where, "a whole number", value, meaning)
        return number
    if hint is float:
        if number is None:
            raise _refused(where, "a number", value, meaning)
        return float(number)
    if hint is str and isinstance(value, str):
        return value
    raise ConfigurationError(
        f"{where} cannot be written as text or TOML: make the algorithm in Python and use `st.run`."
    )


def _numbers(value: Any, kinds: tuple[Any, ...], where: str, meaning: str) -> tuple[Any, ...]:
    """Several numbers: "128x128" or "128,128", or a list."""
    entries = value if isinstance(value, list | tuple) else re.split(r"[x,]", str(value).strip("()[] ").rstrip(","))
    kind = kinds[0]
    if len(kinds) > 1 and kinds[1] is not Ellipsis and len(kinds) != len(entries):
        raise _refused(where, f"{len(kinds)} numbers", value, meaning)
    try:
        return tuple(_converted(entry, kind, where, "") for entry in entries)
    except ConfigurationError:
        plain = "whole numbers such as 128x128" if kind is int else "numbers such as 0.1,0.9"
        raise _refused(where, plain, value, meaning) from None


def _number(value: Any) -> int | float | None:
    """A number, or a text that is one; None for anything else, truth values too."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return None
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return None


def _refused(where: str, expected: str, value: Any, meaning: str) -> ConfigurationError:
    return ConfigurationError(f"{where} must be {expected}; got {printable(repr(value))}. {meaning}".rstrip())
