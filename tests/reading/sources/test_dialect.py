"""How a text separates, encloses and names its values, found from its first lines."""

from __future__ import annotations

import pytest

from stitchrl.data.file_rules import FileRules
from stitchrl.reading.sources.dialect import dialect_of


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1,5;2,5\n", ";"),
        ("a\tb\n1,5\t2,5\n", "\t"),
        ("a|b\n1|2\n", "|"),
        ("a,b;c\n1,2\n3,4\n", ","),  # the semicolon belongs to a name
        ('a,b\n1,"x;y"\n', ","),
        ("1,5;2,5\n3,5;4,5\n", ";"),  # no header; both signs stand as often in every line
        ('a;"b,c"\n1;2\n', ";"),
        ("alone\n1\n", ","),
    ],
)
def test_delimiters(text: str, delimiter: str) -> None:
    assert dialect_of(text.encode(), FileRules(), tabs=False).delimiter == delimiter
    assert dialect_of(text.encode(), FileRules(delimiter="#"), tabs=False).delimiter == "#"
    assert dialect_of(text.encode(), FileRules(), tabs=True).delimiter == "\t"


@pytest.mark.parametrize(
    ("line", "header"),
    [
        ("episode,obs,reward", True),
        ("0,1,2,3", True),  # what pandas writes for columns without names
        ("episode,0,1,2,reward", True),
        ("1,0,0.5,1,true", False),
        ("1,0,0,1,0", False),
        ("5,2,7", False),
        ("p12,0.5,2025-01-31,true", False),
        ('p12,"[1.0, 2.0]",0,1', False),
        ("age 0.5,b,c", True),
        ("a,b,", True),
    ],
)
def test_headers(line: str, header: bool) -> None:
    text = f"{line}\n1,2,3\n".encode()
    assert dialect_of(text, FileRules(), tabs=False).header is header
    assert dialect_of(text, FileRules(header=not header), tabs=False).header is not header
    names = tuple(f"n{i}" for i in range(line.count(",") + 1))
    # Names that the schema gives replace those of the file, and the first line is left out only if it plainly holds names.
    plainly = header and not any(field.isdigit() for field in line.split(","))
    assert dialect_of(text, FileRules(names=names), tabs=False).header is plainly
    assert dialect_of(b"x,y,z\nu,v,w\n", FileRules(names=("a", "b", "c")), tabs=False).header is False


@pytest.mark.parametrize(
    ("text", "quotechar"),
    [("'a','b'\n1,2\n", "'"), ("a,b\n'x, y',2\n'z','3'\n", "'"), ("a,b\nit's,'2\n", '"'), ("\"a\",'b'\n", '"')],
)
def test_quotes(text: str, quotechar: str) -> None:
    assert dialect_of(text.encode(), FileRules(), tabs=False).quotechar == quotechar
