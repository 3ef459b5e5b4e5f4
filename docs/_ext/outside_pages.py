"""Pages whose text lies outside docs/ (results of benchmarks, the changelog), and links that lead out of docs/.

Every Markdown file of the repository has links that work where it is read on GitHub. Here each of them is rewritten as the
file is read: to the page of the site where there is one, else to the file in the repository. A link to a file that is not
there is left as it is, so that Sphinx warns of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that a test of the links needs no Sphinx
    from sphinx.application import Sphinx

LINK = re.compile(r"(!?)(\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")
FENCE = re.compile(r"^\s*(```+|~~~+|:::+)")
CODE = re.compile(r"(`+)(?:(?!\1).)+\1")
STUB = "<!-- written by docs/_ext/outside_pages.py: the text of this page is that of {} -->\n"


def outside_pages(root: Path) -> dict[str, Path]:
    """Name of each page that is made of a file outside docs/ -> that file."""
    pages = {
        "changelog": root / "CHANGELOG.md",
        "contributing": root / "CONTRIBUTING.md",
        "security": root / "SECURITY.md",
        "examples": root / "examples" / "README.md",
    }
    pages |= {f"benchmarks/{file.stem}": file for file in sorted((root / "benchmarks" / "results").glob("*.md"))}
    return {name: file for name, file in pages.items() if file.exists()}


def write_stubs(app: Sphinx) -> None:
    """Put a file in docs/ for every such page, since Sphinx makes pages of files; git ignores them."""
    root, docs = Path(app.config.site_root), Path(app.srcdir)
    wanted = outside_pages(root)
    for name, file in wanted.items():
        stub = docs / f"{name}.md"
        text = STUB.format(file.relative_to(root).as_posix())
        if not stub.exists() or stub.read_text(encoding="utf-8") != text:
            stub.parent.mkdir(exist_ok=True)
            stub.write_text(text, encoding="utf-8")
    for stub in (docs / "benchmarks").glob("*.md"):
        if f"benchmarks/{stub.stem}" not in wanted:
            stub.unlink()


def read_source(app: Sphinx, name: str, source: list[str]) -> None:
    """The text of a page, with its links rewritten."""
    root, docs = Path(app.config.site_root), Path(app.srcdir)
    file = outside_pages(root).get(name)
    if file is not None:
        source[0] = file.read_text(encoding="utf-8")
        app.env.note_dependency(str(file))
    elif app.env.doc2path(name, base=False).suffix != ".md":
        return
    if name == app.config.root_doc:
        source[0] = without_empty_patterns(source[0], docs)
    if name.endswith("/README"):
        source[0] += contents(docs / name.removesuffix("README"))
    source[0] = rewritten(source[0], file or docs / f"{name}.md", name, root, docs, app.config.site_repository)


def contents(folder: Path) -> str:
    """The list of the pages of a folder for the page that presents them; a name is a title up to its colon."""
    entries = []
    for page in sorted(folder.glob("*.md"), key=lambda page: page.stem):
        if page.stem != "README":
            title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").partition(":")[0]
            entries.append(f"{title} <{page.stem}>\n")
    return f"\n```{{toctree}}\n:hidden:\n\n{''.join(entries)}```\n"


def without_empty_patterns(text: str, docs: Path) -> str:
    """A text without those lines of its lists of pages that are patterns of pages that nobody has written."""
    empty = {line for line in re.findall(r"^[\w/*]+\*$", text, flags=re.MULTILINE) if not any(docs.glob(f"{line}.md"))}
    return "\n".join(line for line in text.split("\n") if line not in empty)


def rewritten(text: str, file: Path, name: str, root: Path, docs: Path, repository: str) -> str:
    """A text with its links rewritten; blocks and spans of code stay as they are.

    Args:
        text: of a page.
        file: which holds it, and which its links are relative to.
        name: of the page.
        root, docs: the repository, and the folder of the pages.
        repository: its address.
    """
    pages = {path.resolve(): page for page, path in outside_pages(root).items()}
    pages |= {(root / "README.md").resolve(): "index", (docs / "decisions").resolve(): "decisions"}
    pages |= {(root / "benchmarks" / "results").resolve(): "benchmarks"}

    def link(match: re.Match[str]) -> str:
        mark, shown, target = match.groups()
        place, hash_, anchor = target.partition("#")
        if not place or re.match(r"[a-z]+:", place):
            return match[0]
        path = (file.parent / place).resolve()
        if path in pages:
            return f"{mark}{shown}({os.path.relpath(f'{pages[path]}.md', os.path.dirname(name) or '.')}{hash_}{anchor})"
        if not path.exists():
            return match[0]
        if mark or (path.is_relative_to(docs) and path.is_file()):
            return f"{mark}{shown}({os.path.relpath(path, (docs / name).parent)}{hash_}{anchor})"
        kind = "tree" if path.is_dir() else "blob"
        return f"{mark}{shown}({repository}/{kind}/main/{path.relative_to(root).as_posix()}{hash_}{anchor})"

    lines, fence = [], ""
    block: list[str] = []

    def flush() -> None:
        lines.append(_outside_code("".join(block), link))
        block.clear()

    for line in text.splitlines(keepends=True):
        found = FENCE.match(line)
        if fence:
            lines.append(line)
            fence = "" if found and found[1].startswith(fence) and not line.strip().strip(found[1][0]) else fence
        elif found and found[1][0] in "`~":
            flush()
            lines.append(line)
            fence = found[1]
        elif line.startswith("    ") and (not block or not "".join(block[-1:]).strip()):
            flush()
            lines.append(line)
        else:
            block.append(line)
    flush()
    return "".join(lines)


def _outside_code(text: str, link: Any) -> str:
    """Links replaced in a text whose code spans are first taken out and then put back."""
    spans: list[str] = []

    def keep(match: re.Match[str]) -> str:
        spans.append(match[0])
        return f"\0{len(spans) - 1}\0"

    replaced = LINK.sub(link, re.sub(CODE, keep, text))
    return re.sub(r"\0(\d+)\0", lambda match: spans[int(match[1])], replaced)


def setup(app: Sphinx) -> dict[str, bool]:
    """Ask Sphinx to call the above."""
    app.add_config_value("site_root", "", "env")
    app.add_config_value("site_repository", "", "env")
    app.connect("builder-inited", write_stubs)
    app.connect("source-read", read_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
