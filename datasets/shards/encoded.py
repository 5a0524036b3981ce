"""Encoded shards: what training and synthesis read instead of images, from the disk as they need it.

`B` batch, `F` 1 (plain) or 2 (plain, flipped), `C, h, w` latent channels and cells, `N` tokens, `D` token width.
The format is written by `datasets.shards.encode`; this reader needs no model.

Opening an artifact reads the tars' headers and the samples' JSON; latents and tokens stay on the disk, and the ones
that are requested are read by their place in the file. So memory does not grow with the number of images or with the
width of their tokens (DINOv2-G's of 20,000 images are gigabytes), training starts at once, and any image can be met
at any step. Nothing is kept open between two reads: a reader can be handed to other processes.
"""

from __future__ import annotations

import math
import os
import tokenize
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from datasets.poses.skeleton import flip_keypoints
from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.manifests import manifest_of
from datasets.runtime.reading.contents import artifact_file
from datasets.runtime.remote.copies import fetched
from datasets.shards.index_files import read_index_file
from datasets.shards.samples import keypoints_from_json, sample_facts
from datasets.shards.tars import Place, locate_samples

AGAIN = "delete its folder and encode again"
Flipped = bool | Sequence[bool] | np.ndarray | torch.Tensor


def keypoints_to_json(keypoints: np.ndarray) -> list[list[float | None]]:
    """The JSON form of (18, 3) keypoints: pixels and scores to three decimals, null for a missing joint."""
    return [
        [None, None, 0.0] if np.isnan(x) else [round(float(x), 3), round(float(y), 3), round(float(score), 3)]
        for x, y, score in keypoints
    ]


def _array_header(stream: BinaryIO) -> tuple[Any, ...]:
    """Shape, order and type that a ``.npy`` states.

    Raises:
        ValueError: it states none; NumPy's reader lets through what Python's tokenizer and parser raise.
    """
    try:
        np.lib.format.read_magic(stream)
        return np.lib.format.read_array_header_1_0(stream)
    except (SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from None


class _StoredArrays:
    """Arrays of one kind, (F, *shape) float16 each, known by their places in the tars."""

    def __init__(self, kind: str, orientations: int, shape: tuple[int, ...]) -> None:
        self.kind, self.orientations, self.shape = kind, orientations, shape
        self.bytes = 2 * math.prod(shape)
        self.paths: list[Path] = []
        self.listed: list[tuple[int, str]] = []
        self.files: list[int] = []
        self.offsets: list[int] = []

    def open(self, path: Path, listed: tuple[int, str]) -> None:
        """The arrays that are added next lie in this file; its size and SHA-256 bring a remote one again if need be."""
        self.paths.append(path)
        self.listed.append(listed)

    def add(self, place: Place) -> None:
        """Take up one more array.

        Raises:
            ValueError: its size or, of a file's first array, its header does not fit.
        """
        header = place.size - self.orientations * self.bytes
        path, file = self.paths[-1], len(self.paths) - 1
        if header <= 0 or (file not in self.files[-1:] and header != self._header_size(path, place)):
            raise ValueError(f"{self.kind} is not of shape {(self.orientations, *self.shape)}")
        self.files.append(file)
        self.offsets.append(place.offset + header)

    def _header_size(self, path: Path, place: Place) -> int:
        with path.open("rb") as stream:
            stream.seek(place.offset)
            found = _array_header(stream)
            if found != ((self.orientations, *self.shape), False, np.dtype("<f2")):
                raise ValueError(f"{self.kind} is {found[2]} of shape {found[0]}, not float16 of {self.shape}")
            return stream.tell() - place.offset

    def read(self, rows: np.ndarray, orientations: np.ndarray) -> torch.Tensor:
        """(B, *shape) float32 of some arrays, one orientation of each.

        Raises:
            ArtifactError: a file is gone or was cut off.
        """
        found = np.empty((len(rows), *self.shape), "<f2")
        opened: dict[int, int] = {}
        file = 0
        try:
            for target, row, orientation in zip(found, rows.tolist(), orientations.tolist(), strict=True):
                file = self.files[row]
                if file not in opened:
                    opened[file] = os.open(fetched(self.paths[file], *self.listed[file]), os.O_RDONLY)
                if os.preadv(opened[file], [target], self.offsets[row] + orientation * self.bytes) != self.bytes:
                    raise ArtifactError(f"{self.paths[file]} was cut off; {AGAIN}")
        except OSError as error:
            raise ArtifactError(f"{self.paths[file]} cannot be read ({error.strerror}); {AGAIN}") from error
        finally:
            for descriptor in opened.values():
                os.close(descriptor)
        return torch.from_numpy(found.astype(np.float32))


class EncodedImages:
    """Latents, tokens and keypoints of an `encode` artifact (float16 on the disk, float32 when read).

    Attributes:
        keys, pids, camids, splits: one entry per image, in file order (an identity's images stand together).
        by_pid: image indices of every identity.
        index: the artifact's index.json; view_size (H, W); latent_shape (C, h, w); token_shape (N, D).
    """

    def __init__(self, directory: Path, keys: Collection[str] | None = None, split: str | None = None) -> None:
        """Open an artifact, or only one split of it, or only the images named by `keys` (in file order).

        Raises:
            ArtifactError: not a finished `encode` artifact, or corrupt.
            InputError: a key that it does not hold.
        """
        self.directory = Path(directory)
        self.index = read_index_file(self.directory, "encode")
        listed = manifest_of(self.directory)["files"]
        self._files: dict[str, tuple[int, str]] = {file["name"]: (file["size"], file["sha256"]) for file in listed}
        self.view_size: tuple[int, int] = tuple(self.index["view_size"])
        self.latent_shape: tuple[int, int, int] = tuple(self.index["latent_shape"])
        self.token_shape: tuple[int, int] = tuple(self.index["token_shape"])
        if "flipped" not in self.index:
            raise ArtifactError(f"{self.directory} was encoded by an earlier version; {AGAIN}")
        orientations = 2 if self.index["flipped"] else 1
        self._latents = _StoredArrays("latent.npy", orientations, self.latent_shape)
        self._tokens = _StoredArrays("tokens.npy", orientations, self.token_shape)
        files = [file for file in self.index["files"] if split in (None, file["split"])]
        wanted = None if keys is None else set(keys)
        facts = [fact for file in files for fact in self._open(artifact_file(self.directory, file["name"]), wanted)]
        self._check_complete([fact["key"] for fact in facts], files, wanted)
        self.keys: list[str] = [fact["key"] for fact in facts]
        self.pids = np.array([fact["pid"] for fact in facts], np.int64)
        self.camids = np.array([fact["camid"] for fact in facts], np.int64)
        self.splits: list[str] = [fact["split"] for fact in facts]
        self._keypoints = np.array([fact["keypoints"] for fact in facts], np.float32).reshape(-1, 18, 3)
        self.by_pid: dict[int, list[int]] = {}
        for number, pid in enumerate(self.pids.tolist()):
            self.by_pid.setdefault(pid, []).append(number)

    def __len__(self) -> int:
        return len(self.keys)

    def _open(self, path: Path, wanted: set[str] | None) -> list[dict[str, Any]]:
        """Facts of a file's images, and the places of their arrays."""
        facts = []
        for arrays in (self._latents, self._tokens):
            arrays.open(path, self._files[path.name])
        for key, places, contents in locate_samples(path, {"json"}):
            if wanted is not None and key not in wanted:
                continue
            fact = sample_facts(path, key, contents, "pid", "camid", "split", "keypoints")
            try:
                fact["keypoints"] = keypoints_from_json(fact["keypoints"])
                self._latents.add(places["latent.npy"])
                self._tokens.add(places["tokens.npy"])
            except (OSError, ValueError, KeyError, IndexError) as error:
                raise ArtifactError(f"{path}: sample '{key}' is corrupt ({error}); {AGAIN}") from error
            facts.append({**fact, "key": key})
        return facts

    def _check_complete(self, keys: list[str], files: list[dict[str, Any]], wanted: set[str] | None) -> None:
        if wanted is not None and len(keys) != len(wanted):
            absent = sorted(wanted - set(keys))
            raise InputError(
                f"{self.directory} holds {len(keys)} of {len(wanted)} wanted images (absent: {', '.join(absent[:3])}); "
                "encode the shards that hold them"
            )
        count = sum(file["samples"] for file in files)
        if wanted is None and len(keys) != count:
            raise ArtifactError(f"{self.directory} is corrupt: {len(keys)} images of {count}; {AGAIN}")

    def _orientations(self, count: int, flipped: Flipped) -> np.ndarray:
        orientations = np.broadcast_to(np.asarray(flipped, dtype=np.int64), (count,))
        if not self.index["flipped"] and orientations.any():
            raise InputError(f"{self.directory} was encoded without flipped images; encode with --flipped")
        return orientations

    def latents(self, indices: Sequence[int] | np.ndarray, flipped: Flipped = False) -> torch.Tensor:
        """Scaled latents of some images, (B, C, h, w) float32; `flipped` is one answer or one per image."""
        rows = np.asarray(indices, dtype=np.int64)
        return self._latents.read(rows, self._orientations(len(rows), flipped))

    def tokens(self, indices: Sequence[int] | np.ndarray, flipped: Flipped = False) -> torch.Tensor:
        """Image-encoder tokens of some images, (B, N, D) float32, the class token first."""
        rows = np.asarray(indices, dtype=np.int64)
        return self._tokens.read(rows, self._orientations(len(rows), flipped))

    def keypoints(self, index: int, flipped: bool = False) -> np.ndarray:
        """One image's (18, 3) float32 x, y, score in view pixels; NaN, NaN, 0 where missing."""
        keypoints = self._keypoints[index]
        return flip_keypoints(keypoints, self.view_size[1]) if flipped else keypoints.copy()
