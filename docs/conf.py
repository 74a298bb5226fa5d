"""How the site is built: `make docs` runs Sphinx over the documents of the repository, and a warning is an error."""
# SPDX-License-Identifier: Apache-2.0

import ast
import inspect
import os
import pathlib
import re
import sys

import latex2mathml.converter
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.writers.html5 import HTML5Translator

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)  # for the kernels of the notebooks
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import optax_alphadecay  # noqa: E402  the path comes first

# The project

project = "optax_alphadecay"
author = "The optax-alphadecay authors"
project_copyright = author
version = release = optax_alphadecay.__version__

# Pages: the source folder is the repository, so that links between documents are the same here and on GitHub.

root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/*.md",
    "benchmarks/inspection/*.md",
    "experiments/README.md",
    "results/report.md",
]
exclude_patterns = ["docs/_*", "docs/requirements.txt", ".*", "build", "data", "dist", "runs"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.mermaid",
]
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Notebooks run while the site is built; a cell that fails ends the build.

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_show_tb = True
nb_merge_streams = True

# The reference

default_role = "code"
add_module_names = False
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more: shapes, dtypes and units
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
nitpicky = True
nitpick_ignore_regex = [
    # No inventory of another project is fetched, so that the build needs no network.
    (r"py:.*", r"(jax|jnp|numpy|np|optax|collections|functools)\..*"),
]

# Looks

html_theme = "furo"
html_title = "optax_alphadecay"
html_baseurl = os.environ.get("SITE_URL", "")
html_extra_path = ["_extra"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {}
if repository := os.environ.get("GITHUB_REPOSITORY"):  # in a workflow: each page links to its source
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    html_theme_options = {"source_repository": f"{server}/{repository}/", "source_branch": "main"}
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
pygments_style = "default"
pygments_dark_style = "monokai"
copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


def _inline_math(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(latex2mathml.converter.convert(node.astext()))
    raise nodes.SkipNode


def _block_math(writer: HTML5Translator, node: nodes.math_block) -> None:
    mathml = latex2mathml.converter.convert(node.astext(), display="block")
    writer.body.append(f'<div class="math">{mathml}</div>\n')
    raise nodes.SkipNode


def _describe_fields(app: Sphinx, what: str, name: str, field: object, options: object, lines: list[str]) -> None:
    """Take the comment of a NamedTuple's field, where it has no docstring."""
    if not (lines and lines[0].startswith("Alias for field number")):
        return
    owner, _, field_name = name.rpartition(".")
    source = inspect.getsource(getattr(optax_alphadecay, owner.rpartition(".")[2]))
    [(above, beside)] = re.findall(rf"((?:^ +#.*\n)*)^ +{field_name}: .*?((?:#.*)?)$", source, re.MULTILINE)
    comments = [*above.splitlines(), *beside.replace("# type: ignore[assignment]", "").splitlines()]
    lines[:] = [comment.strip(" #") for comment in comments]


def _describe_aliases(app: Sphinx, what: str, name: str, alias: object, options: object, lines: list[str]) -> None:
    """Take the text under a type alias, which autodoc looks for in the module that the alias is exported from."""
    if what != "data":
        return
    short = name.rpartition(".")[2]
    package = ast.parse(inspect.getsource(optax_alphadecay))
    [home] = [
        node.module
        for node in package.body
        if isinstance(node, ast.ImportFrom) and node.module and short in {each.name for each in node.names}
    ]
    lines[:] = ModuleAnalyzer.for_module(home).find_attr_docs()["", short]


_attributes: dict[str, list[str]] = {}


def _keep_attribute(app: Sphinx, what: str, name: str, field: object, options: object, lines: list[str]) -> None:
    """Keep the text of an attribute from napoleon, which takes all before a colon for a type."""
    if what in ("attribute", "data"):
        _attributes[name] = lines[:]


def _restore_attribute(app: Sphinx, what: str, name: str, field: object, options: object, lines: list[str]) -> None:
    if what in ("attribute", "data"):
        lines[:] = _attributes.pop(name)


def setup(app: Sphinx) -> None:
    """Render formulas as MathML, which browsers draw without a script, and describe fields."""
    app.connect("autodoc-process-docstring", _describe_fields, priority=100)
    app.connect("autodoc-process-docstring", _describe_aliases, priority=100)
    app.connect("autodoc-process-docstring", _keep_attribute, priority=200)
    app.connect("autodoc-process-docstring", _restore_attribute, priority=900)
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
