"""Data set, shards, features, generator and synthetic set at an S3 server that is killed: the bytes of a local run."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets.miniature.config import MiniatureConfig
from datasets.poses.config import ImportPosesConfig
from datasets.runtime.artifacts import build
from datasets.runtime.config import StageConfig
from datasets.runtime.manifests import manifest_of
from datasets.runtime.registry import load_name
from datasets.runtime.remote import transfer
from datasets.runtime.remote.addresses import CACHE, path_of, spelled
from datasets.shards.config import EncodeConfig, WriteShardsConfig
from datasets.sources.config import IndexConfig, SelectSubsetsConfig
from flows import presets
from imagpose.config import SynthesizeConfig, TrainGeneratorConfig
from tests.conftest import REPOSITORY
from tests.in_process import command_of
from tests.s3_server import S3Server, s3_server

pytest.importorskip("moto")
pytest.importorskip("s3fs")

BUILT_IN = REPOSITORY / "imagpose" / "builtin"
TIMES = ("started", "seconds", "own_sha256")


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[S3Server]:
    with s3_server(tmp_path, "data") as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
        yield running


def make(config: StageConfig, store: str) -> str:
    """Build an artifact; returns where it is, as it would be typed."""
    return spelled(build(config, load_name(command_of(config).run), store=Path(str(path_of(store)))))


def run_all(store: str) -> Iterator[str]:
    """Every stage from the data set to the synthetic images, one after the other, from what the one before returned."""
    smoke = presets.smoke()
    people = {"train_identities": 3, "test_identities": 3, "images_per_identity": 4, "distractors": 1, "junk": 1}
    root = make(MiniatureConfig(**people, width=32, height=64, workers=1), store)
    yield root
    images = make(IndexConfig(root=root, workers=1), store)
    yield images
    poses = make(ImportPosesConfig(images=images, csv=[f"{root}/market-annotation-train.csv"]), store)
    yield poses
    shards = make(WriteShardsConfig(images=images, poses=poses, images_per_shard=4), store)
    yield shards
    subset = make(SelectSubsetsConfig(images=images, fractions=[60]), store)
    yield subset
    models = {"vae": BUILT_IN / "vae", "image_encoder": BUILT_IN / "image_encoder"}
    sizes = smoke.encode.model_dump()
    encoded = make(EncodeConfig(shards=shards, **models, **sizes, device="cpu"), store)
    yield encoded
    part = {"encoded": encoded, "subset": subset, "fraction": 60, "device": "cpu"}
    generator = make(TrainGeneratorConfig(**{**smoke.train.model_dump(), **part}), store)
    yield generator
    yield make(SynthesizeConfig(**{**smoke.synthesize.model_dump(), **part, "generator": generator}), store)


def as_compared(folder: str) -> dict[str, object]:
    """An artifact's manifest without times, and with the last parts of paths alone."""
    manifest = dict(manifest_of(Path(str(path_of(folder)))))
    text = json.dumps({name: value for name, value in manifest.items() if name not in TIMES})
    for start in ("s3://data/store", str(Path(folder).parents[1])):
        text = text.replace(start, "STORE")
    compared = json.loads(text)
    compared["files"] = [file for file in compared["files"] if not file["name"].startswith("logs/")]
    counts = compared["summary"].items()
    compared["summary"] = {name: value for name, value in counts if "second" not in name and "memory" not in name}
    return compared


def contents(folder: Path) -> dict[str, bytes]:
    """An artifact's files, less its manifest and logs, in which times stand."""
    names = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in names.items() if name[:5] not in ("logs/", "manif")}


class Breaker:
    """Kills the server at one of the requests for a shard, and starts it again a moment later."""

    def __init__(self, server: S3Server, function: str, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.server, self.at, self.requests = server, at, 0
        self.original = getattr(transfer, function)
        monkeypatch.setattr(transfer, function, self.ask)

    def ask(self, storage: object, path: object, *rest: object) -> object:
        if str(path).endswith(".tar"):
            self.requests += 1
            if self.requests == self.at:
                self.server.kill()
                threading.Timer(1.0, self.server.start).start()
        return self.original(storage, path, *rest)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_at_a_server_that_is_killed_gives_the_bytes_of_a_local_run(tmp_path, server, monkeypatch):
    local = list(run_all(str(tmp_path / "store")))
    reads = Breaker(server, "_read", monkeypatch, at=2)
    writes = Breaker(server, "_put", monkeypatch, at=2)
    for number, (there, here) in enumerate(zip(run_all("s3://data/store"), local, strict=True)):
        assert as_compared(there) == as_compared(here)
        name = there.removeprefix("s3://data/")
        assert contents(server.folder / "data" / name) == contents(Path(here))
        monkeypatch.setenv(CACHE, str(tmp_path / f"cache{number}"))  # as on another machine: nothing lies there yet
    assert reads.requests > reads.at
    assert writes.requests > writes.at
    assert b"testing-secret" not in b"".join(server.files().values())
    shutil.rmtree(tmp_path / "store")
