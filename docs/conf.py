"""Configuration of the documentation: ``sphinx-build -W -b html docs docs/_build``."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path[:0] = [
    str(Path(__file__).parents[1]),
    str(Path(__file__).parent),
]  # packages, directives

project = "momentum-rnn"
author = "the momentum-rnn developers"
version = release = installed_version("momentum-rnn")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "directives",
    "study_tables",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"momentum-rnn {version}"
html_show_copyright = False  # LICENSE has it
html_static_path = ["_static"]
html_css_files = ["tables.css"]

myst_enable_extensions = ["dollarmath", "fieldlist"]
myst_heading_anchors = 3  # GitHub makes the same anchors, so links work in both places

autodoc_typehints = "none"  # the docstrings describe the arguments
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # the methods that Lightning documents are not described again
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes in the docstring only, not a second time as members
