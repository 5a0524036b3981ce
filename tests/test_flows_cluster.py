"""Map stages on a Ray cluster of two nodes on this machine: same bytes as in one process, also when a node is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from datasets.runtime.errors import InputError
from datasets.runtime.manifests import MANIFEST
from flows.process.commands import CommandError, Guard
from flows.stages import pieces_of

ray = pytest.importorskip("ray", reason="optional: pip install -e '.[ray]'")

from datasets.poses.config import ExtractPosesConfig  # noqa: E402
from datasets.shards.config import EncodeConfig  # noqa: E402
from flows.process.cluster import run_on_cluster  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head without processors, and two nodes with one each."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1, num_gpus=0) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def command(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def test_commands_run_side_by_side_and_their_lines_arrive(cluster, tmp_path):
    meet = "import pathlib, sys, time; here, there = map(pathlib.Path, sys.argv[1:]); here.touch()\n"
    meet += "while not there.exists(): time.sleep(0.05)\nprint('met', here.name)"
    one, two = tmp_path / "one", tmp_path / "two"
    lines: list[str] = []
    commands = [(command(meet, one, two), tmp_path / "1.log"), (command(meet, two, one), tmp_path / "2.log")]
    run_on_cluster(cluster[0].address, commands, lines.append, Guard())
    assert sorted(lines) == ["met one", "met two"]


def test_a_failure_says_the_commands_last_lines_and_stops_the_others(cluster, tmp_path):
    started = time.monotonic()
    commands = [
        (command("import time; time.sleep(600)"), tmp_path / "1.log"),
        (command("print('no such thing'); raise SystemExit(3)"), tmp_path / "2.log"),
    ]
    with pytest.raises(CommandError, match="no such thing") as raised:
        run_on_cluster(cluster[0].address, commands, lambda line: None, Guard(grace_seconds=2))
    assert raised.value.exit_code == 3
    assert time.monotonic() - started < 120


def test_a_node_that_does_not_see_the_store_is_told_of(cluster, tmp_path, monkeypatch):
    import contextlib

    from flows.process import cluster as module

    monkeypatch.setattr(module, "_mark", lambda folder: contextlib.nullcontext(folder / "not-there"))
    with pytest.raises(InputError, match="does not see"):
        run_on_cluster(cluster[0].address, [(command("pass"), tmp_path / "1.log")], lambda line: None, Guard())


def test_an_address_where_no_cluster_answers_is_refused(tmp_path):
    code = "import sys; from flows.process.cluster import _connect; _connect('127.0.0.1:1')"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert "no cluster answers there" in result.stderr


def artifacts(store: Path, *stages: str) -> dict[str, str]:
    """Content of the artifacts of some stages, by stage and key."""
    manifests = [path for stage in stages for path in store.glob(f"{stage}/*/{MANIFEST}")]
    return {str(path.parent.relative_to(store)): json.loads(path.read_text())["content_sha256"] for path in manifests}


def regenerate(repository: Path, folder: Path, *arguments: str) -> None:
    command = [
        sys.executable,
        "-m",
        "flows",
        "regenerate",
        "--preset",
        "smoke",
        "--device",
        "cpu",
        "--workers",
        "1",
        "--store",
        str(folder / "store"),
        "--output",
        str(folder / "out"),
        *arguments,
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    result = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]


def test_a_cluster_that_loses_a_node_makes_the_same_bytes_as_one_process(cluster, tmp_path, repository):
    """The node is lost while its share of the generators is being trained or sampled."""
    ray_cluster, nodes = cluster
    store = tmp_path / "two-nodes" / "store"
    lost: list[str] = []

    def lose_a_node() -> None:
        deadline = time.monotonic() + 1200
        while time.monotonic() < deadline and not list(store.glob("synthesize/*.partial/*")):
            time.sleep(0.1)
        ray_cluster.remove_node(nodes[0], allow_graceful=False)
        lost.append("node")

    watcher = threading.Thread(target=lose_a_node, daemon=True)
    watcher.start()
    regenerate(repository, tmp_path / "two-nodes", "--ray", ray_cluster.address)
    watcher.join(timeout=10)
    regenerate(repository, tmp_path / "one-process")
    made = ("write-shards", "encode", "synthesize")
    assert lost
    assert artifacts(store, *made) == artifacts(tmp_path / "one-process" / "store", *made)
    assert not list(store.glob("*/*.partial"))


def test_an_encoding_is_shared_by_shards_and_poses_by_splits(tmp_path):
    shards, model = tmp_path / "shards", tmp_path / "model"
    shards.mkdir()
    model.mkdir()
    (model / "config.json").touch()
    for number in range(10):
        (shards / f"train-{number:05d}.tar").touch()
    shares = pieces_of(EncodeConfig(shards=shards, vae=model, image_encoder=model))
    assert len(shares) == 8 and sorted(name for share in shares for name in share.only) == sorted(
        path.name for path in shards.iterdir()
    )
    assert pieces_of(shares[0]) == []
    weights = tmp_path / "weights"
    weights.touch()
    poses = ExtractPosesConfig(images=shards, backend="openpose", weights=weights)
    assert [share.splits for share in pieces_of(poses)] == [["train"], ["query"], ["gallery"]]
