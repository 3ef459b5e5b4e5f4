"""The picture of the architecture: a Mermaid flowchart that is one chain of boxes, drawn as a stack without JavaScript."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

NODE = re.compile(r'^\s*(\w+)\["(.*)"\]\s*$')


class Floors(nodes.General, nodes.Element):
    """The boxes, from the top; `boxes` holds the lines of each."""


def boxes_of(source: str) -> list[list[str]] | None:
    """The lines of each box in the order of the chain; None where the flowchart is no chain of boxes."""
    named, order = {}, None
    for line in source.splitlines():
        if match := NODE.match(line):
            named[match[1]] = match[2].split("<br/>")
        elif "-->" in line:
            if order is not None:
                return None
            order = [part.strip() for part in line.split("-->")]
    if order is None or set(order) != set(named):
        return None
    return [named[name] for name in order]


def replace(app: Sphinx, document: nodes.document) -> None:
    """Put a stack in the place of each block of Mermaid."""
    for block in list(document.findall(nodes.literal_block)):
        if block.get("language") == "mermaid":
            boxes = boxes_of(block.astext())
            if boxes is None:
                block["language"] = "text"
            else:
                block.replace_self(Floors(boxes=boxes))


def visit(self, node: Floors) -> None:  # type: ignore[no-untyped-def]
    """Write the boxes as an ordered list."""
    self.body.append('<ol class="floors">\n')
    for first, *others in node["boxes"]:
        rest = "".join(f"<span>{self.encode(line)}</span>" for line in others)
        self.body.append(f"<li><b>{self.encode(first)}</b>{rest}</li>\n")
    self.body.append("</ol>\n")
    raise nodes.SkipNode


def visit_text(self, node: Floors) -> None:  # type: ignore[no-untyped-def]
    """Leave the picture out where there is no HTML."""
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Ask Sphinx to call the above."""
    app.add_node(Floors, html=(visit, None), text=(visit_text, None), latex=(visit_text, None))
    app.connect("doctree-read", replace)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
