"""The user study's page in a real Chromium: whole studies answered by keys and by fingers, resumed, saved, scored."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from imagpose.config import ScoreStudyConfig
from imagpose.study.score import run_score
from tests.chromium import PROGRAM, Chromium, chromium
from tests.small_study import NASTY, packed, study_in, synthetic_set

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")

DENIED = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('denied', 'SecurityError'); }})"
STICKS_OUT = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""Pixels. Not `innerWidth`, which grows with what sticks out: a phone then shows the page smaller."""
STRETCHED = """Array.from(document.querySelectorAll('#stage img'), (shown) => {
    const box = shown.getBoundingClientRect();
    return Math.abs(box.width / box.height / (shown.naturalWidth / shown.naturalHeight) - 1);
}).filter((share) => share > 0.02).length"""
"""Pictures whose sides stand in another proportion than the file's."""
BELOW = """Math.max(...Array.from(document.querySelectorAll('.answers button, .choice'),
    (button) => button.getBoundingClientRect().bottom)) - innerHeight"""
"""Pixels between the end of the screen and that of the lowest answer."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return packed(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def wide_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Square pictures, three sources."""
    folder = tmp_path_factory.mktemp("wide")
    sets = {name: synthetic_set(folder / name, sources=3) for name in ("one", "two", "three")}
    return packed(folder, synthetic=sets, per_generator=1, best=2, height=48, width=48)[0]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[Chromium]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def browser(running: Chromium) -> Chromium:
    running.new_tab()
    return running


def item(browser: Chromium) -> str:
    """Which item is asked about; empty on any other screen."""
    return browser.value("document.getElementById('stage').dataset.item")


def text(browser: Chromium) -> str:
    return browser.value("document.body.innerText")


def marks(browser: Chromium) -> list[str]:
    """The choices as they stand on the screen."""
    return browser.value("Array.from(document.querySelectorAll('.choice'), (choice) => choice.value)")


def saved(browser: Chromium, folder: Path, by: str = "click") -> dict[str, Any]:
    """What 'Save answers' saves."""
    folder.mkdir()
    browser.downloads_to(folder)
    if by == "tap":
        browser.tap("#stage .main")
    else:
        browser.press("Enter")  # the button has the focus
    browser.wait(lambda: any(path.suffix == ".json" for path in folder.iterdir()))
    (file,) = folder.glob("*.json")
    browser.wait(lambda: file.stat().st_size > 0)
    return json.loads(file.read_text())


def answer_all(browser: Chromium, key: dict[str, Any]) -> None:
    """Real ones are seen through; generated ones of 'ours' are taken for real; 'ours' is the best but for one vote."""
    votes = 0
    while asked := item(browser):
        known = key["items"][asked]
        if known["task"] == "real":
            fooled = known["truth"] == "real" or known["generator"] == "ours"
            browser.press("1" if fooled else "2")
            continue
        shown = marks(browser)
        if not shown:
            browser.press("Enter")  # what the last part asks
            continue
        wanted = NASTY if votes == 0 else "ours"
        votes += 1
        browser.press(str(1 + [known["choices"][mark] for mark in shown].index(wanted)))


def test_a_whole_study_is_answered_by_keys_saved_and_scored(browser, study, tmp_path):
    page, key = study
    browser.open(page)
    assert "28 questions, about 2 minutes" in text(browser)
    browser.press("Enter")
    answer_all(browser, key)
    assert "Thank you!" in text(browser) and "28 of 28" in text(browser)
    answers = saved(browser, tmp_path / "saved")
    assert answers["pack"] == key["pack"] and len(answers["answers"]) == len(key["items"]) == 28
    (file,) = (tmp_path / "saved").glob("*.json")
    run_score(ScoreStudyConfig(answers=(file,), key=page.parent / "key.json", out=tmp_path / "scores"))
    ours, theirs = json.loads((tmp_path / "scores" / "scores.json").read_text())["generators"]
    assert [ours[figure]["share"] for figure in ("r2g", "g2r", "jab")] == [0.0, 1.0, 0.75]
    assert [theirs[figure]["share"] for figure in ("r2g", "g2r", "jab")] == [0.0, 0.0, 0.25]
    assert [url for url in browser.requests() if not url.startswith(("file:", "data:", "blob:"))] == []
    assert browser.complaints() == []


def test_a_whole_study_is_answered_by_fingers_on_a_phone(browser, study, tmp_path):
    page, key = study
    browser.phone()
    browser.open(page)
    browser.tap("#stage .main")
    for _ in range(24):
        browser.tap(".answers button:nth-child(2)")
    assert "which is best" in text(browser)
    browser.tap("#stage .main")
    for _ in range(4):
        browser.tap(".choice:nth-child(1)")
    assert browser.value(STICKS_OUT) == 0
    answers = saved(browser, tmp_path / "saved", by="tap")
    judged = [value for identifier, value in answers["answers"] if key["items"][identifier]["task"] == "real"]
    assert judged == ["generated"] * 24 and len(answers["answers"]) == 28


@pytest.mark.parametrize("size", [(240, 500), (320, 568), (390, 844), (844, 390)])
def test_on_every_screen_nothing_sticks_out_no_picture_is_stretched_and_answers_are_in_sight(browser, wide_study, size):
    browser.phone(*size)
    browser.open(wide_study)
    browser.press("Enter")
    assert (browser.value(STICKS_OUT), browser.value(STRETCHED)) == (0, 0)
    assert browser.value(BELOW) <= 0
    for _ in range(6):
        browser.tap(".answers button:nth-child(1)")
    browser.press("Enter")
    assert browser.value("document.querySelectorAll('.given img').length") == 4
    assert (browser.value(STICKS_OUT), browser.value(STRETCHED)) == (0, 0)
    assert browser.value(BELOW) <= 0


def test_a_closed_page_goes_on_where_it_was_in_the_same_order(browser, study):
    page, _ = study
    browser.open(page)
    browser.press("Enter")
    for key in "1212":
        browser.press(key)
    asked = item(browser)
    browser.open(page)
    assert item(browser) == asked != "" and "4 of 28" in text(browser)
    browser.press("Backspace")
    assert "3 of 28" in text(browser) and item(browser) != asked
    browser.press("ArrowLeft")
    assert item(browser) == asked


def test_spoiled_storage_begins_anew(browser, study):
    page, key = study
    for spoiled in ("[", "{}", '{"session": "' + "0" * 32 + '", "answers": [["x", "real"]], "begun": true}', "[1]"):
        browser.open(page)
        browser.value(f"localStorage.setItem('imagpose-user-study-{key['pack']}', {json.dumps(spoiled)})")
        browser.open(page)
        assert "Begin" in text(browser)
    assert browser.complaints() == []


def test_where_storage_is_denied_the_study_works_and_says_so(browser, study):
    page, _ = study
    browser.send("Page.addScriptToEvaluateOnNewDocument", source=DENIED)
    browser.open(page)
    assert "This browser keeps nothing" in text(browser)
    browser.press("Enter")
    browser.press("1")
    assert "1 of 28" in text(browser)
    assert browser.complaints() == []


def test_two_people_get_orders_of_their_own_and_who_stops_early_can_save(browser, study, tmp_path):
    page, key = study
    orders = []
    for person in range(2):
        browser.open(page)
        browser.value("localStorage.clear()")
        browser.open(page)
        browser.press("Enter")
        for _ in range(10):
            browser.press("2")
        browser.value("document.getElementById('stop').click()")
        assert "10 of 28" in text(browser)
        answers = saved(browser, tmp_path / str(person))
        orders.append([identifier for identifier, _ in answers["answers"]])
    assert orders[0] != orders[1]
    first = {key["items"][identifier]["generator"] for identifier in orders[0][:10]}
    assert len(first) == 1, "a generator's part is not mixed with another's"


def test_arrows_walk_over_the_choices_and_other_keys_do_nothing(browser, study):
    page, _ = study
    browser.open(page)
    browser.press("Enter")
    for _ in range(24):
        browser.press("3")
        browser.press("2")
    browser.press("Enter")
    shown = marks(browser)
    browser.press("9")
    assert "24 of 28" in text(browser)
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert browser.value("document.activeElement.value") == shown[1]
    browser.press("Enter")
    assert "25 of 28" in text(browser)


def test_the_driver_sees_what_the_policy_forbids(browser, study, tmp_path):
    """The other tests count complaints: here is one."""
    changed = tmp_path / "changed.html"
    changed.write_text(study[0].read_text().replace('"use strict";', '"use strict"; fetch("https://example.org/");'))
    browser.open(changed)
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())
    assert study_in(changed) == study_in(study[0])
