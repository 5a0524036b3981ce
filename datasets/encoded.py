"""Encoded shards in memory: what training and synthesis read instead of images.

`B` batch, `F` 1 (plain) or 2 (plain, mirrored), `C, h, w` latent channels and cells, `N` tokens, `D` token width.
The format is written by `datasets.encode`; this reader needs no model.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from datasets.artifacts import manifest_of
from datasets.errors import ArtifactError, InputError
from datasets.skeleton import flip_keypoints

Mirrored = bool | Sequence[bool] | np.ndarray | torch.Tensor


def keypoints_from_json(rows: Sequence[Sequence[float | None] | None]) -> np.ndarray:
    """(18, 3) float32 x, y, score from a sample's JSON; a missing joint is NaN, NaN, 0."""
    missing = (float("nan"), float("nan"), 0.0)
    return np.array([missing if row is None or row[0] is None else row for row in rows], np.float32)


def keypoints_to_json(keypoints: np.ndarray) -> list[list[float | None]]:
    """The JSON form of (18, 3) keypoints: pixels and scores to three decimals, null for a missing joint."""
    return [
        [None, None, 0.0] if np.isnan(x) else [round(float(x), 3), round(float(y), 3), round(float(score), 3)]
        for x, y, score in keypoints
    ]


def read_samples(tar_path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples of a WebDataset tar in file order: (key, {extension: bytes}); a key's members stand together."""
    key, members = "", {}
    with tarfile.open(tar_path) as tar:
        for item in tar:
            if not item.isfile():
                continue
            base, _, extension = item.name.partition(".")
            if base != key and members:
                yield key, members
                members = {}
            key = base
            members[extension] = tar.extractfile(item).read()
    if members:
        yield key, members


class EncodedImages:
    """Latents, tokens and keypoints of an `encode` artifact, wholly in memory (float16 inside, float32 outside).

    Attributes:
        keys, pids, camids: one entry per image, in file order (an identity's images stand together).
        by_pid: image indices of every identity.
        index: the artifact's index.json; view_size (H, W); latent_shape (C, h, w); token_shape (N, D).
    """

    def __init__(self, directory: Path, keys: Collection[str] | None = None) -> None:
        """Read an artifact, or only the images named by `keys` (in file order, whatever the order of `keys`).

        Raises: ArtifactError: not a finished `encode` artifact, or damaged. InputError: a key that it does not hold.
        """
        self.directory = Path(directory)
        manifest_of(self.directory, "encode")
        self.index = json.loads((self.directory / "index.json").read_text())
        self.view_size: tuple[int, int] = tuple(self.index["view_size"])
        self.latent_shape: tuple[int, int, int] = tuple(self.index["latent_shape"])
        self.token_shape: tuple[int, int] = tuple(self.index["token_shape"])
        wanted = None if keys is None else set(keys)
        count = self.index["samples"] if wanted is None else len(wanted)
        faces = 2 if self.index["mirrored"] else 1
        self._latents = np.zeros((count, faces, *self.latent_shape), np.float16)
        self._tokens = np.zeros((count, faces, *self.token_shape), np.float16)
        self._keypoints = np.zeros((count, 18, 3), np.float32)
        self.keys: list[str] = []
        self.pids = np.zeros(count, np.int64)
        self.camids = np.zeros(count, np.int64)
        self.splits: list[str] = []
        for file in self.index["files"]:
            self._read(self.directory / file["name"], wanted)
        if len(self.keys) != count:
            absent = sorted((wanted or set()) - set(self.keys))
            raise InputError(
                f"{self.directory} holds {len(self.keys)} of {count} wanted images (absent: {', '.join(absent[:3])}); "
                "encode the shards that hold them"
            )
        self.by_pid: dict[int, list[int]] = {}
        for number, pid in enumerate(self.pids.tolist()):
            self.by_pid.setdefault(pid, []).append(number)

    def __len__(self) -> int:
        return len(self.keys)

    def _read(self, path: Path, wanted: set[str] | None) -> None:
        try:
            for key, members in read_samples(path):
                if wanted is None or key in wanted:
                    self._add(key, members)
        except (tarfile.TarError, OSError, ValueError, KeyError, IndexError) as error:
            raise ArtifactError(f"{path} is damaged ({error}); delete its folder and encode again") from error

    def _add(self, key: str, members: dict[str, bytes]) -> None:
        row = len(self.keys)
        facts = json.loads(members["json"])
        self._latents[row] = np.load(io.BytesIO(members["latent.npy"]), allow_pickle=False)
        self._tokens[row] = np.load(io.BytesIO(members["tokens.npy"]), allow_pickle=False)
        self._keypoints[row] = keypoints_from_json(facts["keypoints"])
        self.pids[row], self.camids[row] = facts["pid"], facts["camid"]
        self.splits.append(facts["split"])
        self.keys.append(key)

    def _faces(self, count: int, mirrored: Mirrored) -> np.ndarray:
        faces = np.broadcast_to(np.asarray(mirrored, dtype=np.int64), (count,))
        if not self.index["mirrored"] and faces.any():
            raise InputError(f"{self.directory} was encoded without mirrored images; encode with --mirrored")
        return faces

    def latents(self, indices: Sequence[int] | np.ndarray, mirrored: Mirrored = False) -> torch.Tensor:
        """Scaled latents of some images, (B, C, h, w) float32; `mirrored` is one answer or one per image."""
        rows = np.asarray(indices, dtype=np.int64)
        return torch.from_numpy(self._latents[rows, self._faces(len(rows), mirrored)].astype(np.float32))

    def tokens(self, indices: Sequence[int] | np.ndarray, mirrored: Mirrored = False) -> torch.Tensor:
        """Image-encoder tokens of some images, (B, N, D) float32, the class token first."""
        rows = np.asarray(indices, dtype=np.int64)
        return torch.from_numpy(self._tokens[rows, self._faces(len(rows), mirrored)].astype(np.float32))

    def keypoints(self, index: int, mirrored: bool = False) -> np.ndarray:
        """One image's (18, 3) float32 x, y, score in view pixels; NaN, NaN, 0 where missing."""
        keypoints = self._keypoints[index]
        return flip_keypoints(keypoints, self.view_size[1]) if mirrored else keypoints.copy()
