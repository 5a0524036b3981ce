"""`python -m datasets verify` names what is corrupt and exits with 1."""

import json
import os
import shutil

import pytest

from datasets.__main__ import COMMANDS
from datasets.miniature.config import MiniatureConfig
from datasets.runtime import artifacts, manifests
from datasets.runtime.artifacts import build
from datasets.runtime.command_line import main
from datasets.runtime.verify import verify as problems_in
from datasets.sources.config import IndexConfig, SelectSubsetsConfig
from tests.small_sets import make, market_root


@pytest.fixture
def store(tmp_path):
    index = make(IndexConfig(root=market_root(tmp_path), workers=1), tmp_path / "store")
    make(SelectSubsetsConfig(images=index), tmp_path / "store")
    return tmp_path / "store"


def verify(*folders) -> int:
    return main("datasets", COMMANDS, ["verify", "--artifacts", ",".join(map(str, folders))])


def test_a_whole_store_passes(store):
    assert verify(store) == 0
    assert verify(*store.glob("*/[!.]*")) == 0


@pytest.mark.parametrize(
    "corruption",
    [
        "bit",
        "truncated",
        "missing",
        "added",
        "pipe instead",
        "added pipe",
        "link to nowhere",
        "manifest text",
        "manifest hash",
        "manifest list",
        "manifest summary",
        "manifest gone",
        "manifest a text",
        "file without size",
    ],
)
def test_each_kind_of_corruption_is_found_and_named(store, caplog, corruption):
    artifact = next((store / "index").glob("[!.]*"))
    file, manifest = artifact / "images.parquet", artifact / "manifest.json"
    named = manifest if corruption.startswith(("manifest", "file without")) else file
    content = file.read_bytes()
    if corruption == "bit":
        file.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif corruption == "truncated":
        file.write_bytes(content[:-1])
    elif corruption == "missing":
        file.unlink()
    elif corruption == "added":
        named = artifact / "more.txt"
        named.write_text("x")
    elif corruption == "manifest text":
        manifest.write_text(manifest.read_text()[:-20])
    elif corruption == "manifest hash":
        changed = json.loads(manifest.read_text())
        changed["files"][0]["sha256"] = "0" * 64
        manifest.write_text(json.dumps(changed))
    elif corruption in ("pipe instead", "added pipe", "link to nowhere"):  # none of them may be waited for
        named = file if corruption == "pipe instead" else artifact / "more"
        named.unlink(missing_ok=True)
        named.symlink_to("nowhere") if corruption == "link to nowhere" else os.mkfifo(named)
    elif corruption in ("manifest summary", "file without size"):
        changed = json.loads(manifest.read_text())
        if corruption == "manifest summary":
            changed["summary"]["files"] += 1
        else:
            del changed["files"][0]["size"]
        manifest.write_text(json.dumps(changed))
    elif corruption == "manifest gone":
        manifest.unlink()
    else:
        manifest.write_text("[]" if corruption == "manifest list" else '"text"')
    assert verify(store) == 1
    corrupt = [record.getMessage() for record in caplog.records if record.getMessage().startswith("corrupt")]
    assert len(corrupt) == 1 and str(named) in corrupt[0]


def test_a_store_in_the_making_is_no_corruption_and_an_empty_one_is_refused(store, tmp_path, capsys):
    artifact = next((store / "index").glob("[!.]*"))
    shutil.copytree(artifact, artifact.with_name(artifact.name + ".partial"))
    assert verify(store) == 0
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        if folder.name == "empty":
            folder.mkdir()
        assert verify(folder) == 2
        assert str(folder) in capsys.readouterr().err


@pytest.mark.parametrize("killed_in", ["file_sha256", "os.replace"])
def test_killed_while_the_manifest_is_written_nothing_is_made_again(tmp_path, monkeypatch, killed_in):
    calls = []

    def make(config, directory):
        calls.append([path.name for path in directory.iterdir()])
        (directory / "unit").write_text("made once")
        (directory / ".half.tmp").write_text("left by a kill")
        return {}

    def killed(*_):
        raise KeyboardInterrupt

    config = MiniatureConfig()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        real = artifacts.os.replace
        if killed_in == "file_sha256":
            patch.setattr(manifests, "file_sha256", killed)
        else:
            patch.setattr(artifacts.os, "replace", lambda a, b: killed() if a.is_dir() else real(a, b))
        build(config, make, store=tmp_path)
    folder = build(config, make, store=tmp_path)
    assert problems_in(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "unit"]
    assert len(calls) == 1 or "unit" in calls[1]
    assert len(calls) == (2 if killed_in == "file_sha256" else 1)


def test_an_artifact_with_logs_and_a_summary_with_numbers_as_keys_is_whole(tmp_path):
    def make(config, directory):
        (directory / "logs").mkdir()
        (directory / "logs" / "loss.jsonl").write_text("{}")
        return {"loss": {100: 1.5, 20: (0.1, 2)}}

    folder = build(MiniatureConfig(), make, store=tmp_path)
    assert "own_sha256" in json.loads((folder / "manifest.json").read_text())
    assert verify(tmp_path) == 0
