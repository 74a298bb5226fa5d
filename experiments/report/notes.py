"""The prose of the report: `notes.md`, cut into its sections."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
import re


def read(path: pathlib.Path) -> dict[str, str]:
    """Reads the notes.

    Args:
        path: `notes.md`; it need not exist.

    Returns:
        The text under each heading of the second level, by the heading; what comes before the first is left out.
    """
    if not path.exists():
        return {}
    parts = re.split(r"^## (.+)$", path.read_text(), flags=re.MULTILINE)
    return {heading.strip(): text.strip("\n") for heading, text in zip(parts[1::2], parts[2::2], strict=True)}
