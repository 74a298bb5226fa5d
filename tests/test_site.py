"""What `make docs` would refuse, and what it would not notice: contents, links between pages, the reference."""
# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import re
import textwrap

import pytest

import optax_alphadecay as oad
from tests import markdown

ROOT = pathlib.Path(__file__).parents[1]
INDEX = (ROOT / "docs" / "index.rst").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^   (?:[^<\n]* <)?([\w./-]+)>?$", INDEX, re.MULTILINE)
PAGES = {os.path.normpath(f"docs/{entry}") for entry in ENTRIES}
"""Pages of the site by its contents, relative to the repository, without suffixes."""
MARKDOWN = sorted(page for page in PAGES if (ROOT / f"{page}.md").exists())


def test_every_document_of_the_folder_is_in_the_contents() -> None:
    files = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.rst"), *ROOT.glob("docs/notebooks/*.ipynb")]
    assert {path.relative_to(ROOT).with_suffix("").as_posix() for path in files} - {"docs/index"} <= PAGES
    for page in PAGES:
        assert any((ROOT / f"{page}.{suffix}").exists() for suffix in ("md", "rst", "ipynb")), page


@pytest.mark.parametrize("page", MARKDOWN)
def test_pages_link_to_pages_of_the_site(page: str) -> None:
    text = (ROOT / f"{page}.md").read_text(encoding="utf-8")
    for link in markdown.links(text):
        target = link.partition("#")[0]
        if target.endswith((".md", ".ipynb", ".rst")):
            linked = os.path.normpath(pathlib.Path(page).parent / target).rpartition(".")[0]
            assert linked in PAGES, f"{page}.md links to {target}: add it to the contents in docs/index.rst"


def test_the_start_page_shows_a_block_that_runs() -> None:
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", INDEX, re.MULTILINE)
    shown = {textwrap.dedent(block).strip() for block in blocks}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert shown and shown <= {block.code.strip() for block in markdown.blocks(readme)}


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    names = re.findall(r"^\.\. auto(?:function|class|data):: (\w+)$", text, re.MULTILINE)
    assert sorted(names) == sorted(oad.__all__)
