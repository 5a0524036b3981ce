"""Published weights of the networks behind LPIPS and FID: found by path or fetched, and checked by SHA-256."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import torch

from datasets.runtime.errors import WeightsError
from datasets.runtime.hashing import file_sha256
from imagpose.metrics.published import WEIGHTS, Published, check_published


def find_weights(name: str, given: Path | None, *, from_hub: bool, known_only: bool) -> Path | str:
    """The file of one network, checked; or a sentence that says which columns are absent and how to get them.

    Args:
        given: the user's file.
        from_hub: fetch it from its publisher if it is not given (kept in torch's cache, then found there).
        known_only: refuse other weights than the published ones.

    Raises:
        WeightsError: another file than the published one, or it cannot be fetched.
    """
    published = WEIGHTS[name]
    option = f"--{published.field.replace('_', '-')}"
    if given is None and not from_hub:
        columns = " and ".join(published.columns)
        return f"{columns}: no weights given; get {published.where_to_get()} and pass {option} FILE, or pass --from-hub"
    path = given if given is not None else _fetched(published, option)
    if known_only:
        check_published(
            name, path, option, "or leave it out ('imagpose evaluate' takes any with --no-known-weights-only)"
        )
    return path


def unknown_weights(name: str, path: Path) -> dict[str, str]:
    """By column, a sentence on weights that are not the published ones; empty where they are."""
    published, sha256 = WEIGHTS[name], file_sha256(path)
    if published.is_published(sha256):
        return {}
    reason = (
        f"{path.name}, SHA-256 {sha256[:8]}..., is not the published file ({published.sha256_start}...), so the column "
        "compares with nothing outside this table"
    )
    return {column: f"{column}: {reason}" for column in published.columns}


def _fetched(published: Published, option: str) -> Path:
    name = published.url.rpartition("/")[2]
    target = Path(torch.hub.get_dir()) / "checkpoints" / name
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(published.url, str(target), published.sha256_start, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"{published.url} cannot be fetched ({error}); get it where there is a network and pass {option} FILE, or "
            "leave --from-hub out to go without its columns"
        ) from None
    return target
