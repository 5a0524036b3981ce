"""Local copies of remote files: what is brought, when it is brought again, what is refused, what is removed."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from datasets.runtime.errors import InputError
from datasets.runtime.remote import copies, listings, transfer
from datasets.runtime.remote.addresses import CACHE, address_of, path_of, spelled, with_addresses
from datasets.runtime.remote.copies import CACHE_GB, discard, evict, fetch_all, fetched, is_file
from datasets.runtime.remote.listings import fetch_listed
from datasets.runtime.remote.transfer import RETRY_SECONDS, RemoteError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv(RETRY_SECONDS, "5")
    monkeypatch.setattr(copies, "_confirmed", set())
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.01)
    return tmp_path / "cache"


@pytest.fixture
def storage() -> Iterator[fsspec.AbstractFileSystem]:
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def reads(monkeypatch) -> Counter[str]:
    """How often each address was read."""
    count: Counter[str] = Counter()
    original = transfer._read

    def read(fs: object, path: str, limits: tuple[int, int] | None) -> bytes:
        count[path] += 1
        return original(fs, path, limits)

    monkeypatch.setattr(transfer, "_read", read)
    return count


def at(address: str) -> Path:
    path = path_of(address)
    assert isinstance(path, Path)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_confirmed", set())


@pytest.mark.parametrize(
    "address", ["s3://bucket/store/encode/0123", "gs://b/x", "https://host:8080/a/b.zip", "memory://m/x"]
)
def test_a_path_gives_back_its_address(address):
    assert address_of(at(address)) == spelled(at(address)) == address
    assert at(f"{address}/") == at(address) == path_of(Path(address))


def test_what_is_no_address_stays_as_it_is(tmp_path):
    assert path_of("runs/store") == "runs/store"
    assert path_of(tmp_path) is tmp_path
    assert path_of(f"file://{tmp_path}/x") == tmp_path / "x"
    assert address_of(tmp_path) is None


def test_work_in_progress_stands_for_no_address():
    assert address_of(at("s3://b/store/encode/0123").with_name("0123.partial") / "x.tar") is None


@pytest.mark.parametrize("address", ["ftp://host/x", "s3://b/a//b", "s3://b/../x", "s3://b/x.partial", "hdfs://n/x"])
def test_an_address_that_cannot_be_used_is_refused(address):
    with pytest.raises(InputError, match="://"):
        path_of(address)


@pytest.mark.parametrize(
    "address", ["s3://key:hunter2@b/x", "https://h/x.zip?X-Amz-Signature=hunter2", "https://h/x.zip#hunter2"]
)
def test_an_address_with_a_secret_is_refused_without_showing_it(address):
    with pytest.raises(InputError, match="credentials in the environment") as caught:
        path_of(address)
    assert "hunter2" not in str(caught.value)


def test_messages_show_addresses_and_no_secrets(cache):
    path = at("s3://b/store/x")
    assert with_addresses(f"{path}/y is bad") == "s3://b/store/x/y is bad"
    assert with_addresses("(got 'https://u:hunter2@h/x?sig=hunter2')") == "(got 'https://h/x')"


def test_copies_of_different_s3_servers_lie_apart(monkeypatch):
    amazon = at("s3://b/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert at("s3://b/x") != amazon
    assert address_of(at("s3://b/x")) == address_of(amazon) == "s3://b/x"


def test_a_file_is_brought_once_and_again_when_it_changed(storage, reads, monkeypatch):
    storage.pipe("memory://m/x", b"one")
    path = at("memory://m/x")
    assert fetched(path).read_bytes() == fetched(path).read_bytes() == b"one"
    a_new_process(monkeypatch)
    assert fetched(path).read_bytes() == b"one"
    assert reads.total() == 1
    storage.pipe("memory://m/x", b"two")
    a_new_process(monkeypatch)
    assert fetched(path).read_bytes() == b"two"


def test_a_listed_file_is_taken_without_asking_the_storage(storage, reads, monkeypatch):
    storage.pipe("memory://m/x", b"content")
    path, listed = at("memory://m/x"), (7, sha256(b"content"))
    fetched(path, *listed)
    a_new_process(monkeypatch)
    storage.rm("memory://m/x")
    assert fetched(path, *listed).read_bytes() == b"content"


def test_a_large_file_comes_in_parts(storage, reads, monkeypatch):
    monkeypatch.setattr(transfer, "PART_BYTES", 1000)
    content = os.urandom(2500)
    storage.pipe("memory://m/x", content)
    assert fetched(at("memory://m/x")).read_bytes() == content
    assert reads.total() == 3
    storage.pipe("memory://m/empty", b"")
    assert fetched(at("memory://m/empty")).read_bytes() == b""


def test_a_file_that_is_not_there_is_said_to_be_so(storage):
    assert not is_file(at("memory://m/nothing"))
    with pytest.raises(FileNotFoundError, match="memory://m/nothing"):
        fetched(at("memory://m/nothing"))


def test_a_copy_of_a_file_that_is_gone_goes_too(storage, monkeypatch):
    storage.pipe("memory://m/x", b"one")
    path = fetched(at("memory://m/x"))
    storage.rm("memory://m/x")
    a_new_process(monkeypatch)
    assert not is_file(path)
    assert not path.exists()


class Site:
    """An http server whose answers can be spoiled."""

    def __init__(self) -> None:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(site.content)

            def do_GET(self) -> None:
                site.requests += 1
                spoiled = site.spoil(site.content, site.requests)
                if isinstance(spoiled, int):
                    self.send_error(spoiled)
                    return
                self._answer(spoiled)
                self.wfile.write(spoiled)

            def _answer(self, content: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", '"1"')
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.content, self.requests = b"0123456789" * 500, 0
        self.spoil = lambda content, request: content
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def path(self) -> Path:
        return at(f"http://127.0.0.1:{self.server.server_port}/data/x.bin")


@pytest.fixture
def site() -> Iterator[Site]:
    pytest.importorskip("aiohttp")
    site = Site()
    yield site
    site.server.shutdown()


SPOILED = {
    "cut off": lambda content: content[:-100],
    "altered": lambda content: b"X" + content[1:],
    "longer": lambda content: content + b"more",
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_download_that_arrives_with_other_bytes_is_made_again(site, how):
    site.spoil = lambda content, request: SPOILED[how](content) if request == 1 else content
    listed = (len(site.content), sha256(site.content))
    assert fetched(site.path, *listed).read_bytes() == site.content


@pytest.mark.parametrize("how", ["cut off", "altered"])
def test_a_download_that_always_arrives_with_other_bytes_is_an_error_in_one_line(site, how):
    site.spoil = lambda content, request: SPOILED[how](content)
    with pytest.raises(
        RemoteError, match="arrived 3 times with other bytes than are listed; publish it again"
    ) as caught:
        fetched(site.path, len(site.content), sha256(site.content))
    assert "\n" not in str(caught.value)
    assert [path.name for path in site.path.parent.iterdir()] == []  # no half copy is left


def test_errors_that_pass_are_tried_again(site):
    site.spoil = lambda content, request: 503 if request < 4 else content
    assert fetched(site.path).read_bytes() == site.content
    assert site.requests == 4


def test_a_refusal_is_not_tried_again(site):
    site.spoil = lambda content, request: 403
    with pytest.raises(RemoteError, match="access is denied"):
        fetched(site.path)
    assert site.requests == 1


def test_a_server_that_is_not_there_is_one_line_after_some_tries(monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setenv(RETRY_SECONDS, "0.1")
    with pytest.raises(RemoteError, match=r"http://127.0.0.1:9/x cannot be reached \(connection refused\)"):
        fetched(at("http://127.0.0.1:9/x"))


def test_a_package_that_is_not_installed_is_named_with_the_command(monkeypatch):
    def absent(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(RemoteError, match=r"s3://b/x: s3fs is not installed; pip install -e '.\[remote\]'"):
        fetched(at("s3://b/x"))


def test_readers_at_the_same_time_bring_a_file_once(storage, reads, monkeypatch):
    content = os.urandom(10_000)
    storage.pipe("memory://m/x", content)
    original = transfer._read
    monkeypatch.setattr(transfer, "_read", lambda *asked: (time.sleep(0.2), original(*asked))[1])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fetched(at("memory://m/x")).read_bytes(), range(8)))
    assert set(found) == {content}
    assert reads.total() == 1


def test_a_process_that_lists_a_folder_leaves_what_another_one_brings_or_makes_there(storage, cache, monkeypatch):
    storage.pipe("/m/vae/weights", b"w" * 1000)
    folder = at("memory://m/vae")
    made = folder / "store/KEY.partial/part"
    made.parent.mkdir(parents=True)
    made.write_bytes(b"made here")
    (folder / "gone").write_bytes(b"not there any more")
    original = copies.download

    def met_by_another(address: str, target: Path, size: int | None) -> tuple[int, str]:
        found = original(address, target, size)
        monkeypatch.setattr(listings, "fetch_all", lambda _: None)  # the other one would wait for this one's lock
        fetch_listed(folder)
        return found

    monkeypatch.setattr(copies, "download", met_by_another)
    assert fetched(folder / "weights").read_bytes() == b"w" * 1000
    assert made.is_file() and not (folder / "gone").exists()


def test_what_a_killed_process_was_bringing_is_removed_after_a_day(storage, cache):
    (cache / "incoming").mkdir(parents=True)
    for name, seconds in (("old.tmp", 2 * 86_400), ("new.tmp", 60)):
        (cache / "incoming" / name).write_bytes(b"half")
        os.utime(cache / "incoming" / name, (time.time() - seconds,) * 2)
    evict(1e9)
    assert [path.name for path in (cache / "incoming").iterdir()] == ["new.tmp"]


def test_many_files_are_brought_side_by_side(storage):
    for number in range(40):
        storage.pipe(f"memory://m/{number}", b"%d" % number)
    fetch_all((at(f"memory://m/{number}"), None, None) for number in range(40))
    assert [at(f"memory://m/{number}").read_bytes() for number in range(40)] == [b"%d" % n for n in range(40)]


def use(path: Path, seconds_ago: float) -> None:
    then = time.time() - seconds_ago
    os.utime(copies._note_path(path), (then, then))


def test_copies_used_least_recently_are_removed_first(storage):
    paths = [at(f"memory://m/{number}") for number in range(4)]
    for number, path in enumerate(paths):
        storage.pipe(f"memory://m/{number}", bytes(1000))
        fetched(path)
        use(path, 4000 - 1000 * number)
    fetched(paths[0])  # used again
    evict(2000)
    assert [path.exists() for path in paths] == [True, False, False, True]
    assert fetched(paths[1]).stat().st_size == 1000  # and comes again when it is wanted


def test_a_copy_in_use_and_work_of_our_own_are_never_removed(storage, cache):
    storage.pipe("memory://m/x", bytes(1000))
    path = fetched(at("memory://m/x"))
    own = path.with_name("made-here")
    own.write_bytes(bytes(1000))
    evict(0)
    assert path.exists()
    use(path, 4000)
    evict(0)
    assert not path.exists()
    assert own.exists()


def test_the_cache_stays_below_its_limit(storage, monkeypatch):
    monkeypatch.setenv(CACHE_GB, "0.00001")  # 10 kB
    monkeypatch.setattr(copies, "IN_USE_SECONDS", 0)
    for number in range(30):
        storage.pipe(f"memory://m/{number}", bytes(1000))
        fetched(at(f"memory://m/{number}"))
    assert sum(path.stat().st_size for path in at("memory://m").iterdir()) <= 10_000


@pytest.mark.parametrize(
    ("name", "value"),
    [(CACHE_GB, "0"), (CACHE_GB, "much"), (RETRY_SECONDS, "soon"), (RETRY_SECONDS, "nan"), (RETRY_SECONDS, "-1")],
)
def test_a_setting_that_is_no_number_is_refused(storage, monkeypatch, name, value):
    storage.pipe("memory://m/x", b"one")
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(copies, "_since_look", float("inf"))
    monkeypatch.setattr(transfer, "_read", lambda *_: (_ for _ in ()).throw(ConnectionResetError()))
    with pytest.raises(InputError, match=f"{name} is '{value}'"):
        fetched(at("memory://m/x"))


def test_a_copy_that_is_discarded_is_brought_again(storage, reads):
    storage.pipe("memory://m/x", b"one")
    discard(fetched(at("memory://m/x")))
    assert fetched(at("memory://m/x")).read_bytes() == b"one"
    assert reads.total() == 2
