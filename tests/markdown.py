"""Reads Markdown files as the tests need them: code blocks, shell commands, links and anchors."""
# SPDX-License-Identifier: Apache-2.0

import re
import shlex
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_INLINE_CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_COMMAND = re.compile(
    r"(?:[A-Z][A-Z_]*=\S+ )*(?:make|pip install|(?:\.venv/bin/)?(?:python -m|pip|ruff|pre-commit)) \S"
)
_OPERATOR = re.compile(r"[;&|<>()]+")


class Block(NamedTuple):
    """A fenced code block."""

    info: str
    """What follows the opening fence, such as `python` or `python notest`."""
    code: str
    """The lines between the fences, without their common indentation."""


def blocks(text: str) -> list[Block]:
    """Finds the fenced code blocks of a Markdown text, in order.

    Raises:
        ValueError: If a fence is not closed, or is not understood.
    """
    found = [Block(info.strip(), textwrap.dedent(code)) for _, info, code in _FENCE.findall(text)]
    fences = len(re.findall(r"^ *```", text, re.MULTILINE))
    if fences != 2 * len(found):
        raise ValueError(f"{fences} fences make no {len(found)} blocks: close each with a line of ``` alone.")
    return found


def prose(text: str) -> str:
    """The text without its fenced code blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> list[str]:
    """Targets of the links and pictures that stay inside the repository, anchors included."""
    return [target for target in _LINK.findall(prose(text)) if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a text."""
    seen: dict[str, int] = {}
    found = set()
    for heading in _HEADING.findall(prose(text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    return found


def inline_commands(text: str) -> list[str]:
    """The commands that stand between backticks in a paragraph, such as `make test`."""
    spans = (span.replace("\n", " ") for span in _INLINE_CODE.findall(prose(text)))
    return [span for span in spans if _COMMAND.match(span)]


def named_paths(text: str) -> list[str]:
    """The files and folders of the repository that a paragraph names between backticks; patterns are left out."""
    folders = "optax_alphadecay|experiments|tests|benchmarks|docs|results"
    return [span for span in _INLINE_CODE.findall(prose(text)) if re.fullmatch(rf"(?:{folders})/[a-z_0-9/.-]*", span)]


def named_tests(text: str) -> list[str]:
    """The tests that a paragraph names between backticks."""
    return [span for span in _INLINE_CODE.findall(prose(text)) if re.fullmatch(r"test_\w+", span)]


def simple_commands(script: str) -> Iterator[list[str]]:
    """Splits shell lines into simple commands: words without assignments, redirections, comments and operators.

    Example:
        >>> list(simple_commands("A=1 make test > log &  # slow"))
        [['make', 'test']]
    """
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        redirected = False
        for word in lexer:
            if _OPERATOR.fullmatch(word):
                redirected = word in ("<", ">", ">>")
                if not redirected:
                    yield from [command] if command else []
                    command = []
            elif redirected:
                redirected = False
            elif command or not re.match(r"[A-Za-z_]\w*=", word):
                command.append(word)
        yield from [command] if command else []
