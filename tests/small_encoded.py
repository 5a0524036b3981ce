"""A small artifact of encoded images whose features are noise, without any model."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datasets.runtime.artifacts import build
from datasets.runtime.config import StageConfig
from datasets.runtime.manifests import model_sha256
from datasets.shards.encoded import keypoints_to_json
from datasets.shards.tars import write_tar

PEOPLE = {1: 1, 2: 2, 5: 3, 7: 4, 9: 9}
"""Images per pid."""
LATENTS, TOKENS, VIEW = (4, 8, 4), (5, 20), (32, 16)


class _Encode(StageConfig):
    stage: ClassVar[str] = "encode"
    package: ClassVar[str] = "tests"
    splits: tuple[str, ...]
    vae: Path | None = None


def _members(split: str) -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(len(split))
    for pid, count in PEOPLE.items():
        for image in range(count):
            joints = rng.random((18, 3)) * [VIEW[1], VIEW[0], 1]
            facts = {"pid": pid, "camid": 1 + image % 6, "split": split, "keypoints": keypoints_to_json(joints)}
            yield f"{split}_{pid:04d}_{image}.json", json.dumps(facts).encode()
            for name, shape in (("latent", LATENTS), ("tokens", TOKENS)):
                buffer = io.BytesIO()
                np.save(buffer, rng.normal(size=(2, *shape)).astype(np.float16))
                yield f"{split}_{pid:04d}_{image}.{name}.npy", buffer.getvalue()


def _make(config: _Encode, directory: Path) -> dict[str, Any]:
    files = []
    for split in config.splits:
        write_tar(directory / f"{split}-00000.tar", _members(split))
        files.append({"name": f"{split}-00000.tar", "split": split, "samples": sum(PEOPLE.values())})
    index = {
        "files": files,
        "samples": len(files) * sum(PEOPLE.values()),
        "view_size": VIEW,
        "flipped": True,
        "latent_shape": LATENTS,
        "token_shape": TOKENS,
    }
    if config.vae is not None:
        index["vae_sha256"] = model_sha256(config.vae)
    (directory / "index.json").write_text(json.dumps(index))
    return {}


def encoded_artifact(folder: Path, splits: tuple[str, ...] = ("train",), vae: Path | None = None) -> Path:
    return build(_Encode(splits=splits, vae=vae), _make, store=folder)
