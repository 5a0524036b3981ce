"""The measurement of a second run, on a small data set."""

from __future__ import annotations

import pytest

from benchmarks.market_images import Size
from benchmarks.resume import measure


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_second_run_finds_everything_and_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("MARKET1501_ROOT", raising=False)
    size = Size(identities=6, train=36, query=10, gallery=20, distractors=4, junk=4)
    result = measure(tmp_path, size)
    assert {name: fine for name, fine in result["checks"].items() if name != "in_time"} == {
        "first_run_made_everything": True,
        "nothing_recomputed": True,
        "no_file_written": True,
        "neither_torch_nor_prefect_imported": True,
    }
    assert 0 < result["second_run_cpu_s"] < result["first_run_cpu_s"]
