"""The user study's scores: figures known by construction, agreement against published examples, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.runtime.command_line import main
from datasets.runtime.errors import InputError
from imagpose.__main__ import COMMANDS
from imagpose.config import ScoreStudyConfig
from imagpose.study.agreement import fleiss_kappa, krippendorff_alpha
from imagpose.study.answers import read_key, read_raters
from imagpose.study.score import run_score, share
from tests.small_study import NASTY, answers_file

A, B, C = "a" * 32, "b" * 32, "c" * 32


def judged(generator: str, truth: str) -> dict[str, Any]:
    return {"task": "real", "generator": generator, "truth": truth, "picture": "p"}


def ten_questions() -> dict[str, Any]:
    """A key: two generators, two pictures and two real ones each, and two questions which is best."""
    items = {
        f"{name}{truth[0]}{n}": judged(name, truth) for name in "XY" for truth in ("real", "generated") for n in "12"
    }
    best = {"task": "best", "sources": ["s"], "pose": "p", "pictures": {"X": "x", "Y": "y"}}
    items |= {"b1": {**best, "choices": {"l": "X", "r": "Y"}}, "b2": {**best, "choices": {"l": "Y", "r": "X"}}}
    return {
        "format": "imagpose-user-study-key",
        "version": 1,
        "pack": "0" * 64,
        "seed": 0,
        "generators": ["X", "Y"],
        "items": items,
    }


TRUE = {name + truth + n: word for name in "XY" for truth, word in (("r", "real"), ("g", "generated")) for n in "12"}
THREE = {
    A: TRUE | {"b1": "l", "b2": "r"},  # all right, X best twice
    B: TRUE | {"Xg1": "real", "Xg2": "real", "Yr1": "generated", "b1": "l", "b2": "l"},  # X, then Y
    C: TRUE | {"Xg1": "real", "Xr1": "generated", "b1": "l", "b2": "r"},
}
"""Three people, ten answers each."""


def files_in(folder: Path, key: dict[str, Any], given: dict[str, dict[str, str]]) -> tuple[Path, ...]:
    (folder / "key.json").write_text(json.dumps(key))
    return tuple(
        answers_file(folder / f"{session[0]}.json", key, session, answers) for session, answers in given.items()
    )


def scored(folder: Path, given: dict[str, dict[str, str]]) -> dict[str, Any]:
    files = files_in(folder, ten_questions(), given)
    run_score(ScoreStudyConfig(answers=files, key=folder / "key.json", out=folder / "out"))
    return json.loads((folder / "out" / "scores.json").read_text())


def test_thirty_answers_give_the_figures_that_were_put_in(tmp_path):
    scores = scored(tmp_path, THREE)
    found = {
        row["generator"]: {name: (row[name]["hits"], row[name]["answers"]) for name in ("r2g", "g2r", "jab")}
        for row in scores["generators"]
    }
    assert found == {
        "X": {"r2g": (1, 6), "g2r": (3, 6), "jab": (5, 6)},
        "Y": {"r2g": (1, 6), "g2r": (0, 6), "jab": (1, 6)},
    }
    assert scores["complete_raters"] == 3
    assert sum(rater["answers"] for rater in scores["raters"]) == 30
    assert scores["agreement"]["real"]["measure"] == scores["agreement"]["best"]["measure"] == "Fleiss' kappa"


def test_wilsons_interval_is_that_of_his_formula():
    hits, count, z = 3, 6, 1.959963984540054
    center = (hits + z**2 / 2) / (count + z**2)
    half = z / (count + z**2) * np.sqrt(hits * (count - hits) / count + z**2 / 4)
    np.testing.assert_allclose(share([True] * 3 + [False] * 3, 0.95)["interval"], [center - half, center + half])
    assert share([False] * 10, 0.95)["interval"][0] == 0
    assert share([], 0.95) == {"hits": 0, "answers": 0, "share": None, "interval": None}


def test_fleiss_kappa_of_the_published_example():
    """Ten subjects, 14 raters, five categories: 0.210 (Wikipedia, "Fleiss' kappa", worked example)."""
    counts = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    assert fleiss_kappa(np.array(counts)) == pytest.approx(0.210, abs=5e-4)


def test_krippendorffs_alpha_of_his_own_example():
    """Four observers, twelve units, values missing, nominal: 0.743 (Krippendorff 2011, section C)."""
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ]
    counts = np.array([[[o[u] for o in observers].count(value) for value in range(1, 6)] for u in range(12)])
    assert krippendorff_alpha(counts) == pytest.approx(0.743, abs=5e-4)


def test_agreement_is_one_where_all_agree_and_none_where_only_one_answer_was_ever_given():
    apart, same = np.array([[3, 0], [0, 3]]), np.array([[3, 0], [3, 0]])
    assert fleiss_kappa(apart) == krippendorff_alpha(apart) == 1
    assert fleiss_kappa(same) is None and krippendorff_alpha(same) is None
    with pytest.raises(ValueError, match="the same number of raters"):
        fleiss_kappa(np.array([[3, 0], [0, 2]]))


def test_incomplete_answers_count_and_agreement_is_then_krippendorffs(tmp_path):
    part = {name: value for name, value in THREE[B].items() if name not in ("Yr1", "Yr2", "b1", "b2")}
    scores = scored(tmp_path, THREE | {B: part})
    assert scores["complete_raters"] == 2 and scores["raters"][1]["answers"] == 6
    assert scores["agreement"]["real"]["measure"] == "Krippendorff's alpha"
    assert scores["agreement"]["best"] == {
        "items": 2,
        "raters": 2,
        "compared": 2,
        "measure": "Fleiss' kappa",
        "value": None,
    }
    assert scores["generators"][1]["r2g"]["answers"] == 4
    page = (tmp_path / "out" / "scores.md").read_text()
    assert "2 of whom answered all 10 questions" in page and "6 of 10" in page


def test_one_person_agrees_with_nobody(tmp_path):
    scores = scored(tmp_path, {A: THREE[A]})
    assert scores["agreement"]["real"]["measure"] is None
    page = (tmp_path / "out" / "scores.md").read_text()
    assert "1 rater, so nothing to compare" in page and "1 rater, 1 of whom answered all 10 questions" in page


def test_people_who_answered_different_questions_are_not_said_to_agree(tmp_path):
    halves = {A: ("Xr1", "Xr2", "b1"), B: ("Xg1", "Xg2", "b2")}
    scores = scored(tmp_path, {who: {name: THREE[who][name] for name in names} for who, names in halves.items()})
    assert [found["value"] for found in scores["agreement"].values()] == [None, None]
    page = (tmp_path / "out" / "scores.md").read_text()
    assert page.count("2 raters, no two of whom answered the same question") == 2 and "chose the same" not in page
    scores = scored(tmp_path, {A: THREE[A], B: {name: THREE[B][name] for name in ("Xr1", "Xg1", "b1")}})
    assert [found["compared"] for found in scores["agreement"].values()] == [2, 1]
    assert "8 items, 2 of them answered by two or more" in (tmp_path / "out" / "scores.md").read_text()


def test_a_question_that_the_page_does_not_ask_is_not_reported_as_unanswered(tmp_path):
    key = ten_questions()
    key["items"] = {name: item for name, item in key["items"].items() if item["task"] == "real"}
    files = files_in(tmp_path, key, {A: TRUE})
    run_score(ScoreStudyConfig(answers=files, key=tmp_path / "key.json", out=tmp_path / "out"))
    assert "which is best?: not asked" in (tmp_path / "out" / "scores.md").read_text()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"pack": "1" * 64}, "answers another page than the key's"),
        ({"session": A}, r"c\.json holds the same person's answers as .*a\.json"),
        ({"answers": [list(pair) for pair in THREE[A].items()]}, "holds the same person's answers as"),
        ({"answers": [["unknown", "real"]]}, "answers 'unknown', which the page did not ask"),
        ({"answers": [["Xr1", "real"], ["Xr1", "real"]]}, "answers 'Xr1' twice"),
        ({"answers": [["Xr1", "X"]]}, "by 'X', which is no choice"),
        ({"answers": [["b1", "real"]]}, "by 'real', which is no choice"),
        ({"answers": [["Xr1"]]}, r"answers\.0: List should have at least 2 items"),
        ({"format": "other"}, "format: Input should be 'imagpose-user-study-answers'"),
        ({"name": "Ann"}, "name: Extra inputs are not permitted"),
        ({"session": "x"}, "session: String should match pattern"),
    ],
)
def test_mixed_doubled_and_changed_files_are_refused(tmp_path, change, match):
    files = files_in(tmp_path, ten_questions(), THREE)
    files[2].write_text(json.dumps(json.loads(files[2].read_text()) | change))
    with pytest.raises(InputError, match=match):
        read_raters(files, read_key(tmp_path / "key.json"))


def test_a_copy_of_a_file_is_refused(tmp_path):
    files = files_in(tmp_path, ten_questions(), {A: THREE[A]})
    copy = tmp_path / "copy.json"
    copy.write_bytes(files[0].read_bytes())
    with pytest.raises(InputError, match=r"copy\.json holds the same person's answers"):
        read_raters((*files, copy), read_key(tmp_path / "key.json"))


def test_no_answer_at_all_is_refused_and_answers_are_no_key(tmp_path):
    files = files_in(tmp_path, ten_questions(), {A: {}})
    with pytest.raises(InputError, match="no answer at all"):
        run_score(ScoreStudyConfig(answers=files, key=tmp_path / "key.json", out=tmp_path / "out"))
    with pytest.raises(InputError, match="that 'user-study pack' writes"):
        read_key(files[0])


@pytest.mark.parametrize(
    ("generators", "match"),
    [(["X"], "items: 'Y' is none of the generators"), (["X", "Y", "X"], "generators: 'X' stands there twice")],
)
def test_a_key_whose_answers_would_be_counted_for_nobody_or_twice_is_refused(tmp_path, generators, match):
    (tmp_path / "key.json").write_text(json.dumps(ten_questions() | {"generators": generators}))
    with pytest.raises(InputError, match=match):
        read_key(tmp_path / "key.json")


def test_names_of_generators_and_files_cannot_break_the_page(tmp_path):
    key = json.loads(json.dumps(ten_questions()).replace('"X"', json.dumps(NASTY)))
    (tmp_path / "key.json").write_text(json.dumps(key))
    file = answers_file(tmp_path / "<i>`a`|b.json", key, A, THREE[A])
    run_score(ScoreStudyConfig(answers=(file,), key=tmp_path / "key.json", out=tmp_path / "out"))
    page = (tmp_path / "out" / "scores.md").read_text()
    rows = [line for line in page.splitlines() if "theirs" in line or "a`" in line]
    assert len(rows) == 2
    assert rows[0].startswith("| `` <b onclick=alert(1)>theirs</b>\\|`x` `` |")
    assert rows[1].startswith("| `` <i>`a`\\|b.json `` |")
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["generators"][0]["generator"] == NASTY


def test_the_command_takes_files_before_the_flags(tmp_path, capsys):
    files = files_in(tmp_path, ten_questions(), THREE)
    words = [*map(str, files), "--key", str(tmp_path / "key.json"), "--out", str(tmp_path / "out")]
    assert main("imagpose", COMMANDS, ["user-study", "score", *words]) == 0
    assert len(json.loads((tmp_path / "out" / "scores.json").read_text())["raters"]) == 3
    assert main("imagpose", COMMANDS, ["user-study", "score", "--key", str(tmp_path / "key.json")]) == 2
    assert "answers: is required" in capsys.readouterr().err
    assert main("imagpose", COMMANDS, ["user-study", "score", str(tmp_path / "gone.json"), *words[3:]]) == 2
    assert "No such file" in capsys.readouterr().err
