"""Settings of the documentation. `make docs` builds it; what is ours about the build lies in `_ext/`, one concern a file."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Homepage"]

project = "stitchrl"
author = "the stitchrl contributors"
version = release = PROJECT["version"]
html_title = f"stitchrl {version}"
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "outside_pages",
    "public_names",
    "docstrings",
    "finding_links",
    "floors",
    "lessons",
]
root_doc = "index"
exclude_patterns = ["_build", "_ext"]
nitpicky = True
smartquotes = False  # "--group" is an option, and quotes are code
suppress_warnings = [
    "toc.empty_glob",  # a folder of pages may still be empty
    "misc.highlighting_failure",  # a block of TOML or Python may leave out a part with three dots
]

# Markdown
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Docstrings
default_role = "code"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has them
napoleon_use_rtype = False
python_maximum_signature_line_length = 76

# Links to other places; `make docs-links` looks at them, since a build needs no network.
linkcheck_anchors = False
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_workers = 4
linkcheck_ignore = [rf"{REPOSITORY}/(blob|tree)/main/.*"]  # files of this repository; the build sees whether they exist

# Appearance: the colours are those of the report (src/stitchrl/reporting/templates/report.css).
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "source_repository": f"{REPOSITORY}/",
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": [],
    "light_css_variables": {
        "color-background-primary": "#fcfcfa",
        "color-background-secondary": "#f3f4f0",
        "color-background-hover": "#e9ebe5",
        "color-background-border": "#dfe1dc",
        "color-foreground-primary": "#1c2226",
        "color-foreground-secondary": "#5a646b",
        "color-foreground-muted": "#5a646b",
        "color-foreground-border": "#6b757b",
        "color-brand-primary": "#1f63a8",
        "color-brand-content": "#1f63a8",
        "color-brand-visited": "#8a3f9c",
        "color-api-background": "#f3f4f0",
        "color-inline-code-background": "#f3f4f0",
        "color-api-name": "#1c2226",
        "color-api-pre-name": "#5a646b",
    },
    "dark_css_variables": {
        "color-background-primary": "#14181a",
        "color-background-secondary": "#1b2023",
        "color-background-hover": "#242a2e",
        "color-background-border": "#2c3337",
        "color-foreground-primary": "#e4e7e5",
        "color-foreground-secondary": "#9ca6ab",
        "color-foreground-muted": "#9ca6ab",
        "color-foreground-border": "#98a2a7",
        "color-brand-primary": "#7ab5ea",
        "color-brand-content": "#7ab5ea",
        "color-brand-visited": "#cf9be0",
        "color-api-background": "#1b2023",
        "color-inline-code-background": "#1b2023",
        "color-api-name": "#e4e7e5",
        "color-api-pre-name": "#9ca6ab",
    },
}
pygments_style = "tango"
pygments_dark_style = "github-dark"
copybutton_exclude = ".linenos, .gp, .go"

# For `_ext/`.
site_root = str(ROOT)
site_repository = REPOSITORY
