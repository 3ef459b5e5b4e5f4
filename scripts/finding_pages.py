"""Bring docs/findings up to date: the facts on the page of each finding's code, which come from the source, and the index.

    python scripts/finding_pages.py [--check]

The prose of a page is written by hand: what the code means, why it harms, what to do, and an example of its message. The line
of facts under the title says what the source says: severity, what is expected, where the rule is.
tests/test_finding_pages.py holds pages and source together.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from finding_codes import Code, codes

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "findings"
BEGIN, END = "<!-- facts, written by scripts/finding_pages.py -->", "<!-- end of the facts -->"
FACTS = re.compile(rf"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
LEAD = re.compile(r"^\*\*(.+?)\.\*\* ", re.MULTILINE)
WORDS = {"error": "error", "warning": "warning", "info": "note"}
SECTIONS = {
    "the audit of a log": "From the audit of a log",
    "training": "While a run learns",
    "the diagnosis of a run": "From the diagnosis of a run",
}
HEAD = """\
# Findings

Every finding of stitchrl has a short code. Its page says what the code means, how it harms, and how to mend it.

- **An error** can make every number wrong: a log with one is *not usable*, and rules out GO and NO-GO.
- **A warning** names something that can spoil a result: *usable with care*.
- **A note** is worth knowing and asks for nothing.

`st.audit` and `stitchrl audit` look at a log ([data](../data.md#audit)); training raises red flags from its metrics
([training](../training.md)); `st.diagnose` looks at a run and its policy ([diagnosis](../diagnosis.md)). Most examples are
messages of logs and runs with a planted fault. How often each fault is found, and how often sound logs raise an alarm, is
measured: [faults of logs](../../benchmarks/results/audit_faults.md), [failures of runs](../../benchmarks/results/failures.md).
"""


def severity(code: Code) -> str:
    """The severities in words."""
    return " or ".join(WORDS[one] for one in code.severities)


def facts(code: Code) -> str:
    """The line of facts of a page."""
    said = severity(code)
    parts = [f"**{said[:1].upper()}{said[1:]}** from {code.kind}"]
    limits = [limit.replace("...", "…") for limit in code.limits]
    if limits:
        parts.append(f"expected: {'; or '.join(limits)}")
    parts.append(f"rule: [`{code.rule.lstrip('_')}`](../../{code.file})")
    return f"{BEGIN}\n\n{' · '.join(parts)}\n\n{END}"


def lead(page: str) -> str:
    """What the page says in its first sentence, without its stop."""
    found = LEAD.search(FACTS.sub("", page))
    return found[1] if found else ""


def index(found: dict[str, Code], pages: dict[str, str]) -> str:
    """The index of all codes, in the order of the source."""
    text = HEAD
    for kind, title in SECTIONS.items():
        rows = ["| code | severity | what it says |", "|---|---|---|"]
        rows += [
            f"| [`{name}`]({name}.md) | {severity(code)} | {lead(pages[f'{name}.md'])} |"
            for name, code in found.items()
            if code.kind == kind and f"{name}.md" in pages
        ]
        text += f"\n## {title}\n\n" + "\n".join(rows) + "\n"
    return text


def wanted() -> dict[str, str]:
    """Name of each file -> what it should hold. A code without a page, or a page without a code, is an error."""
    found = codes()
    pages = {
        path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md")) if path.name != "README.md"
    }
    missing = sorted({f"{name}.md" for name in found} - pages.keys())
    unknown = sorted(pages.keys() - {f"{name}.md" for name in found})
    if missing or unknown:
        sys.exit(f"docs/findings lacks pages {missing}, and has pages of no code {unknown}.")
    # A function in the place of the text, for a text may hold backslashes.
    pages = {name: FACTS.sub(lambda _, code=found[name[:-3]]: facts(code), text) for name, text in pages.items()}
    return pages | {"README.md": index(found, pages)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say which pages are not up to date")
    check = parser.parse_args().check
    stale = [
        name
        for name, text in wanted().items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != text
    ]
    if check:
        sys.exit(f"Not up to date: {', '.join(stale)}." if stale else 0)
    texts = wanted()
    for name in stale:
        (FOLDER / name).write_text(texts[name], encoding="utf-8")
    print(f"{len(texts)} pages, {len(stale)} of them changed")


if __name__ == "__main__":
    main()
