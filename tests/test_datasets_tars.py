"""Tars: what `tarfile` reads is read the same, everything else is refused with the file and the byte."""

import io
import os
import re
import tarfile
from pathlib import Path

import pytest

from datasets.runtime.errors import InputError, printable
from datasets.shards import tars
from datasets.shards.tars import (
    BLOCK,
    PNG_SIGNATURE,
    CorruptTarError,
    image_kind,
    image_of,
    locate_samples,
    read_chosen,
    read_samples,
    write_tar,
)

MEMBERS = [
    ("a.json", b"{}"),
    ("a.latent.npy", bytes(range(256)) * 5),
    ("é.json", b"{1}"),
    ("é.latent.npy", b""),
    (f"{'x' * 95}.json", b"x" * 513),
]
SAMPLES = [
    ("a", {"json": b"{}", "latent.npy": bytes(range(256)) * 5}),
    ("é", {"json": b"{1}", "latent.npy": b""}),
    ("x" * 95, {"json": b"x" * 513}),
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


def choose_all(path: Path) -> None:
    list(read_chosen(path, {"a", "b"}))


READERS = [read_all, locate_all, choose_all]


def refusals(path: Path, reason: str) -> set[int]:
    """The bytes at which the readers refuse the file, each in one line that begins with the place."""
    places = set()
    for read in READERS:
        with pytest.raises(CorruptTarError, match=reason) as error:
            read(path)
        said = re.fullmatch(re.escape(str(path)) + r", byte (\d+): .+", str(error.value))
        assert said, str(error.value)
        places.add(int(said[1]))
    return places


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


@pytest.mark.parametrize("blocks", range(16, 20))
def test_the_bytes_are_those_that_tarfile_writes(tmp_path, blocks):
    """Up to the size where the mark that ends a tar needs another record."""
    write_tar(tmp_path / "ours.tar", iter([("a.json", bytes(blocks * BLOCK))]))
    with tarfile.open(tmp_path / "theirs.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("a.json")
        member.size = blocks * BLOCK
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_a_name_that_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_tar(tmp_path / "a.tar", iter([(os.fsdecode(b"\xff.json"), b"")]))


def test_chosen_samples_are_read_and_the_others_are_not(tmp_path):
    assert list(read_chosen(written(tmp_path), {"é", "none"})) == [SAMPLES[1]]
    assert list(read_chosen(written(tmp_path), {key for key, _ in SAMPLES})) == SAMPLES


def test_a_samples_image_is_its_jpg_or_png():
    png = PNG_SIGNATURE + b"..."
    assert (image_kind(png), image_kind(b"\xff\xd8" + png)) == ("png", "jpg")
    assert image_of({"json": b"{}", "png": png}) == png and image_of({"jpg": b"j", "json": b"{}"}) == b"j"
    with pytest.raises(KeyError, match="no jpg or png"):
        image_of({"json": b"{}"})


def headers(path: Path) -> dict[str, int]:
    """Where the header of each member stands, and of the mark at the end."""
    with tarfile.open(path) as tar:
        found = {item.name: item.offset for item in tar}
    return {**found, "": found[MEMBERS[-1][0]] + 3 * BLOCK}


def test_a_tar_cut_off_anywhere_is_refused_with_the_member_that_is_cut(tmp_path):
    path = written(tmp_path)
    whole, starts = path.read_bytes(), headers(path)
    for (name, start), end in zip(starts.items(), [*list(starts.values())[1:], len(whole)], strict=True):
        for length in {start, start + 1, start + BLOCK - 1, start + BLOCK, end - BLOCK, end - 1} & {*range(start, end)}:
            path.write_bytes(whole[:length])
            if length < start + BLOCK:
                assert refusals(path, "ends without the mark") == {start}
            elif name:
                assert refusals(path, f"'{name}' is cut off") == {start}


def test_a_changed_byte_of_a_header_is_found(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    for place in (0, 50, 100, 124, 130, 148, 156, 257, 263, 345, 500):
        path.write_bytes(whole[: 2 * BLOCK + place] + b"\x07" + whole[2 * BLOCK + place + 1 :])
        number = "number cannot be read" if place in (124, 130, 148) else "checksum is wrong"
        assert refusals(path, "USTAR" if 257 <= place < 265 else number) == {2 * BLOCK}


def tar_under(folder: Path, header: bytearray, content: bytes = b"{}") -> Path:
    """One member under a header, whose checksum is made to fit where it is blank."""
    if header[148:156] == b" " * 8:
        header[148:156] = b"%06o\0 " % sum(header)
    (folder / "x.tar").write_bytes(header + content + bytes(-len(content) % BLOCK) + bytes(2 * BLOCK))
    return folder / "x.tar"


def header_of(name: str, size: int) -> bytearray:
    member = tarfile.TarInfo(name)
    member.size = size
    return bytearray(member.tobuf(tarfile.USTAR_FORMAT, "utf-8"))


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (0, b"\xff.json", "a name or number cannot be read"),
        (124, b"0000000000X\0", "a name or number cannot be read"),
        (124, b"0000000000X ", "a name or number cannot be read"),
        (124, b"-0000000001\0", "'a.json' is a link, a folder"),
        (345, b"d", "'a.json' is a link, a folder or has a long name"),
    ],
)
def test_a_forged_field_of_a_header_is_refused_though_its_checksum_fits(tmp_path, place, value, reason):
    header = header_of("a.json", 2)
    header[place : place + len(value)] = value
    header[148:156] = b" " * 8
    assert refusals(tar_under(tmp_path, header), reason) == {0}


def test_a_checksum_that_is_no_number_is_refused(tmp_path):
    header = header_of("a.json", 2)
    header[154:156] = b"X\0"
    assert refusals(tar_under(tmp_path, header), "a name or number cannot be read") == {0}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "'b.json' is a link, a folder"),
        ({"type": tarfile.LNKTYPE, "linkname": "a.json"}, "is a link, a folder"),
        ({"type": tarfile.DIRTYPE}, "is a link, a folder"),
        ({"type": tarfile.FIFOTYPE}, "is a link, a folder"),
        ({"name": "a.json"}, "'a.json' occurs twice"),
        ({"name": f"{'d' * 80}/{'x' * 80}.json"}, "has a long name"),
        ({"mtime": 0.5, "kind": tarfile.PAX_FORMAT}, "only plain files are read"),
        ({"kind": tarfile.GNU_FORMAT}, "this is no USTAR header"),
    ],
)
def test_other_members_are_refused_with_their_name_and_place(tmp_path, facts, message):
    place = 0 if facts.get("kind") == tarfile.GNU_FORMAT else 2 * BLOCK
    assert refusals(tar_with(tmp_path, **facts), message) == {place}


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, kind):
    path = tmp_path / "x.tar"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    for read in READERS:
        with pytest.raises(CorruptTarError, match=f"{path} is no regular file; make its folder again"):
            read(path)


def test_a_missing_file_is_told_in_one_line(tmp_path):
    for read in READERS:
        with pytest.raises(InputError, match=r"nowhere\.tar cannot be read") as error:
            read(tmp_path / "nowhere.tar")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../../x.json", "/etc/x.json", "a/b.json", "..json", ".json", "a", "a.", "a\nb.json"])
def test_a_member_that_is_not_named_as_a_samples_file_is_refused(tmp_path, name):
    write_tar(tmp_path / "x.tar", iter([(name, b"{}")]))
    reason = f"'{re.escape(printable(name))}' is not named as a sample's file"
    assert refusals(tmp_path / "x.tar", reason) == {0}


# Sizes.


@pytest.mark.parametrize(
    ("size", "reason"),
    [((8 << 30) - 1, "claims 8589934591 bytes"), (300 << 20, "claims 314572800 bytes"), (5000, "is cut off")],
)
def test_a_header_that_claims_more_than_there_is_takes_no_memory(tmp_path, size, reason):
    assert refusals(tar_under(tmp_path, header_of("a.json", size)), reason) == {0}


def test_a_sparse_file_as_large_as_its_header_claims_takes_no_memory_either(tmp_path):
    path = tar_under(tmp_path, header_of("a.json", (8 << 30) - 1))
    os.truncate(path, 9 << 30)
    assert refusals(path, "claims") == {0}


def test_a_sample_may_have_so_many_bytes_and_not_one_more(tmp_path, monkeypatch):
    """Also where only chosen samples are read: members that are small one by one are many gigabytes together."""
    monkeypatch.setattr(tars, "LARGEST_SAMPLE", 1000)
    path = tmp_path / "x.tar"
    halves = [("a.json", bytes(500)), ("a.jpg", bytes(500)), ("b.json", bytes(1000))]
    write_tar(path, iter(halves))
    assert [key for key, _ in read_samples(path)] == [key for key, _ in read_chosen(path, {"a", "b"})] == ["a", "b"]
    write_tar(path, iter([*halves[:2], ("a.txt", b"x")]))
    assert refusals(path, "sample 'a' has more than 1000 bytes") == {4 * BLOCK}
    os.truncate(tar_under(tmp_path, header_of("a.json", 1000)), BLOCK)
    assert refusals(path, "is cut off") == {0}


def test_a_file_that_shrinks_while_it_is_read_gives_no_half_sample(tmp_path):
    path = tmp_path / "x.tar"
    write_tar(path, iter([("a.json", b"{}"), ("b.json", bytes(3 << 20))]))
    for samples in (read_samples(path), locate_samples(path, {"json"})):
        assert next(samples)[0] == "a"
        os.truncate(path, 2 << 20)
        with pytest.raises(CorruptTarError, match="ends without the mark"):
            next(samples)
        os.truncate(path, 4 << 20)
