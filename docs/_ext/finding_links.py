"""A code of a finding, wherever it stands as code in a page, leads to the page that explains it."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode


def link(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Wrap each such span of code in a reference."""
    pages = {page.removeprefix("findings/") for page in app.env.found_docs if page.startswith("findings/")}
    for span in list(doctree.findall(nodes.literal)):
        code = span.astext()
        if code in pages and name != f"findings/{code}" and not _inside_reference(span):
            target = make_refnode(app.builder, name, f"findings/{code}", None, [span.deepcopy()], code)
            span.replace_self(target)


def _inside_reference(node: nodes.Node) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, nodes.reference | nodes.title):
            return True
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    """Ask Sphinx to call the above."""
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
