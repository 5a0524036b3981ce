"""What all tests share: no network, no telemetry, one thread, and the markers' rules."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before any library reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # xdist runs a test a core
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands do (datasets/runtime/command_line.py)
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and the slow tests unless they were requested."""
    requested = config.getoption("-m") or ""
    named = any("::" in argument for argument in config.args)
    for item in items:
        # not by `keywords`, which hold the names of folders too: a checkout may lie in one called 'gpu'
        if item.get_closest_marker("realdata") and not os.environ.get("MARKET1501_ROOT"):
            item.add_marker(pytest.mark.skip(reason="MARKET1501_ROOT is not set"))
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("slow") and "slow" not in requested and not named:
            item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))


def _has_gpu() -> bool:
    """Whether the GPU's tests can be run, or are to be rehearsed on the CPU."""
    import torch

    return torch.cuda.is_available() or os.environ.get("GPU_TESTS_ON") == "cpu"


@pytest.fixture(autouse=True)
def _with_denormal_numbers() -> Iterator[None]:
    """Undo after each test what `datasets.runtime.devices.pick` does for good: Hypothesis wants them for its floats."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def market1501_root() -> Path:
    """The real Market-1501, for tests marked `realdata`."""
    return Path(os.environ["MARKET1501_ROOT"])


@pytest.fixture
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY
