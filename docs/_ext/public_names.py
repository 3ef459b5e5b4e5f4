"""The API reference: a page for each name of `stitchrl/__init__.pyi`, grouped as that file groups them.

Names are documented as users write them, `stitchrl.IQL`, wherever they are defined. git ignores the pages.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

GROUP = re.compile(r"^# ([A-Z][^:\n]*)(?::.*)?$")
IMPORTED = re.compile(r"^from (stitchrl\S*) import \w+ as (\w+)$")
DEFINED = re.compile(r"^def (\w+)")
MEMBERS = "   :members:\n"
HEAD = "..\n   written by docs/_ext/public_names.py\n\n"
TESTING = ("check_algorithm", "check_estimator")
"""What `stitchrl.testing` offers, which is public and not in the face."""


def groups(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Title of each group -> the (name, defining module) of its members, in the order of `__init__.pyi`."""
    found: dict[str, list[tuple[str, str]]] = {}
    title = ""
    for line in (root / "src" / "stitchrl" / "__init__.pyi").read_text(encoding="utf-8").splitlines():
        if match := GROUP.match(line):
            title = match[1]
        elif match := IMPORTED.match(line):
            found.setdefault(title, []).append((match[2], match[1]))
        elif match := DEFINED.match(line):
            found["Verbs"].append((match[1], "stitchrl"))
    return found


def write_pages(app: Sphinx) -> None:
    """Write a page for each name, and the index of all."""
    root, folder = Path(app.config.site_root), Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    found = groups(root)
    pages = {f"{name}.rst": _page(root, name, module) for group in found.values() for name, module in group}
    pages |= {f"testing.{name}.rst": _function("stitchrl.testing", name) for name in TESTING}
    pages["index.rst"] = _index(found)
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.glob("*.rst"):
        if path.name not in pages:
            path.unlink()


def _page(root: Path, name: str, module: str) -> str:
    import stitchrl

    if name[0].isupper():
        title = f"stitchrl.{name}"
        text = f"{HEAD}{title}\n{'=' * len(title)}\n\n.. autoclass:: stitchrl.{name}\n"
        if name in stitchrl.ALGORITHMS:
            text += (
                f"\nEquations, source, deviations and metrics: :doc:`the page of this algorithm "
                f"</algorithms/{name.lower()}>`. The methods that every algorithm has: :doc:`Algorithm`.\n"
            )
            return text
        return text + MEMBERS
    if root.joinpath("src", *module.split("."), f"{name}.py").exists():
        return _namespace(name)
    return _function("stitchrl", name)


def _namespace(name: str) -> str:
    """The page of a module: what has a page of its own by a link, the rest here."""
    import stitchrl

    title = f"stitchrl.{name}"
    text = f"{HEAD}{title}\n{'=' * len(title)}\n\n.. automodule:: stitchrl.{name}\n   :no-members:\n\n"
    members = getattr(stitchrl, name).__all__
    text += "".join(f"- :doc:`{member}`\n" for member in members if member in stitchrl.__all__)
    own = [member for member in members if member not in stitchrl.__all__]
    return text + "\n" + "\n".join(f".. autoclass:: stitchrl.{name}.{member}\n{MEMBERS}" for member in own)


def _function(module: str, name: str) -> str:
    title = f"{module}.{name}"
    return f"{HEAD}{title}\n{'=' * len(title)}\n\n.. autofunction:: {module}.{name}\n"


def _index(found: dict[str, list[tuple[str, str]]]) -> str:
    """The list of all names, each with the first sentence of its docstring."""
    import importlib

    import stitchrl

    title = "API reference"
    text = (
        f"{HEAD}{title}\n{'=' * len(title)}\n\n"
        "Everything that ``import stitchrl as st`` offers. A name is imported when it is first used. Each page gives the shapes "
        "of arrays, the range of settings, the errors that are raised, and the source of an equation.\n\n"
    )
    testing = importlib.import_module("stitchrl.testing")
    parts = {
        group: [(name, getattr(stitchrl, name), f"{name}") for name, _ in members] for group, members in found.items()
    }
    parts["Testing"] = [(f"testing.{name}", getattr(testing, name), f"testing.{name}") for name in TESTING]
    for group, members in parts.items():
        text += f"{group}\n{'-' * len(group)}\n\n.. list-table::\n   :class: names\n   :widths: 28 72\n\n"
        for name, value, page in members:
            text += f"   * - :doc:`{name} <{page}>`\n     - {_first_sentence(value)}\n"
        text += "\n.. toctree::\n   :hidden:\n\n" + "".join(f"   {page}\n" for _, _, page in members) + "\n"
    return text


def _first_sentence(value: Any) -> str:
    from docstrings import inline

    paragraph = " ".join((value.__doc__ or "").strip().split("\n\n")[0].split())
    return inline(re.split(r"(?<=[.!?])\s", paragraph)[0])


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Types in signatures: a link where the type is a public name, plain text where it is internal or another library's."""
    if node.get("refdomain") != "py":
        return None
    name = str(node.get("reftarget", "")).rpartition(".")[2]
    objects = env.domains["py"].objects  # type: ignore[attr-defined]
    entry = objects.get(f"stitchrl.{name}") or objects.get(f"stitchrl.errors.{name}")
    if entry is None:
        return content
    from sphinx.util.nodes import make_refnode

    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, [content], f"stitchrl.{name}")


def narrow(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Let the sidebar hold the branch of the page alone: some 300 links on each page would be most of its weight."""
    whole = context.get("toctree")
    if whole is not None:
        context["toctree"] = lambda **settings: whole(**(settings | {"collapse": True}))


def setup(app: Sphinx) -> dict[str, bool]:
    """Ask Sphinx to call the above."""
    app.connect("builder-inited", write_pages)
    app.connect("missing-reference", resolve)
    app.connect("html-page-context", narrow, priority=400)  # before the theme asks for it
    return {"parallel_read_safe": True, "parallel_write_safe": True}
