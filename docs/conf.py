"""The documentation site: `sphinx-build -W docs site` builds it from the Markdown pages beside this file."""

import logging
import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_extensions"))
os.environ.pop("MPLBACKEND", None)  # else the tutorials' kernels would not show their figures
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # nor do they need tqdm's widgets

import ppvae  # noqa: E402

project = "ppvae"
author = "the ppvae developers"
version = release = ppvae.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
    "generated_pages",
    "plain_docstrings",
]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

nb_execution_mode = "force"  # tutorials run anew in each build, in a folder of their own ...
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True  # ... and one that fails ends it
nb_merge_streams = True
logging.getLogger("traitlets").setLevel(logging.WARNING)  # not a line for each notebook

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say what arguments are
autosummary_generate = True
default_role = "code"  # single backticks in docstrings are code

html_theme = "furo"
html_title = "ppvae"
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
