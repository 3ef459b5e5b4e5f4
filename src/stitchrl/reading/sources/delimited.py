"""Tables of delimited text (CSV and TSV), plain or compressed, read a block of lines at a time."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from stitchrl.data.file_rules import FileRules
from stitchrl.errors import DataError
from stitchrl.messages import listed, printable, shown
from stitchrl.reading.sources.compressed import unpacked, without_compression
from stitchrl.reading.sources.dialect import DELIMITERS, Dialect, dialect_of
from stitchrl.reading.sources.first_lines import FirstLines, first_lines, titles_note
from stitchrl.reading.sources.number_styles import SEPARATORS, Seen, Style, points_may_group
from stitchrl.reading.sources.source import Block, LogSource, reading_errors
from stitchrl.reading.sources.text import MOST_COLUMNS, arrow_owned, encoding_of, line_blocks, wider
from stitchrl.reading.sources.unnamed import notes_on_unnamed, with_numbers_for_names

__all__ = ["open_delimited"]

LEADING_ZERO = r"^\s*0[0-9]"
"""Matches leading zeros: 01 and 1 may be different identifiers."""
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
"""How files write a missing value."""
OTHER_ENCODING = "windows-1252"
"""What text is read as that is not UTF-8."""


class _NotUTF8Error(Exception):
    """The text is not UTF-8, and the schema names no encoding."""


@dataclasses.dataclass(frozen=True)
class _Table:
    """How a file of delimited text is parsed.

    Attributes:
        path: the file.
        rules: what is known of it.
        encoding: of its text; None for UTF-8 that is not checked any more.
        dialect: how its values are separated and enclosed.
        names: of its columns.
        before: what stands before the table.
        decimal: between whole parts and decimals.
        types: of the columns; None while they are looked for.
        styles: columns whose numbers Arrow does not parse -> how they are written.
        unnamed: those of the names that are numbers of columns, behind the last column that the first line names.
    """

    path: Path
    rules: FileRules
    encoding: str | None
    dialect: Dialect
    names: tuple[str, ...]
    before: FirstLines
    decimal: str = "."
    types: dict[str, pa.DataType] | None = None
    styles: dict[str, Style] = dataclasses.field(default_factory=dict)
    unnamed: tuple[str, ...] = ()

    @property
    def empty(self) -> tuple[str, ...]:
        """The unnamed columns at the end without a single value, as where every line ends with delimiters."""
        return tuple(name for name in self.unnamed if pa.types.is_null((self.types or {})[name]))


def open_delimited(path: Path, rules: FileRules | None = None) -> LogSource:
    """The columns of a CSV or TSV file. The whole file is read once to find their types.

    A column is text if any of its values has a leading zero before another digit, such as 01 or 007. What the rules leave
    open is found from the content, and the notes of the source say what was found.

    Raises:
        DataError: not text, no header, rows of different lengths, repeated column names.
    """
    rules = rules or FileRules()
    kind = "TSV" if without_compression(path) == ".tsv" else "CSV"
    with reading_errors(str(path), kind):
        try:
            encoding = rules.encoding or _marked(path)
            table, doubts, settled = _with_types(_opened(path, rules, encoding))
        except _NotUTF8Error:
            try:
                table, doubts, settled = _with_types(_opened(path, rules, OTHER_ENCODING))
            except UnicodeError:
                table, doubts, settled = _with_types(_opened(path, rules, "utf-8"))
        except UnicodeError as error:
            raise DataError(
                f"{path.name} is not {encoding} text ({printable(str(error))}): correct `encoding` under [file] of its schema."
            ) from None
    names = tuple(name for name in table.names if name not in table.empty)
    source = LogSource(path.name, "TSV" if table.dialect.delimiter == "\t" else "CSV", names, lambda wanted: iter(()))

    def blocks(wanted: Sequence[str]) -> Iterator[Block]:
        with reading_errors(path.name, source.format):
            for batch in _batches(table, list(wanted)):
                yield {
                    name: table.styles[name].numbers(column) if name in table.styles else column
                    for name, column in zip(batch.schema.names, batch.columns, strict=True)
                }

    return dataclasses.replace(source, blocks=blocks, notes=tuple(_notes(table)), doubts=doubts, settled=settled)


def _marked(path: Path) -> str | None:
    """The encoding that the first bytes of a file tell, unless it may be UTF-8."""
    found = encoding_of(next(unpacked(path), b""))
    return None if found == "utf-8" else found


def _opened(path: Path, rules: FileRules, encoding: str | None) -> _Table:
    """A file whose types are not known yet. Raises DataError if it has no rows, too many columns or names that do not fit."""
    first = next(_lines(path, encoding), b"")
    known = rules.delimiter or ("\t" if without_compression(path) == ".tsv" else None)
    before = first_lines(first[: 2**17], known, rules.skiprows)
    first = first[before.size :].lstrip(b"\r\n")
    line = first[: first.find(b"\n") + 1] or (first + b"\n" if first else b"")
    if not line:
        raise DataError(f"{path.name} has no rows; a log needs at least one episode.")
    if encoding is None:
        _check_utf8(line)
    found = dataclasses.replace(rules, delimiter=rules.delimiter or before.delimiter)
    dialect = dialect_of(first[: 2**17], found, tabs=without_compression(path) == ".tsv")
    sign = dialect.delimiter.encode()
    if line.count(sign) >= MOST_COLUMNS:
        raise DataError(f"{path.name} has more than {MOST_COLUMNS:,} columns; put vectors into one list column.")
    parsed = arrow_csv.read_csv(
        arrow_owned(line),
        arrow_csv.ReadOptions(autogenerate_column_names=True, block_size=len(line) + 1),
        arrow_csv.ParseOptions(delimiter=dialect.delimiter, quote_char=dialect.quotechar),
        arrow_csv.ConvertOptions(column_types={f"f{i}": pa.string() for i in range(line.count(sign) + 1)}),
    )
    fields = tuple(column[0].as_py() or "" for column in parsed.columns)
    if rules.names is not None and len(rules.names) != len(fields):
        raise DataError(
            f"`names` under [file] of the schema must name every column; it names {len(rules.names)}, and {path.name} has "
            f"{len(fields)}: {listed(fields)}."
        )
    unnamed: tuple[str, ...] = ()
    if rules.names is None and dialect.header:
        fields, unnamed = with_numbers_for_names(fields)
    names = rules.names or (fields if dialect.header else tuple(map(str, range(len(fields)))))
    return _Table(path, rules, encoding, dialect, names, before, unnamed=unnamed)


def _lines(path: Path, encoding: str | None) -> Iterator[bytes]:
    """The lines of a file in blocks, whatever ends them."""
    return line_blocks(path, encoding, carriage_returns=True)


def _check_utf8(lines: bytes) -> None:
    """Raise _NotUTF8Error unless the bytes are UTF-8."""
    if not lines.isascii():
        try:
            lines.decode()
        except UnicodeDecodeError:
            raise _NotUTF8Error from None


# --- types --------------------------------------------------------------------------------------------------------------


def _with_types(table: _Table) -> tuple[_Table, dict[str, str], dict[str, str]]:
    """The table with the types of its columns, the columns in doubt with the question, and what is certain of its numbers.

    A decimal comma is taken where the numbers of some column can be written in no other way, and those of no other column
    contradict.
    """
    rules = table.rules
    found = _styled(table)
    # Names stay text, whatever they look like, except for whole numbers, which have one spelling only.
    types = {
        name: pa.string() if name in rules.text_columns and not _keeps_its_type(kind) else kind
        for name, kind in (found[0].types or {}).items()
    }
    return dataclasses.replace(found[0], types=types), *found[1:]


def _keeps_its_type(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_null, pa.types.is_boolean, pa.types.is_binary)  # bytes are no text at all
    return any(is_kind(kind) for is_kind in kinds)


def _styled(table: _Table) -> tuple[_Table, dict[str, str], dict[str, str]]:
    """As `_with_types`, but columns of names are not yet made text; only the search for number styles leaves them out."""
    rules = table.rules
    if rules.decimal is not None:
        found, seen = _scan(dataclasses.replace(table, decimal=rules.decimal), commas=False)
        return *_with_styles(found, seen, set()), {}
    found, seen = _scan(table, commas=True, stop=True)
    commas = {name for name, column in seen.items() if column.comma and column.certain}
    if not commas:
        point = {"decimal": "."} if any(map(pa.types.is_floating, (found.types or {}).values())) else {}
        return *_with_styles(found, seen, set()), point
    floating = [
        name
        for name, kind in (found.types or {}).items()
        if pa.types.is_floating(kind) and name not in rules.text_columns
    ]
    with_comma, held = _scan(dataclasses.replace(table, decimal=","), commas=False)
    types = with_comma.types or {}
    contrary = [name for name in floating if pa.types.is_string(types[name]) and held[name].style() is None]
    if not contrary and any(pa.types.is_floating(types[name]) or held[name].style() for name in commas):
        return *_with_styles(with_comma, held, set()), {"decimal": ","}
    found, seen = _scan(table, commas=True)
    return *_with_styles(found, seen, commas), {}


def _scan(table: _Table, *, commas: bool, stop: bool = False) -> tuple[_Table, dict[str, Seen]]:
    """Read a file for the types of its columns.

    Args:
        table: the file.
        commas: whether a decimal comma is looked for as well.
        stop: whether to stop after a block in which a decimal comma is certain.
    """
    types: list[pa.DataType] = [pa.null()] * len(table.names)
    given = table.rules.thousands
    signs = tuple(sign for sign in SEPARATORS if sign != table.decimal) if given is None else tuple(given)
    names = frozenset(table.rules.text_columns)
    seen = {
        name: Seen(table.decimal, () if name in names else signs, commas=commas and name not in names)
        for name in table.names
    }
    for batch in _batches(table):
        types = [_wider(a, b) for a, b in zip(types, batch.schema.types, strict=True)]
        for name, column in zip(table.names, batch.columns, strict=True):
            seen[name].add(column)
        if stop and any(column.comma and column.certain for column in seen.values()):
            break
    return dataclasses.replace(table, types=dict(zip(table.names, types, strict=True))), seen


def _with_styles(table: _Table, seen: dict[str, Seen], contrary: set[str]) -> tuple[_Table, dict[str, str]]:
    """The table with the columns whose numbers Arrow does not parse, and the columns in doubt with the question.

    Args:
        table: with its types.
        seen: what the values of each column have shown.
        contrary: columns with decimal commas in a file whose other columns have decimal points.
    """
    types = table.types or {}
    styles: dict[str, Style] = {}
    doubts = {}
    plain = any(map(pa.types.is_floating, types.values())) or table.rules.thousands is not None
    text = {name: column for name, column in seen.items() if pa.types.is_string(types[name])}
    plain = plain or any(column.style() is not None and not column.comma for column in text.values())
    for name, column in text.items():
        style, (example, row) = column.style(), column.example
        called = f"Column {shown(name)} of {printable(table.path.name)} holds {shown(example)} in row {row}"
        if column.pointed and _point_is_open(table):
            doubts[name] = (
                f'{called}, where the point may separate thousands or decimals: say `thousands = "."` and `decimal = ","`, or '
                '`decimal = "."`, under [file] of the schema.'
            )
        elif name in contrary:
            doubts[name] = f"{called}, while other columns have decimal points: write all numbers alike."
        elif style is not None and style.thousands == "," and column.comma and not plain:
            doubts[name] = (
                f'{called}, where the comma may separate thousands or decimals: say `thousands = ","` or '
                '`decimal = ","` under [file] of the schema.'
            )
        elif style is not None:
            styles[name] = style
    return dataclasses.replace(table, styles=styles), doubts


def _wider(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """The type that holds the values of both: text holds every value, and bytes hold even what is not text."""
    return pa.binary() if pa.binary() in (a, b) else wider(a, b) or pa.string()


def _notes(table: _Table) -> Iterator[str]:
    """What was found of the file that is not plain CSV, a sentence each."""
    rules, dialect, usual = table.rules, table.dialect, without_compression(table.path) == ".tsv"
    if rules.encoding is None and table.encoding not in (None, "utf-8"):
        yield f"The text was read as {'Windows-1252' if table.encoding == OTHER_ENCODING else 'UTF-16'}."
    if table.before.comments:
        many = table.before.comments > 1
        said = f"The first {table.before.comments} lines begin" if many else "The first line begins"
        yield f"{said} with # and {'were' if many else 'was'} left out."
    if table.before.titles:
        yield titles_note(table.before.titles)
    if rules.delimiter is None and dialect.delimiter != ("\t" if usual else ","):
        yield f"Values are separated by {DELIMITERS[dialect.delimiter]}."
    if rules.quotechar is None and dialect.quotechar != '"':
        yield "Values are enclosed in apostrophes."
    if rules.header is None and dialect.header and rules.names is not None:
        yield "The first line was taken for names, which `names` of the schema replaces."
    if rules.header is None and not dialect.header and rules.names is None:
        yield (
            f"The first line holds values and no names: the columns are called '0' to '{len(table.names) - 1}' here. Name them "
            "by `names` under [file]."
        )
    yield from notes_on_unnamed(table.empty, [name for name in table.unnamed if name not in table.empty])
    if rules.decimal is None and table.decimal == ",":
        yield "Numbers were read with a decimal comma."
    if rules.thousands is None:
        for sign in dict.fromkeys(style.thousands for style in table.styles.values()):
            columns = [name for name, style in table.styles.items() if style.thousands == sign]
            yield f"Thousands are separated by {SEPARATORS[sign]} in {listed(map(repr, columns))}."


# --- rows ---------------------------------------------------------------------------------------------------------------


def _batches(table: _Table, wanted: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file in batches. Without types each batch infers its own; `wanted` are the columns, all by default."""
    types = table.types
    missing = [*MISSING, *table.rules.na_values]
    named = _named_missing(table, missing)
    convert = arrow_csv.ConvertOptions(
        column_types=types,
        include_columns=wanted,
        null_values=missing,
        strings_can_be_null=True,
        true_values=["true", "True", "TRUE"],
        false_values=["false", "False", "FALSE"],
        decimal_point=table.decimal,
    )
    parse = arrow_csv.ParseOptions(
        delimiter=table.dialect.delimiter, quote_char=table.dialect.quotechar, newlines_in_values=False
    )
    signs = re.escape(f"{table.dialect.delimiter}{table.dialect.quotechar}").encode()
    maybe_leading_zero = re.compile(rb"(?:^|[\r\n " + signs + rb"])0[0-9]")  # a quick test of raw lines
    row = 0
    for number, lines in enumerate(_lines(table.path, table.encoding)):
        if types is None and table.encoding is None:
            _check_utf8(lines)
        if number == 0:
            lines = lines[table.before.size :].lstrip(b"\r\n")
        if number == 0 and table.dialect.header:
            lines = lines[lines.find(b"\n") + 1 :] if b"\n" in lines else b""
        if not lines.strip():
            continue
        read = arrow_csv.ReadOptions(column_names=list(table.names), block_size=len(lines) + 1)
        try:
            content = arrow_csv.read_csv(arrow_owned(lines), read, parse, convert)
        except pa.ArrowInvalid:
            read.use_threads = False  # only a single-threaded reader says which row is wrong
            try:
                content = arrow_csv.read_csv(arrow_owned(lines), read, parse, convert)
            except pa.ArrowInvalid as error:
                raise pa.ArrowInvalid(_with_log_row(str(error), row)) from None
        if types is None and maybe_leading_zero.search(lines):
            content = _with_leading_zeros(content, lines, read, parse)
        if types is None and _point_is_open(table):
            content = _with_grouping_points(content, lines, read, parse)
        for name in set(named) & set(content.column_names):
            content = _with_words(
                content, name, lines, read, parse, [word for word in missing if word not in named[name]]
            )
        yield from content.combine_chunks().to_batches()
        row += content.num_rows


def _named_missing(table: _Table, missing: Sequence[str]) -> dict[str, frozenset[str]]:
    """The columns for which the schema lists words that elsewhere mean a missing value, with these words."""
    found = {name: frozenset(words) & frozenset(missing) for name, words in table.rules.vocabularies}
    return {name: words for name, words in found.items() if words and name in table.names}


def _with_words(
    table: pa.Table,
    name: str,
    lines: bytes,
    read: arrow_csv.ReadOptions,
    parse: arrow_csv.ParseOptions,
    missing: list[str],
) -> pa.Table:
    """The same block, in which one column is text and only the words of `missing` are missing values of it."""
    convert = arrow_csv.ConvertOptions(
        column_types={name: pa.string()}, include_columns=[name], null_values=missing, strings_can_be_null=True
    )
    written = arrow_csv.read_csv(arrow_owned(lines), read, parse, convert)
    return table.set_column(table.column_names.index(name), name, written[name])


def _with_leading_zeros(
    table: pa.Table, lines: bytes, read: arrow_csv.ReadOptions, parse: arrow_csv.ParseOptions
) -> pa.Table:
    """The same block, in which numeric columns are text if any of their values has a leading zero."""
    numeric = [f.name for f in table.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    if not numeric:
        return table
    convert = arrow_csv.ConvertOptions(column_types=dict.fromkeys(numeric, pa.string()), include_columns=numeric)
    written = arrow_csv.read_csv(arrow_owned(lines), read, parse, convert)
    for name in numeric:
        if pc.any(pc.match_substring_regex(written[name], LEADING_ZERO)).as_py():
            table = table.set_column(table.column_names.index(name), name, written[name])
    return table


def _with_grouping_points(
    table: pa.Table, lines: bytes, read: arrow_csv.ReadOptions, parse: arrow_csv.ParseOptions
) -> pa.Table:
    """The same block, in which a column of numbers is text if its points may stand between groups of three digits."""
    for index, name in enumerate(table.column_names):
        if not pa.types.is_floating(table.schema.field(index).type) or not _may_be_thousandths(table[index]):
            continue
        convert = arrow_csv.ConvertOptions(
            column_types={name: pa.string()}, include_columns=[name], null_values=MISSING, strings_can_be_null=True
        )
        written = arrow_csv.read_csv(arrow_owned(lines), read, parse, convert)[name]
        if points_may_group(written.combine_chunks()):
            table = table.set_column(index, name, written)
    return table


def _point_is_open(table: _Table) -> bool:
    """Whether neither the schema nor another column says what points mean."""
    return table.decimal == "." and table.rules.decimal is None and table.rules.thousands is None


def _may_be_thousandths(column: pa.ChunkedArray) -> bool:
    """Whether the numbers are below 1,000 with at most three decimals, and whole where they are below 1: a quick test."""
    values = np.abs(column.drop_null().to_numpy())
    if not (values < 1000).all():
        return False
    whole = values == np.floor(values)
    thousandths = np.abs(values * 1000 - np.round(values * 1000)) < 1e-6
    return bool(whole.any() and not whole.all() and (whole | (thousandths & (values >= 1))).all())


def _with_log_row(message: str, row: int) -> str:
    """The message with the number of the row in the log in place of its number in the block, which begins at `row`."""
    return re.sub(
        r"^(?:CSV parse error: )?Row #(\d+): ", lambda match: f"row {row + int(match.group(1)) - 1}: ", message
    )
