"""Arms as declared objects: what is refused, and that docs say of each what it says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from reid.arms import ARMS, PALETTE, Arm, arm_of, arm_rank

WORDS = {"text": "A.", "tells": "b"}
STEPS = {"recipe": "1", "long": "long", "rest": "long, `real`'s among them"}
PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmark.md"


def steps_words(arm: Arm) -> str:
    return STEPS[arm.steps] + (", after the same pretraining on other people" if arm.needs_others else "")


def test_the_documents_have_a_row_for_each_arm_in_its_own_words():
    rows = [f"| `{arm.name}` | {arm.text} | {steps_words(arm)} | {arm.tells} |" for arm in ARMS.values()]
    page = PAGE.read_text()
    assert [line for line in page.splitlines() if line in rows] == rows


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "a b"}, "take letters, digits"),
        ({"color": PALETTE}, f"color {PALETTE} is not among the palette's 0 to {PALETTE - 1}"),
        ({"steps": "rest"}, "it must start from 'real'"),
        ({"checked": True}, "only synthetic images are checked, but it trains on 'real'"),
    ],
)
def test_an_arm_that_contradicts_itself_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Arm(**{"name": "arm"} | WORDS | fields)


def test_an_unknown_name_is_another_generators_and_comes_last():
    assert arm_of("zoo").trains_on == "foreign" and arm_of("zoo").generated
    assert sorted(["zoo", "ape", "real+synthetic", "real"], key=arm_rank) == ["real", "real+synthetic", "ape", "zoo"]


def test_what_an_arm_needs_follows_from_what_it_declares():
    assert {name for name, arm in ARMS.items() if arm.needs_real} == {"real-then-synthetic", "real+checked"}
    assert {name for name, arm in ARMS.items() if arm.needs_others} == {"real-pretrained", "pretrained+synthetic"}
    assert {name for name, arm in ARMS.items() if arm.needs_length} == {"real-long", "real-then-synthetic"}
