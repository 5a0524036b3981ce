"""The shards benchmark at a size of seconds: its last line, its checks, and that they can fail."""

import json
from pathlib import Path

import pytest

from benchmarks import shards
from benchmarks.__main__ import BENCHMARKS
from benchmarks.market_images import MARKET, Size, image_names

TINY = Size(identities=4, train=12, query=3, gallery=9, distractors=2, junk=2)
CHECKS = {
    "source_bytes_untouched",
    "every_key_once",
    "no_identity_in_two_shards",
    "second_write_byte_identical",
    "hashes_verify",
    "peer_wrote_the_same_images",
    "equal_pixels_and_labels_across_readers",
    "every_reader_reads_every_image",
}


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_last_line_is_one_json_object_with_the_figures_and_every_check_true(capsys, monkeypatch):
    monkeypatch.delenv("MARKET1501_ROOT", raising=False)
    assert BENCHMARKS["shards"] == shards.__name__
    assert shards.main(TINY, rounds=1) == 0
    result = last_line(capsys)
    assert (result["images"], result["data"]) == (28, "generated")
    assert result["checks"] == dict.fromkeys(CHECKS, True)
    rates = [f"write_{peer}images_per_s" for peer in ("", "webdataset_")]
    rates += [f"read_{peer}images_per_s" for peer in ("", "webdataset_", "files_", "decode_")]
    assert all(result[f"{rate}{clock}"] > 0 for rate in rates for clock in ("", "_wall"))
    best_peer = max(result["read_webdataset_images_per_s"], result["read_files_images_per_s"])
    assert result["ratio"] == pytest.approx(result["read_images_per_s"] / best_peer, abs=0.02)
    assert result["machine"]["cores"] >= 1


def test_the_generated_names_have_market1501s_published_counts():
    names = image_names(MARKET)
    assert len(set(names)) == len(names) == 12_936 + 3_368 + 19_732
    assert len({Path(name).stem for name in names}) == len(names)
    assert len({name.rpartition("/")[2][:4] for name in names if name.startswith("bounding_box_train")}) == 751


def test_a_changed_image_and_a_lost_sample_fail_the_checks(tmp_path, monkeypatch):
    monkeypatch.delenv("MARKET1501_ROOT", raising=False)
    prepared = shards.prepare(tmp_path, TINY)
    first, second = shards.write_ours(prepared), shards.write_ours(prepared)
    assert set(shards.writing_checks(prepared, first, second).values()) == {True}
    readers = {"all": lambda: shards.read_ours([first / "query-00000.tar"]), "none": lambda: iter(())}
    assert set(shards.reading_checks(prepared, readers).values()) == {False}
    corrupt = first / "query-00000.tar"
    content = bytearray(corrupt.read_bytes())
    content[600] ^= 1  # inside the first JPEG, which begins at byte 512
    corrupt.write_bytes(content)
    found = shards.writing_checks(prepared, first, second)
    wrong = {name for name, passed in found.items() if not passed}
    assert wrong == {"source_bytes_untouched", "second_write_byte_identical", "hashes_verify"}


def test_a_root_that_is_not_there_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MARKET1501_ROOT", str(tmp_path / "nowhere"))
    assert shards.main(TINY, rounds=1) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.realdata
def test_a_slice_of_the_real_market1501_passes_every_check(capsys):
    assert shards.main(Size(identities=3), rounds=1) == 0
    assert last_line(capsys)["data"] == "Market-1501"
