"""An audit alone as one self-contained HTML page: no script, no network, no JAX."""

from collections.abc import Mapping
from typing import Any

import jinja2

from stitchrl.errors import DataError
from stitchrl.reporting.audit_view import audit_view
from stitchrl.reporting.page import environment
from stitchrl.reporting.ranking_view import ranking_view

__all__ = ["render_audit"]

PARTS = ("verdict", "findings", "numbers")


def render_audit(audit: Mapping[str, Any], *, title: str = "What is in the log") -> str:
    """The HTML document for an audit, as ``Audit.to_dict()`` or a run's ``audit.json`` gives it.

    Args:
        audit: `verdict`, `findings` and `numbers`; `checks` where it has them, and `ranking`, as
            ``EpisodeRanking.to_dict()`` gives it. Numbers that an older audit did not write
            are left out.
        title: the page's heading, such as the name of the log.

    Raises:
        DataError: something is missing that every audit holds.
    """
    missing = [name for name in PARTS if name not in audit]
    if missing:
        raise DataError(
            f"an audit must hold {', '.join(PARTS)}; `{missing[0]}` is missing. Make it again with `stitchrl audit`."
        )
    try:
        return (
            environment()
            .get_template("audit_page.html.j2")
            .render(title=title, audit=audit_view(audit, audit["numbers"]), ranking=ranking_view(audit.get("ranking")))
        )
    except (KeyError, jinja2.UndefinedError) as error:
        raise DataError(
            f"the audit lacks a field that it must hold: {error}. Make it again with `stitchrl audit`."
        ) from error
