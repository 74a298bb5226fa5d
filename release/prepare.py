"""Makes a copy of the repository ready for PyPI: absolute links, the project's URLs, the version in the citation.

Committed files know no address of the repository: links are relative, so that they hold in any clone and fork. PyPI
shows the README alone, so `make package` and the release workflow pass the address, and this writes it into the copy.
"""
# SPDX-License-Identifier: Apache-2.0

import argparse
import ast
import datetime
import pathlib
import re
import sys

LINK = re.compile(r"(?P<picture>!?)\[(?P<text>(?:[^\[\]]|!\[[^\]]*\]\([^)\s]*\))*)\]\((?P<target>[^)\s]+)\)")


def web_address(remote: str) -> str:
    """The address of a repository in a browser, from that of a remote of git; "" if it has none.

    Args:
      remote: as `git remote get-url origin` prints it.

    Example:
      >>> web_address("git@github.com:owner/name.git")
      'https://github.com/owner/name'
      >>> web_address("/home/me/name")
      ''
    """
    remote = re.sub(r"^ssh://git@([^:/]+)(?::\d+)?/", r"git@\1:", remote.strip())
    remote = re.sub(r"^git@([^:/]+):", r"https://\1/", remote)
    if not re.match(r"https?://", remote):
        return ""
    return re.sub(r"//[^/@]+@", "//", remote).removesuffix("/").removesuffix(".git")


def with_absolute_links(text: str, repository: str, ref: str) -> str:
    """Replace the relative links and pictures of a Markdown file in the root of the repository.

    Args:
      text: the file.
      repository: address of the repository, without a slash at the end.
      ref: the tag or commit to link to.
    """

    def absolute(match: re.Match[str]) -> str:
        target = match["target"]
        if not re.match(r"[a-z]+:|#", target):
            kind = "raw" if match["picture"] else "blob"
            target = f"{repository}/{kind}/{ref}/{target}"
        inside = with_absolute_links(match["text"], repository, ref)
        return f"{match['picture']}[{inside}]({target})"

    return LINK.sub(absolute, text)


def project_urls(repository: str, ref: str) -> dict[str, str]:
    """The links that PyPI shows beside the description."""
    urls = {
        "Source": repository,
        "Changelog": f"{repository}/blob/{ref}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    if page := re.fullmatch(r"https://github\.com/([^/]+)/([^/]+)", repository):
        urls["Documentation"] = f"https://{page[1]}.github.io/{page[2]}/"
    return urls


def prepare(folder: pathlib.Path, repository: str, ref: str) -> None:
    """Write the address of the repository into the README and the metadata of a copy."""
    readme, setup = folder / "README.md", folder / "setup.cfg"
    readme.write_text(with_absolute_links(readme.read_text("utf-8"), repository, ref), "utf-8")
    lines = "".join(f"    {name} = {url}\n" for name, url in project_urls(repository, ref).items())
    before, heading, after = setup.read_text("utf-8").partition("project_urls =\n")
    if not heading:
        raise ValueError(f"{setup} has no line 'project_urls =' to write the addresses under.")
    setup.write_text(before + heading + lines + after, "utf-8")


def version_of(folder: pathlib.Path) -> str:
    """The version of the library in a copy, read without importing it."""
    [version] = [
        ast.literal_eval(node.value)
        for node in ast.parse((folder / "optax_alphadecay" / "__init__.py").read_text("utf-8")).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__version__"
    ]
    return str(version)


def cite(folder: pathlib.Path, version: str, date: str) -> None:
    """Write the version and its day into the citation of a copy."""
    with (folder / "CITATION.cff").open("a", encoding="utf-8") as file:
        file.write(f'version: "{version}"\ndate-released: "{date}"\n')


def main() -> None:
    """Prepare the copy that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "folder", type=pathlib.Path, help="the copy; its README.md, setup.cfg and CITATION.cff are written anew"
    )
    parser.add_argument("--repository", default="", help="address of the repository, or of its remote in git")
    parser.add_argument("--ref", default="main", help="tag or branch to link to; vX must be the version X")
    parser.add_argument(
        "--date", required=True, type=datetime.date.fromisoformat, help="day of the version: YYYY-MM-DD"
    )
    arguments = parser.parse_args()
    repository = web_address(arguments.repository)
    version = version_of(arguments.folder)
    if arguments.ref.startswith("v") and arguments.ref != f"v{version}":
        sys.exit(f"The tag is {arguments.ref}, and the version in optax_alphadecay/__init__.py is {version}.")
    cite(arguments.folder, version, arguments.date.isoformat())
    if not repository:
        print("No address of the repository is known: links of the README stay relative. Pass REPOSITORY=https://...")
        return
    prepare(arguments.folder, repository, arguments.ref)


if __name__ == "__main__":
    main()
