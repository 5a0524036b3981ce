"""Artifacts, data sets and models at an address: the keys and bytes of local ones, publishing, one-line errors."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from datasets.__main__ import COMMANDS
from datasets.poses.config import ShowPosesConfig
from datasets.runtime.command_line import main
from datasets.runtime.config import ModelFolder, SourceFile, StageConfig
from datasets.runtime.errors import ArtifactError
from datasets.runtime.keys import artifact_key, artifact_key_and_inputs
from datasets.runtime.manifests import MANIFEST, is_complete, manifest_of
from datasets.runtime.reading.contents import artifact_file
from datasets.runtime.remote import copies, publishing, transfer
from datasets.runtime.remote.addresses import CACHE, spelled
from datasets.runtime.remote.folders import fetch_folder
from datasets.runtime.remote.transfer import RETRY_SECONDS, RemoteError
from datasets.shards.config import WriteShardsConfig
from datasets.shards.encoded import EncodedImages
from datasets.sources.config import IndexConfig
from flows.__main__ import main as flows_main
from reid.data.images import iterate_split
from tests import small_encoded, small_sets
from tests.remote_sets import at, contents, market, put_folder, shards_of

STORE = "memory://store/of/runs"


@pytest.fixture(autouse=True)
def storage(tmp_path, monkeypatch) -> Iterator[fsspec.AbstractFileSystem]:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv(RETRY_SECONDS, "1")
    monkeypatch.setattr(copies, "_confirmed", set())
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on as another machine would, where nothing lies in the cache."""
    monkeypatch.setenv(CACHE, str(tmp_path / "another-cache"))
    monkeypatch.setattr(copies, "_confirmed", set())


@pytest.mark.parametrize("packed", [False, True])
def test_a_data_set_at_an_address_gives_the_bytes_of_the_local_one(tmp_path, packed):
    root, csv = market(tmp_path)
    if packed:
        with zipfile.ZipFile(tmp_path / "market.zip", "w") as archive:
            for path in sorted(root.rglob("*.*")):
                archive.write(path, path.relative_to(root.parent))
        root = tmp_path / "market.zip"
        fsspec.filesystem("memory").pipe("memory://data/market.zip", root.read_bytes())
    else:
        put_folder(root.parent, "memory://data")
    fsspec.filesystem("memory").pipe("memory://p/poses.csv", csv.read_bytes())
    local = shards_of(root, csv, tmp_path / "store")
    remote = shards_of("memory://data/market.zip" if packed else "memory://data", "memory://p/poses.csv", STORE)
    for here, there in zip(local, remote, strict=True):
        assert contents(there) == contents(here)
        assert spelled(there).startswith(STORE)
    if packed:  # a folder's key has dates in it; an archive's, and all keys after, come from content alone
        assert [there.name for there in remote] == [here.name for here in local]
    assert [there.name for there in remote[1:]] == [here.name for here in local[1:]]


def test_a_changed_file_at_an_address_is_another_index(tmp_path, storage):
    root, _ = market(tmp_path)
    put_folder(root, "memory://data")
    before = artifact_key(IndexConfig(root="memory://data"))
    assert artifact_key(IndexConfig(root="memory://data/")) == before
    storage.pipe("memory://data/query/1001_c1s1_000000_00.jpg.jpg", small_sets.jpeg(999))
    assert artifact_key(IndexConfig(root="memory://data")) != before


def test_a_table_at_an_address_lists_images_beside_it(tmp_path, storage):
    rows = ["path,pid,camid,split"]
    for pid in range(1, 5):
        storage.pipe(f"memory://t/people/{pid}.jpg", small_sets.jpeg(pid))
        rows.append(f"people/{pid}.jpg,{pid},1,train")
    storage.pipe("memory://t/list.csv", "\n".join(rows).encode())
    index = small_sets.make(IndexConfig(root="memory://t/list.csv", layout="table", workers=1), tmp_path / "store")
    assert manifest_of(index)["summary"]["statuses"] == {"ok": 4}


class Sources(StageConfig):
    stage = "sources"
    package = "tests"
    file: SourceFile
    model: ModelFolder


def test_keys_do_not_depend_on_where_an_input_lies(tmp_path, storage):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    put_folder(tmp_path / "model", "memory://m/vae")
    storage.pipe("memory://m/weights.pth", b"{}")
    (tmp_path / "weights.pth").write_bytes(b"{}")
    local, _ = artifact_key_and_inputs(Sources(file=tmp_path / "weights.pth", model=tmp_path / "model"))
    remote, inputs = artifact_key_and_inputs(Sources(file="memory://m/weights.pth", model="memory://m/vae"))
    assert remote == local
    assert inputs["model"]["path"] == "memory://m/vae"


def test_a_store_at_an_address_is_read_by_another_machine(tmp_path, monkeypatch):
    root, csv = market(tmp_path)
    index, poses, shards = map(spelled, shards_of(root, csv, STORE))
    elsewhere(tmp_path, monkeypatch)
    assert manifest_of(at(shards))["config"]["images"] == index
    assert manifest_of(at(shards))["inputs"]["poses"]["path"] == poses
    assert len(list(iterate_split(at(shards), "train"))) == 12
    again = WriteShardsConfig(images=index, poses=poses, images_per_shard=3)
    monkeypatch.setattr(publishing, "upload", None)  # nothing is made, nothing is sent
    assert spelled(small_sets.make(again, at(STORE))) == shards


def test_shards_are_brought_one_at_a_time(tmp_path, monkeypatch):
    root, csv = market(tmp_path)
    shards = at(spelled(shards_of(root, csv, STORE)[-1]))
    names = [file["name"] for file in manifest_of(shards)["files"] if file["name"].endswith(".tar")]
    address = spelled(shards)
    elsewhere(tmp_path, monkeypatch)
    samples = iterate_split(at(address), "train")
    next(samples)
    assert len(names) > 1
    assert [name for name in names if (at(address) / name).is_file()] == names[:1]
    list(samples)
    assert [name for name in names if (at(address) / name).is_file()] == names


def test_encoded_images_that_were_removed_from_the_cache_are_brought_again(tmp_path):
    folder = small_encoded.encoded_artifact(at(STORE))
    images = EncodedImages(folder)
    before = images.latents([0, 5]).numpy()
    copies.discard(folder / "train-00000.tar")
    assert np.array_equal(images.latents([0, 5]).numpy(), before)


def test_a_copy_that_went_bad_on_the_disk_is_brought_again(tmp_path):
    folder = small_encoded.encoded_artifact(at(STORE))
    tar = folder / "train-00000.tar"
    content = tar.read_bytes()
    tar.write_bytes(b"X" + content[1:])
    assert artifact_file(folder, tar.name).read_bytes() == content


@pytest.mark.parametrize("name", ["train-00000.tar", MANIFEST])
def test_an_artifact_that_was_altered_at_its_address_is_an_error_in_one_line(tmp_path, storage, monkeypatch, name):
    address = spelled(small_encoded.encoded_artifact(at(STORE)))
    content = storage.cat(f"{address}/{name}")
    changed = content.replace(b'"seconds": ', b'"seconds": 1') if name == MANIFEST else b"X" + content[1:]
    storage.pipe(f"{address}/{name}", changed)
    elsewhere(tmp_path, monkeypatch)
    with pytest.raises((ArtifactError, RemoteError)) as caught:
        EncodedImages(at(address))
    assert "\n" not in str(caught.value)


def test_an_upload_that_breaks_off_leaves_nothing_that_counts_and_goes_on_where_it_was(tmp_path, storage, monkeypatch):
    root, csv = market(tmp_path)
    sent: list[str] = []
    broken = True

    def send(source: Path, address: str) -> transfer.Facts:
        if broken and len(sent) == 2:
            raise RemoteError(f"{address} cannot be reached")
        sent.append(address.rpartition("/")[2])
        return transfer.upload(source, address)

    index, poses, _ = shards_of(root, csv, tmp_path / "store")
    config = WriteShardsConfig(images=index, poses=poses, images_per_shard=3)
    monkeypatch.setattr(publishing, "upload", send)
    with pytest.raises(RemoteError):
        small_sets.make(config, at(STORE))
    folder = at(f"{STORE}/write-shards/{artifact_key(config)}")
    assert not is_complete(folder)
    assert storage.find(f"{spelled(folder)}")
    broken = False
    assert small_sets.make(config, at(STORE)) == folder
    assert is_complete(folder)
    assert len(sent) == len(set(sent)) == len(manifest_of(folder)["files"]) + 1
    assert sent[-1] == MANIFEST


def test_a_store_that_cannot_be_written_to_is_refused_before_any_work(tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    (tmp_path / "model").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.setattr("datasets.runtime.artifacts._is_reusable", lambda directory, key: False)
    with pytest.raises(RemoteError, match="can be read but not written to"):
        from datasets.runtime.artifacts import build

        config = Sources(file=tmp_path / "weights.pth", model=tmp_path / "model")
        build(config, lambda config, directory: pytest.fail("worked"), store=at("https://host/store"))


def test_a_whole_folder_is_brought_without_its_logs_and_without_what_is_gone(tmp_path, storage):
    storage.pipe("memory://m/vae/config.json", b"{}")
    storage.pipe("memory://m/vae/old.safetensors", b"1")
    folder = fetch_folder(at("memory://m/vae"))
    storage.rm("memory://m/vae/old.safetensors")
    assert [path.name for path in fetch_folder(folder).iterdir()] == ["config.json"]


def test_a_field_that_takes_a_local_path_refuses_an_address():
    with pytest.raises(ValueError, match=r"s3://b/sheet\.png is an address, but this takes a local path"):
        ShowPosesConfig(images="i", poses="p", png="s3://b/sheet.png")


ERRORS = {
    "index --root ftp://h/x": "begins with 'ftp://'",
    "index --root s3://key:hunter2@b/x": "credentials in the environment",
    "index --root https://h/x.zip?X-Amz-Signature=hunter2": "credentials in the environment",
    "index --root memory://nothing/there": "memory://nothing/there does not exist",
    "select-subsets --images memory://nothing/there": "memory://nothing/there is not a finished artifact",
    "verify --artifacts s3://b/store": "takes a local path",
}


@pytest.mark.parametrize("command", ERRORS)
def test_what_is_wrong_with_an_address_is_said_in_one_line(command, capsys, monkeypatch, repository):
    monkeypatch.chdir(repository)
    assert main("datasets", COMMANDS, command.split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert ERRORS[command] in line
    assert "hunter2" not in line


def test_a_regeneration_takes_its_data_from_an_address_and_keeps_its_store_here(tmp_path, capsys):
    assert flows_main(["regenerate", "--preset", "smoke", "--store", "s3://b/store"]) == 2
    assert "store: s3://b/store is an address, but this takes a local path" in capsys.readouterr().err
    command = ["regenerate", "--preset", "market-small", "--root", "memory://nothing", "--poses", "memory://no.csv"]
    assert flows_main([*command, "--store", str(tmp_path)]) == 2
    assert "memory://nothing does not exist" in capsys.readouterr().err


def test_a_flow_of_one_stage_keeps_its_store_here(capsys):
    assert flows_main(["write-shards", "--images", "x", "--poses", "y", "--store", "s3://b/store"]) == 2
    assert "takes a local path" in capsys.readouterr().err
