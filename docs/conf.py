"""How `make docs` builds the pages. Pictures and tables are made from the sources: `_ext`."""

import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "_ext"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

project = "horovod-partial"
author = "The horovod-partial authors"
copyright = "2026, The horovod-partial authors"
release = re.search(r'__version__ = "(.+)"', (
    DOCS.parent / "horovod_partial/_version.py").read_text())[1]
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
exclude_patterns = ["_ext", "images"]
myst_enable_extensions = ["attrs_block", "deflist"]
myst_heading_anchors = 4

nitpicky = True
# Words for a type in "Returns:" and "Raises:", and what Horovod documents.
nitpick_ignore_regex = [("py:.*", r"(?!hvd\.|horovod_partial).*")]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_use_rtype = False

smartquotes = False
html_theme = "furo"
html_title = f"horovod-partial {release}"
html_static_path = ["_static"]
html_css_files = ["own.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1b6a93", "color-brand-content": "#1b6a93"},
    "dark_css_variables": {"color-brand-primary": "#7cc0e4", "color-brand-content": "#7cc0e4"},
}
