"""How the values of a file are written: the section [file] of a schema."""

from __future__ import annotations

import codecs
import dataclasses
import zoneinfo
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stitchrl.errors import SchemaError
from stitchrl.messages import listed, shown

__all__ = ["DAY_FIRST", "MONTH_FIRST", "FileRules"]

DAY_FIRST, MONTH_FIRST = "day first", "month first"
"""What `dates` may be beside a pattern such as "%d.%m.%Y %H:%M"."""
SIGNS = {"delimiter": "separates values", "quotechar": "encloses values", "decimal": "separates decimals"}
"""Settings of one character -> what the character does."""
LISTS = ("names", "na_values", "true_values", "false_values", "text_columns")


@dataclasses.dataclass(frozen=True)
class FileRules:
    """How the values of a file are written. What is not given here is found from the content where it is plain.

    The names are those of `pandas.read_csv` where it has them.

    Attributes:
        delimiter: the character between values of a text file: "," or ";" or a tab or "|", for example.
        quotechar: the character around values that hold the delimiter.
        decimal: the character between a number's whole part and its decimals, "." or ",".
        thousands: the character between groups of three digits; an empty text says that there is none.
        encoding: the encoding of the text, such as "utf-8", "utf-16" or "windows-1252".
        header: whether the first line holds the names of the columns.
        skiprows: how many lines stand above the table, such as a title; by default those with one text at the left.
        names: the names of the columns, in their order; they take the place of those in the file.
        na_values: further words that mean a missing value.
        true_values, false_values: further words that mean true and false.
        dates: how text says a date: "day first" (31/12/2025), "month first" (12/31/2025), or a pattern such as
            "%d.%m.%Y %H:%M".
        timezone: the time zone of clock times that name none, such as "Europe/Berlin". They become UTC. By default they
            are taken as they stand.
        text_columns: columns of names, whose values stay as they are written unless all are whole numbers: "1,20" is then no
            decimal. The columns of identifiers are among them anyway, and those with categories such as "1,2" and "1.10".
        sheet: the sheet of a spreadsheet, by its name or by its number from 0 on; the first by default.
        vocabularies: columns with the words that the schema lists for them, which are not missing values even if they are
            "None" or "NA". `Schema.file_rules` fills it in; it is no setting of [file].

    Raises:
        SchemaError: a value is outside what is said here.
    """

    delimiter: str | None = None
    quotechar: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    encoding: str | None = None
    header: bool | None = None
    skiprows: int | None = None
    names: tuple[str, ...] | None = None
    na_values: tuple[str, ...] = ()
    true_values: tuple[str, ...] = ()
    false_values: tuple[str, ...] = ()
    dates: str | None = None
    timezone: str | None = None
    text_columns: tuple[str, ...] = ()
    sheet: str | int | None = None
    vocabularies: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        for name in LISTS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(str(value) for value in getattr(self, name)))
        for name, does in SIGNS.items():
            value = getattr(self, name)
            if value is not None and (len(value) != 1 or not value.isascii() or value in "\r\n"):
                raise SchemaError(f"`{name}` of [file] must be the one character that {does}; got {shown(value)}.")
        if self.skiprows is not None and not 0 <= self.skiprows <= 90:
            raise SchemaError(
                f"`skiprows` of [file] must be the number of lines above the table, from 0 to 90; got {self.skiprows}."
            )
        if self.decimal not in (None, ".", ","):
            raise SchemaError(f'`decimal` of [file] must be "." or ","; got {shown(self.decimal)}.')
        if self.thousands is not None and (len(self.thousands) > 1 or self.thousands.isalnum()):
            raise SchemaError(
                "`thousands` of [file] must be the one character between groups of three digits, or an empty text if there "
                f"is none; got {shown(self.thousands)}."
            )
        if self.thousands and self.thousands == (self.decimal or "."):
            raise SchemaError(
                f"`thousands` and `decimal` of [file] must differ; both are {shown(self.thousands)}. Say what `decimal` is."
            )
        if self.delimiter is not None and self.delimiter == (self.quotechar or '"'):
            raise SchemaError(f"`delimiter` and `quotechar` of [file] must differ; both are {shown(self.delimiter)}.")
        self._check_names()
        both = {word.lower() for word in self.true_values} & {word.lower() for word in self.false_values}
        if both:
            raise SchemaError(f"A word of [file] cannot be both true and false; got {listed(sorted(both))}.")
        if self.dates is not None and self.dates not in (DAY_FIRST, MONTH_FIRST) and "%" not in self.dates:
            raise SchemaError(
                f'`dates` of [file] must be "{DAY_FIRST}", "{MONTH_FIRST}" or a pattern such as "%d.%m.%Y %H:%M"; '
                f"got {shown(self.dates)}."
            )

    def _check_names(self) -> None:
        if self.names is not None and (not self.names or len(set(self.names)) < len(self.names)):
            raise SchemaError(f"`names` of [file] must be different names, at least one; got {listed(self.names)}.")
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except (LookupError, ValueError):
                raise SchemaError(
                    f"`encoding` of [file] must be one that Python knows, such as utf-8, utf-16 or windows-1252; got "
                    f"{shown(self.encoding)}."
                ) from None
        if self.timezone is not None:
            try:
                zoneinfo.ZoneInfo(self.timezone)
            except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
                raise SchemaError(
                    "`timezone` of [file] must be a time zone such as Europe/Berlin or UTC that this machine knows; got "
                    f"{shown(self.timezone)}."
                ) from None

    def given(self) -> dict[str, Any]:
        """The settings that are not at their defaults, as TOML holds them."""
        held = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, (value, default) in held.items()
            if value != default and name != "vocabularies"
        }

    def with_names(self, names: Iterable[str | Sequence[str]], words: Mapping[str, Sequence[str]]) -> FileRules:
        """These rules, with the columns that hold names rather than numbers.

        Args:
            names: columns of identifiers.
            words: column -> the words that a schema lists for it.
        """
        text = [name for column in names for name in ((column,) if isinstance(column, str) else column)]
        text += [name for name, listed in words.items() if any(map(_changes_as_number, listed))]
        return dataclasses.replace(
            self,
            text_columns=tuple(dict.fromkeys((*self.text_columns, *text))),
            vocabularies=tuple((name, tuple(listed)) for name, listed in words.items()),
        )


def _changes_as_number(word: str) -> bool:
    """Whether reading a word as a number loses how it is written: "1,2", and "1.10", which would become 1.1."""
    try:
        return not word.isdigit() and f"{float(word):g}" != word
    except ValueError:
        return "," in word
