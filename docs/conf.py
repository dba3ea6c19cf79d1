"""The documentation: `make docs` builds it into docs/_build/html.

Everything is local. The pages work from a folder without a network and without
JavaScript: formulas are MathML, drawings are part of the page, and files of the
repository that a page names are copied beside it.
"""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent / "_ext")]

from mmssl_ext import __version__  # noqa: E402

project = "mmssl_ext"
author = "mmssl_ext contributors"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "mathml",
    "repository",
]
exclude_patterns = ["_build", "_ext", "_static"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"mmssl_ext {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
