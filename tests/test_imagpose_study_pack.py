"""The user study's page as it is packed: what it asks, that it is reproducible, and that it gives nothing away."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datasets.runtime.command_line import main
from datasets.runtime.errors import InputError
from imagpose.__main__ import COMMANDS
from imagpose.config import PackStudyConfig
from imagpose.study import pack
from imagpose.study.generated_sets import read_sets
from imagpose.study.pack import run_pack
from tests.small_study import (
    HEIGHT,
    KEYS,
    NASTY,
    PAIRS,
    WIDTH,
    evaluation,
    file_of,
    folder_of_pictures,
    packed,
    real_shards,
    study_in,
    synthetic_set,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return packed(tmp_path_factory.mktemp("study"))


def shown_pictures(shown: dict[str, Any]) -> list[bytes]:
    texts = [picture for part in shown["parts"] for _, picture in part]
    for _, sources, pose, choices in shown["best"]:
        texts += [*sources, pose, *(picture for _, picture in choices)]
    return [base64.b64decode(text) for text in texts]


def test_every_generator_has_a_part_with_as_many_real_pictures_of_people_it_drew(study):
    _, key = study
    judged = [item for item in key["items"].values() if item["task"] == "real"]
    counts = Counter((item["generator"], item["truth"]) for item in judged)
    assert set(counts.values()) == {6} and len(counts) == 4
    real = [item["picture"] for item in judged if item["truth"] == "real"]
    assert len(set(real)) == len(real) == 12
    assert set(real) <= set(KEYS), "no distractor"


def test_which_is_best_shows_a_pair_that_all_generators_drew_and_whose_pose_is_known(study):
    _, key = study
    best = [item for item in key["items"].values() if item["task"] == "best"]
    assert len(best) == 4
    assert all(((item["sources"][0], item["pose"])) in PAIRS[:-1] for item in best)
    assert all(sorted(item["choices"].values()) == sorted(["ours", NASTY]) for item in best)


def test_the_page_and_the_key_name_the_same_items(study):
    page, key = study
    shown = study_in(page)
    identifiers = [identifier for part in shown["parts"] for identifier, _ in part]
    identifiers += [identifier for identifier, *_ in shown["best"]]
    assert sorted(identifiers) == sorted(key["items"])
    for identifier, _, _, choices in shown["best"]:
        assert {mark for mark, _ in choices} == set(key["items"][identifier]["choices"])


def test_all_pictures_have_one_size_one_length_one_encoding_and_no_metadata(study):
    page, _ = study
    files = shown_pictures(study_in(page))
    pictures = [Image.open(io.BytesIO(content)) for content in files]
    assert {picture.size for picture in pictures} == {(WIDTH, HEIGHT)}, "of the smallest, though one set's are larger"
    assert len({len(content) for content in files}) == 1
    assert {picture.format for picture in pictures} == {"JPEG"}
    assert len({str(picture.quantization) for picture in pictures}) == 1
    assert len({str(picture.layer) for picture in pictures}) == 1, "the same chroma sampling"
    assert not any("exif" in picture.info or "xmp" in picture.info or "comment" in picture.info for picture in pictures)
    assert not any(b"Synthetic" in content or b"imagpose" in content for content in files)


def test_neither_name_nor_path_nor_key_nor_truth_stands_in_the_page(study):
    page, key = study
    text = page.read_text(encoding="utf-8")
    data = text[text.index('id="study">') : text.index("</script>", text.index('id="study">'))]
    for secret in ("ours", "theirs", "alert(1)", "_to_", str(page.parent.parent), *KEYS):
        assert secret not in text
    assert '"real"' not in data and '"generated"' not in data and '"truth"' not in data and '"seed"' not in data
    assert all(item["picture"] not in text for item in key["items"].values() if item["task"] == "real")


def test_the_order_tells_nothing(study):
    """Generated and real ones stand mixed in every part, and no generator's choice is always at the same place."""
    page, key = study
    shown = study_in(page)
    for part in shown["parts"]:
        truths = "".join(key["items"][identifier]["truth"][0] for identifier, _ in part)
        assert truths not in ("rrrrrrgggggg", "ggggggrrrrrr")
    identifiers = [identifier for part in shown["parts"] for identifier, _ in part]
    assert len(set(map(len, identifiers))) == 1
    assert identifiers != sorted(identifiers)


def test_the_policy_forbids_every_connection_and_names_the_hashes_of_the_script_and_the_style(study):
    text = study[0].read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy[1].replace("&#39;", "'").split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not re.findall(r"(?:src|href)=|https?://|\son\w+=", text.replace("data:image", ""))


def test_equal_inputs_give_an_equal_page_and_another_seed_another_order(tmp_path):
    first, key = packed(tmp_path, out=tmp_path / "a")
    settings = {"synthetic": {"ours": tmp_path / "ours", NASTY: tmp_path / "theirs"}, "real": tmp_path / "real"}
    small = {"per_generator": 6, "best": 4}
    run_pack(PackStudyConfig(**settings, **small, out=tmp_path / "b"))
    run_pack(PackStudyConfig(**settings, **small, out=tmp_path / "c", seed=1))
    assert (tmp_path / "b" / "user-study.html").read_bytes() == first.read_bytes()
    other = json.loads((tmp_path / "c" / "key.json").read_text())
    assert not key["items"].keys() & other["items"].keys() and key["pack"] != other["pack"]


def test_who_knows_the_seed_but_not_the_pictures_cannot_repeat_the_order(tmp_path):
    _, key = packed(tmp_path / "a")
    folder = tmp_path / "b"
    real, ours, theirs = real_shards(folder / "real"), synthetic_set(folder / "ours"), folder_of_pictures(folder / "t")
    for path in theirs.iterdir():
        path.write_bytes(file_of(999, "PNG"))
    run_pack(PackStudyConfig(synthetic={"ours": ours, NASTY: theirs}, real=real, out=folder, per_generator=6, best=4))
    assert not key["items"].keys() & json.loads((folder / "key.json").read_text())["items"].keys()


def test_an_evaluation_of_several_scenarios_is_as_many_generators(tmp_path):
    sets = {"ours": evaluation(tmp_path / "e"), "one": evaluation(tmp_path / "one", ("T2",))}
    _, key = packed(tmp_path / "s", synthetic=sets, real=real_shards(tmp_path / "real"), per_generator=2, best=3)
    assert key["generators"] == ["ours T1", "ours IMAGPose*", "one"]
    assert {len(item["choices"]) for item in key["items"].values() if item["task"] == "best"} == {3}


def test_a_single_generator_is_asked_about_without_which_is_best(tmp_path):
    page, _ = packed(tmp_path / "s", synthetic={"only": folder_of_pictures(tmp_path / "only")})
    assert study_in(page)["best"] == []


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"per_generator": 13}, "'ours' has 12 usable pictures, 13 are asked about; lower --per-generator"),
        ({"best": 12}, "12 pairs of source and pose were drawn by all of 'ours', .* 11 of them .* lower --best"),
    ],
)
def test_more_than_there_is_is_refused_with_the_way_out(tmp_path, settings, match):
    with pytest.raises(InputError, match=match):
        packed(tmp_path, **settings)


def test_too_few_real_pictures_are_refused(tmp_path):
    """48 of four people; three parts of 12 leave 12, and a fourth none."""
    sets = {name: folder_of_pictures(tmp_path / name) for name in "abcde"}
    with pytest.raises(InputError, match="0 real images of the people that 'e' drew are left, 12 are needed"):
        packed(tmp_path / "s", synthetic=sets, per_generator=12, best=0)


def test_a_generator_that_drew_few_people_is_not_left_without_real_ones_by_another_that_drew_many(tmp_path):
    """48 real images of four people, 12 of the one whom 'few' drew; three others would have taken most of those."""
    few = folder_of_pictures(tmp_path / "few")
    for path in few.iterdir():
        if not path.name.startswith("0002"):
            path.unlink()
    for number, path in enumerate(sorted(few.iterdir()) * 3):
        (few / f"{path.stem}{number}.png").write_bytes(file_of(500 + number, "PNG"))
    sets = {name: folder_of_pictures(tmp_path / name) for name in "abc"} | {"few": few}
    _, key = packed(tmp_path / "s", synthetic=sets, real=real_shards(tmp_path / "real"), per_generator=12, best=0)
    assert key["generators"] == ["a", "b", "c", "few"]
    real = [item for item in key["items"].values() if item["task"] == "real" and item["truth"] == "real"]
    assert {item["picture"][:4] for item in real if item["generator"] == "few"} == {"0002"}


def test_folders_that_hold_no_pictures_and_damaged_pictures_are_refused(tmp_path):
    real = real_shards(tmp_path / "real")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no synthetic images"):
        packed(tmp_path / "a", synthetic={"x": empty}, real=real)
    with pytest.raises(InputError, match=r"absent is not a folder"):
        packed(tmp_path / "b", synthetic={"x": tmp_path / "absent"}, real=real)
    damaged = folder_of_pictures(tmp_path / "damaged")
    for path in damaged.iterdir():
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"'x': picture .* cannot be opened"):
        packed(tmp_path / "c", synthetic={"x": damaged}, real=real)


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "\0pose", "\u202ea", "x" * 61])
def test_a_name_that_nobody_can_read_in_a_table_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="1 to 60 printable characters and no space at either end"):
        PackStudyConfig(synthetic={name: tmp_path}, real=tmp_path)


@pytest.mark.parametrize("name", [f"{KEYS[0]}_to_{KEYS[1]}_\udcff.png", f"folder\udcff/{KEYS[0]}.jpg"])
def test_a_file_whose_name_is_no_text_is_refused(tmp_path, name):
    path = tmp_path / "set" / name  # a byte 0xff, as Python reads it
    path.parent.mkdir(parents=True)
    path.write_bytes(file_of(0, "PNG"))
    with pytest.raises(InputError, match=r"\\udcff.* is not UTF-8; rename it"):
        read_sets("x", tmp_path / "set")


def test_pictures_that_are_stretched_are_named_and_ones_too_small_to_see_are_refused(tmp_path, caplog):
    caplog.set_level("WARNING")
    wide = folder_of_pictures(tmp_path / "wide")
    for path in wide.iterdir():
        path.write_bytes(file_of(5, "PNG", height=32, width=64))
    packed(tmp_path / "a", synthetic={"wide": wide}, real=real_shards(tmp_path / "real"), height=48, width=24)
    (warning,) = caplog.messages
    assert warning.startswith("'wide': 6 pictures have other proportions than 48x24")
    for path in wide.iterdir():
        path.write_bytes(file_of(5, "PNG", height=8, width=4))
    with pytest.raises(InputError, match=r"make all of them 8x4 .* give --height and --width"):
        packed(tmp_path / "b", synthetic={"wide": wide}, real=tmp_path / "real")


def test_a_page_that_no_browser_opens_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "MOST_BYTES", 10_000)
    with pytest.raises(InputError, match="more than browsers open; lower --per-generator"):
        packed(tmp_path)
    assert not (tmp_path / "study").exists()


def test_another_studys_key_is_never_replaced(tmp_path):
    packed(tmp_path)
    before = (tmp_path / "study" / "key.json").read_bytes()
    settings = {"synthetic": {"ours": tmp_path / "ours"}, "real": tmp_path / "real", "out": tmp_path / "study"}
    with pytest.raises(InputError, match="is the key of another study"):
        run_pack(PackStudyConfig(**settings, per_generator=6))
    assert (tmp_path / "study" / "key.json").read_bytes() == before


def test_the_command_takes_names_and_paths(tmp_path, capsys):
    real, theirs = real_shards(tmp_path / "real"), folder_of_pictures(tmp_path / "a,b")
    shutil.copytree(theirs, tmp_path / "c")
    arguments = ["user-study", "pack", "--synthetic", f"one={theirs},two={tmp_path / 'c'}", "--real", str(real)]
    arguments += ["--out", str(tmp_path / "out"), "--per-generator", "3", "--best", "2"]
    assert main("imagpose", COMMANDS, arguments) == 0
    assert json.loads((tmp_path / "out" / "key.json").read_text())["generators"] == ["one", "two"]
    assert main("imagpose", COMMANDS, [*arguments, "--width", "20"]) == 2
    assert "height and width go together" in capsys.readouterr().err
