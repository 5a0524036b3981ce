"""Tars: what `tarfile` reads is read the same, everything else is refused with the file and the byte."""

import io
import tarfile
from pathlib import Path

import pytest

from datasets.runtime.errors import InputError
from datasets.shards.tars import BLOCK, CorruptTarError, locate_samples, read_samples, write_tar

MEMBERS = [
    ("a.json", b"{}"),
    ("a.latent.npy", bytes(range(256)) * 5),
    ("é.json", b"{1}"),
    ("é.latent.npy", b""),
    (f"{'x' * 90}.json", b"x" * 512),
]
SAMPLES = [
    ("a", {"json": b"{}", "latent.npy": bytes(range(256)) * 5}),
    ("é", {"json": b"{1}", "latent.npy": b""}),
    ("x" * 90, {"json": b"x" * 512}),
]


def written(folder: Path) -> Path:
    write_tar(folder / "set.tar", iter(MEMBERS))
    return folder / "set.tar"


def tar_with(folder: Path, *, kind: int = tarfile.USTAR_FORMAT, **facts: object) -> Path:
    """One good sample, then a member with these facts."""
    path = folder / "odd.tar"
    with tarfile.open(path, "w", format=kind) as tar:
        good = tarfile.TarInfo("a.json")
        good.size = 2
        tar.addfile(good, io.BytesIO(b"{}"))
        odd = tarfile.TarInfo("b.json")
        for name, value in facts.items():
            setattr(odd, name, value)
        tar.addfile(odd, io.BytesIO(bytes(odd.size)))
    return path


def read_all(path: Path) -> None:
    list(read_samples(path))


def locate_all(path: Path) -> None:
    list(locate_samples(path, {"json"}))


def test_what_is_written_is_read_again_by_us_and_by_tarfile(tmp_path):
    path = written(tmp_path)
    assert list(read_samples(path)) == SAMPLES
    with tarfile.open(path) as tar:
        assert [(item.name, tar.extractfile(item).read()) for item in tar] == MEMBERS
        assert {(item.mtime, item.uid, item.mode) for item in tar} == {(0, 0, 0o644)}
    assert path.stat().st_size % tarfile.RECORDSIZE == 0


def test_samples_are_located_without_their_large_parts(tmp_path):
    path = written(tmp_path)
    content = path.read_bytes()
    found = list(locate_samples(path, {"json"}))
    assert [(key, contents) for key, _, contents in found] == [(k, {"json": m["json"]}) for k, m in SAMPLES]
    for (_, places, _), (_, members) in zip(found, SAMPLES, strict=True):
        assert {kind: content[p.offset : p.offset + p.size] for kind, p in places.items()} == members


def test_tars_that_tarfile_makes_of_plain_files_are_read(tmp_path):
    assert [key for key, _ in read_samples(tar_with(tmp_path, kind=tarfile.PAX_FORMAT))] == ["a", "b"]


def test_a_tar_cut_off_anywhere_is_refused(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    end = whole.rindex(b"x" * 512) + 512
    for length in (0, 100, BLOCK, BLOCK + 1, 2 * BLOCK, 4 * BLOCK + 7, end - 1, end, end + 100):
        path.write_bytes(whole[:length])
        for read in (read_all, locate_all):
            with pytest.raises(CorruptTarError, match=rf"{path}, byte \d+: .*(cut off|ends without)"):
                read(path)


def test_a_changed_byte_of_a_header_is_found(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    for place in (0, 50, 100, 124, 130, 148, 156, 257, 263, 345, 500):
        path.write_bytes(whole[: 2 * BLOCK + place] + b"\x07" + whole[2 * BLOCK + place + 1 :])
        for read in (read_all, locate_all):
            with pytest.raises(CorruptTarError, match=f"byte {2 * BLOCK}: "):
                read(path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "byte 1024: 'b.json' is a link, a folder"),
        ({"type": tarfile.LNKTYPE, "linkname": "a.json"}, "is a link, a folder"),
        ({"type": tarfile.DIRTYPE}, "is a link, a folder"),
        ({"type": tarfile.FIFOTYPE}, "is a link, a folder"),
        ({"name": "a.json"}, "'a.json' occurs twice"),
        ({"name": f"{'d' * 80}/{'x' * 80}.json"}, "has a long name"),
        ({"mtime": 0.5, "kind": tarfile.PAX_FORMAT}, "only plain files are read"),
        ({"kind": tarfile.GNU_FORMAT}, "byte 0: this is no USTAR header"),
    ],
)
def test_other_members_are_refused_with_their_name_and_place(tmp_path, facts, message):
    path = tar_with(tmp_path, **facts)
    for read in (read_all, locate_all):
        with pytest.raises(CorruptTarError, match=message):
            read(path)


def test_a_missing_file_is_told_in_one_line(tmp_path):
    for read in (read_all, locate_all):
        with pytest.raises(InputError, match=r"nowhere\.tar cannot be read") as error:
            read(tmp_path / "nowhere.tar")
        assert "\n" not in str(error.value)
