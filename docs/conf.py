"""How Sphinx builds the site: ``make docs``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
os.environ["PYTHONPATH"] = str(DOCS.parent)  # for the kernels that run the notebooks
shutil.rmtree(DOCS / "notebooks", ignore_errors=True)
shutil.copytree(DOCS.parent / "notebooks", DOCS / "notebooks", ignore=shutil.ignore_patterns(".*"))
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

import poolmagic  # noqa: E402 - the line above makes it this folder's neighbour

project = "poolmagic"
author = "the poolmagic developers"
copyright = "2026, the poolmagic developers"  # noqa: A001 - Sphinx names it so
release = version = poolmagic.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "state_diagrams",
]
exclude_patterns = ["_build", "_ext", "jupyter_execute"]

# Pages
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
# The notebooks are run for the site. The examples on the other pages are text here; tests/test_docs.py runs them.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
# No scripts from elsewhere: the site works without a network.
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
copybutton_exclude = ".linenos, .gp, .go"

# The reference
default_role = "py:obj"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Looks
html_theme = "pydata_sphinx_theme"
html_title = "poolmagic"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars: dict[str, list[str]] = {"**": []}
