"""Valid content made hostile: JSON values by their places, bytes by flips, cuts and insertions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

OUTSIDE = [
    "../../../outside/secret",
    "../../../outside/new",
    "/etc/passwd",
    "..",
    ".",
    "",
    "/",
    "a/../../b",
    "\0",
    "a\nb",
]
"""Names that lead out of a store that has a folder `outside` beside it."""
NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, 10**40, 1e308, -1e308, float("nan"), float("inf"), 0.5]
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from([*OUTSIDE, *NUMBERS])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
DEEP = ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000]

Place = tuple[Any, Any]
"""A container and the key or position in it."""


def json_text(draw: Callable[[st.SearchStrategy[Any]], Any], value: Any, kept: tuple[str, ...] = ()) -> str:
    """A JSON value with one to three places changed, as text; now and then the text itself is changed.

    Args:
        draw: hypothesis' draw.
        value: any JSON value; not changed.
        kept: keys whose values stay.
    """
    if draw(st.integers(0, 19)) == 0:
        deep = draw(st.integers(0, len(DEEP)))  # numbers, as hypothesis prints what it draws
        return DEEP[deep] if deep < len(DEEP) else draw(st.text(max_size=50))
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        if not (places := list(_places(value, kept))):
            return json.dumps(draw(VALUES))
        container, key = draw(st.sampled_from(places))
        _change(draw, container, key)
    text = json.dumps(value)
    return bytes_of(draw, text.encode()).decode("latin-1") if draw(st.integers(0, 9)) == 0 else text


def _places(value: Any, kept: tuple[str, ...]) -> Iterator[Place]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if key not in kept:
            yield value, key
            yield from _places(inner, kept)


def _change(draw: Callable[[st.SearchStrategy[Any]], Any], container: Any, key: Any) -> None:
    how = draw(st.sampled_from(["value", "value", "outside", "delete", "twice"]))
    if how == "delete":
        del container[key]
    elif how == "twice" and isinstance(container, list):
        container.append(container[key])
    elif how == "outside":
        container[key] = draw(st.sampled_from(OUTSIDE))
    else:
        container[key] = draw(VALUES)


def bytes_of(draw: Callable[[st.SearchStrategy[Any]], Any], content: bytes, first: int = 0) -> bytes:
    """Bytes with some flipped, overwritten, cut, repeated or inserted.

    Args:
        draw: hypothesis' draw.
        content: valid content.
        first: changes fall into so many first bytes; 0: anywhere.
    """
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        end = min(first or len(changed), len(changed))
        place = draw(st.integers(0, max(0, end - 1)))
        how = draw(st.sampled_from(["flip", "write", "write", "cut", "insert", "repeat"]))
        if how == "flip" and changed:
            changed[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "write":
            few = draw(st.binary(min_size=1, max_size=12) | st.sampled_from([b"\xff" * 4, b"\0" * 12, b"7" * 11]))
            changed[place : place + len(few)] = few
        elif how == "cut":
            del changed[place : place + draw(st.integers(1, 600))]
        elif how == "insert":
            changed[place:place] = draw(st.binary(max_size=40))
        elif how == "repeat":
            changed[place:place] = changed[place : place + 512] * draw(st.integers(1, 40))
    return bytes(changed)
