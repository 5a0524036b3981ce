"""The page itself: one HTML file that needs nothing else and may load nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

TEMPLATES = "templates"


def render(page: dict[str, Any]) -> str:
    """The HTML of an arranged study.

    Its policy forbids every connection and runs only the script and the style of these hashes.
    """
    style, script = _text("page.css"), _text("page.js")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_text("page.html.j2"))
    return template.render(
        policy=(
            f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=Markup(style),
        script=Markup(script),
        study=Markup(_json(page)),
    )


def _text(name: str) -> str:
    return (resources.files("imagpose.study") / TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _json(value: dict[str, Any]) -> str:
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
