"""Names that others wrote down: which are text, which may be opened below a folder, how Markdown shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from datasets.runtime.errors import InputError, printable

NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Control characters, and bytes of an argument that are not UTF-8."""


def is_safe_path(name: str) -> bool:
    """Whether a name stays below its folder or archive: relative, no ``..``, no backslash, no drive, no NUL."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name[:2] or "\0" in name)


def is_file_name(name: str) -> bool:
    """Whether a name is that of a file directly in a folder, in printable characters and at most 255 bytes."""
    plain = name.isprintable() and "/" not in name and len(name.encode("utf-8", "replace")) <= 255
    return plain and is_safe_path(name) and name not in ("", ".")


def refuse_no_text(arguments: Iterable[str]) -> None:
    """Refuse arguments that Parquet, JSON and terminals would choke on later.

    Raises:
        InputError: one holds control characters, or bytes that are not UTF-8.
    """
    for argument in arguments:
        if NO_TEXT.search(argument):
            raise InputError(f"'{printable(argument)}' holds characters that are no text; rename or link what it names")


def code_block(lines: Iterable[str]) -> str:
    """Lines as a fenced block of Markdown that shows them as they are: its fence is longer than any in them.

    Commands are copied from here: a character that was replaced could turn a quoted name into a command.
    """
    text = "\n".join(lines)
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}\n{text}\n{fence}"


def code_span(text: object) -> str:
    """A text as code within a line of Markdown, backquotes included; line ends become spaces."""
    line = " ".join(str(text).splitlines())
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if len(fence) > 1 or not line.strip() else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def code_cell(text: object) -> str:
    """A text as code within a table of Markdown, where a bar would end the cell even inside code."""
    return code_span(text).replace("|", "\\|")


def plain_text(text: object) -> str:
    """A text as Markdown that shows it as it is, also in a table: no HTML, no links, no emphasis, one line."""
    line = " ".join(str(text).split())
    return _MARKS.sub(r"\\\g<0>", line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_MARKS = re.compile(r"[\\`*_\[\]|~]|^[#+-](?=\s)|^\d+(?=[.)]\s)")
