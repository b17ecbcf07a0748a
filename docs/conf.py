"""Sphinx settings."""

from solset import __doc__ as summary
from solset import __version__

project = "solset"
author = "the solset developers"
copyright = "the solset developers"
release = __version__
html_title = "solset"
html_short_title = summary

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of dataclasses are described once, by their class
napoleon_custom_sections = [("Warns", "params_style")]
