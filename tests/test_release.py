"""A copy for PyPI has absolute links, the project's URLs, and the version of its tag."""
# SPDX-License-Identifier: Apache-2.0

import configparser
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from release.prepare import prepare, project_urls, version_of, web_address, with_absolute_links
from tests import markdown

ROOT = pathlib.Path(__file__).parents[1]
REPOSITORY = "https://github.com/owner/name"


@pytest.fixture
def copy(tmp_path: pathlib.Path) -> pathlib.Path:
    """The files that a release changes or reads."""
    (tmp_path / "optax_alphadecay").mkdir()
    for name in ("README.md", "setup.cfg", "CITATION.cff", "optax_alphadecay/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_every_link_of_the_readme_becomes_absolute(copy: pathlib.Path) -> None:
    prepare(copy, REPOSITORY, "v1.0")
    text = (copy / "README.md").read_text("utf-8")
    assert [link for link in markdown.links(text) if not link.startswith("#")] == []
    found = re.findall(rf"{REPOSITORY}/(blob|raw)/v1\.0/([^)\s#]+)", text)
    before = markdown.links((ROOT / "README.md").read_text("utf-8"))
    assert sorted(path for _, path in found) == sorted(link.partition("#")[0] for link in before)
    for kind, path in found:
        assert (ROOT / path).exists()
        assert (kind == "raw") == path.endswith((".png", ".svg")), "a picture is the file itself, not a page about it"


def test_links_that_need_no_change_stay() -> None:
    text = "[a](https://x.org/b) [c](#part) `f(x)` [![d](docs/e.png)](docs/f.md#g)"
    assert with_absolute_links(text, REPOSITORY, "v1") == (
        "[a](https://x.org/b) [c](#part) `f(x)`"
        f" [![d]({REPOSITORY}/raw/v1/docs/e.png)]({REPOSITORY}/blob/v1/docs/f.md#g)"
    )


def test_metadata_has_the_urls(copy: pathlib.Path) -> None:
    prepare(copy, REPOSITORY, "v1.0")
    config = configparser.ConfigParser()
    config.read(copy / "setup.cfg", encoding="utf-8")
    urls = dict(line.split(" = ") for line in config["metadata"]["project_urls"].strip().splitlines())
    assert urls == {**project_urls(REPOSITORY, "v1.0"), "Paper": "https://arxiv.org/abs/2506.14562"}
    assert urls["Documentation"] == "https://owner.github.io/name/"


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("git@github.com:owner/name.git\n", REPOSITORY),
        ("ssh://git@github.com/owner/name.git", REPOSITORY),
        ("ssh://git@github.com:22/owner/name.git", REPOSITORY),
        ("git@github.com:22/name.git", "https://github.com/22/name"),
        ("https://user:secret@github.com/owner/name.git", REPOSITORY),
        ("https://github.com/owner/name/", REPOSITORY),
        ("/srv/git/name", ""),
        ("", ""),
    ],
)
def test_addresses_of_remotes(remote: str, address: str) -> None:
    assert web_address(remote) == address


def test_a_tag_is_that_of_the_version(copy: pathlib.Path) -> None:
    command = [sys.executable, "-m", "release.prepare", str(copy), "--repository", REPOSITORY]
    command += ["--date", "2026-11-30", "--ref"]
    wrong = subprocess.run([*command, "v9.9"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 1 and version_of(copy) in wrong.stderr
    for name in ("README.md", "CITATION.cff"):
        assert (copy / name).read_bytes() == (ROOT / name).read_bytes()
    subprocess.run([*command, f"v{version_of(copy)}"], cwd=ROOT, check=True)
    assert f"{REPOSITORY}/blob/v{version_of(copy)}/docs/start.md" in (copy / "README.md").read_text("utf-8")
    added = f'version: "{version_of(copy)}"\ndate-released: "2026-11-30"\n'
    assert (copy / "CITATION.cff").read_text("utf-8") == (ROOT / "CITATION.cff").read_text("utf-8") + added
