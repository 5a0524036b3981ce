"""Model cards on the report: the little Markdown that they use, as safe HTML.

Headings, paragraphs, lists, pipe tables, fenced code, `code` and **bold**; everything is escaped first, and anything
else stays as it was written. Links are shown as text: the report loads nothing from the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup, escape


def read_card(path: Path) -> dict[str, str | Markup]:
    """A card's title (its first heading, or its folder's name) and its text as HTML, without YAML front matter."""
    text = Path(path).read_text(encoding="utf-8", errors="replace").strip()
    if text.startswith("---\n") and "\n---" in text[4:]:
        text = text[4:].split("\n---", 1)[1].strip()
    first, _, rest = text.partition("\n")
    title = first.lstrip("# ") if first.startswith("#") else Path(path).resolve().parent.name
    return {"title": title, "text": markdown_html(rest if first.startswith("#") else text)}


def markdown_html(text: str) -> Markup:
    """The subset of Markdown as HTML."""
    return Markup("\n").join(_block(lines) for lines in _blocks(text))


def _blocks(text: str) -> Iterator[list[str]]:
    """Groups of lines between blank ones; a fenced block is one group, a table and a list too."""
    lines: list[str] = []
    fenced = False
    for line in [*text.splitlines(), ""]:
        fence = line.startswith("```")
        if fence or (not fenced and not line.strip()):
            if lines:
                yield ["```", *lines] if fenced else lines
            lines, fenced = [], fenced != fence
            continue
        lines.append(line)
    if lines:
        yield ["```", *lines] if fenced else lines


def _block(lines: list[str]) -> Markup:
    if lines[0] == "```":
        return Markup("<pre>{}</pre>").format("\n".join(lines[1:]))
    if lines[0].startswith("#"):
        heading = Markup("<h4>{}</h4>").format(_inline(lines[0].lstrip("# ")))
        return heading + _block(lines[1:]) if lines[1:] else heading
    if all(line.lstrip().startswith("|") for line in lines):
        return _table(lines)
    if re.match(r"[-*] ", lines[0]):
        items = re.split(r"\n[-*] ", "\n" + "\n".join(lines))[1:]
        return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(_inline(i)) for i in items))
    return Markup("<p>{}</p>").format(_inline(" ".join(lines)))


def _table(lines: list[str]) -> Markup:
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    rows = [row for row in rows if not all(re.fullmatch(r":?-*:?", cell) for cell in row)]
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(_inline(cell)) for cell in row))
        for row in rows
    )
    return Markup('<div class="scroll"><table class="card-table"><tbody>{}</tbody></table></div>').format(body)


def _inline(text: str) -> Markup:
    """`code` and **bold** of a text that is escaped first; a link becomes its words."""
    safe = str(escape(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)))
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", safe))
