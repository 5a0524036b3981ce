"""A small user study without any model: real shards, a folder, a synthetic set and an evaluation of plain pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from datasets.poses.skeleton import JOINT_COUNT
from datasets.runtime.reading.json_values import read_object
from datasets.shards.encoded import keypoints_to_json
from datasets.shards.tars import write_tar
from imagpose.config import PackStudyConfig
from imagpose.pictures.synthetic_jpeg import encode_synthetic_jpeg
from imagpose.study.pack import KEY, PAGE, run_pack
from tests.small_sets import finish

HEIGHT, WIDTH = 48, 24
PEOPLE, IMAGES = 4, 12
KEYS = [f"{pid:04d}_c{1 + i % 6}s1_{i:06d}_01" for pid in range(1, PEOPLE + 1) for i in range(IMAGES)]
PAIRS = [(KEYS[i], KEYS[i + 1]) for i in range(0, PEOPLE * IMAGES, 4)]
"""Sources and images that lend their pose: three for each person."""
NASTY = "<b onclick=alert(1)>theirs</b>|`x`"
"""A generator's name that HTML and Markdown would take for their own."""


def picture(seed: int, *, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W, 3) uint8 of smooth noise, another one for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 3, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def file_of(seed: int, kind: str, **size: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed, **size)).save(buffer, kind)
    return buffer.getvalue()


def real_shards(folder: Path) -> Path:
    """Image shards with a distractor and an image without a skeleton (the last pair's pose)."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    members = []
    for number, key in enumerate([*KEYS, "0000_c1s1_000000_01"]):
        joints = rng.random((JOINT_COUNT, 3)) * [WIDTH, HEIGHT, 1]
        facts = {"pid": int(key[:4]), "camid": 1, "width": WIDTH, "height": HEIGHT, "key": key}
        facts["keypoints"] = keypoints_to_json(joints if key != PAIRS[-1][1] else np.full((18, 3), np.nan))
        members += [(f"{key}.jpg", file_of(number, "JPEG")), (f"{key}.json", json.dumps(facts).encode())]
    write_tar(folder / "query-00000.tar", iter(members))
    return finish(folder, "write-shards")


def folder_of_pictures(folder: Path) -> Path:
    """As PCDMs' code leaves them, larger than the real ones, as PNG."""
    folder.mkdir(parents=True)
    for number, (source, target) in enumerate(PAIRS):
        (folder / f"{source}_to_{target}.png").write_bytes(file_of(100 + number, "PNG", height=64, width=32))
    return folder


def synthetic_set(folder: Path, sources: int = 1) -> Path:
    """As `imagpose synthesize` leaves them: marked JPEGs; one is no good. Up to three sources, as of `--mode T3`."""
    folder.mkdir(parents=True)
    keys = [f"{source[:4]}_c1s0_{number:06d}_01" for number, (source, _) in enumerate(PAIRS)]
    files = [(f"{key}.jpg", encode_synthetic_jpeg(picture(200 + n), "ab" * 32, 92)) for n, key in enumerate(keys)]
    write_tar(folder / "synthetic-00000.tar", iter([*files, ("0001_c1s0_000099_01.jpg", file_of(299, "JPEG"))]))
    table = pd.DataFrame(
        {
            "key": [*keys, "0001_c1s0_000099_01"],
            "pid": np.array([*(int(key[:4]) for key in keys), 1], np.int32),
            "source_keys": [*([source, *further_sources(source)][:sources] for source, _ in PAIRS), [KEYS[0]]],
            "target_pose_key": [*(target for _, target in PAIRS), KEYS[2]],
            "status": ["ok"] * len(keys) + ["flat"],
        }
    )
    table.to_parquet(folder / "synthetic.parquet", index=False)
    return finish(folder, "synthesize")


def further_sources(source: str) -> list[str]:
    """Two other images of the person, neither of them the pair's target."""
    first = KEYS.index(source)
    return [KEYS[first + 2], KEYS[first + 3]]


def evaluation(folder: Path, modes: tuple[str, ...] = ("T1", "IMAGPose*")) -> Path:
    """As `imagpose evaluate` leaves them."""
    (folder / "pictures").mkdir(parents=True)
    tables = []
    for start, mode in enumerate(modes):
        members = [(f"{n:06d}.png", file_of(300 + 50 * start + n, "PNG")) for n in range(len(PAIRS))]
        write_tar(folder / "pictures" / f"{mode.replace('*', '-star')}-00000.tar", iter(members))
    for row in (*modes, "copy"):
        rows = [(n, source, target, int(source[:4]), row) for n, (source, target) in enumerate(PAIRS)]
        tables.append(pd.DataFrame(rows, columns=["pair", "source", "target", "pid", "row"]))
    pd.concat(tables).to_parquet(folder / "pairs.parquet", index=False)
    return finish(folder, "evaluate-imagpose")


def packed(folder: Path, **settings: Any) -> tuple[Path, dict[str, Any]]:
    """A study of two generators, one of them with a nasty name: the page's path and the key."""
    sets = {"ours": synthetic_set(folder / "ours"), NASTY: folder_of_pictures(folder / "theirs")}
    given = {"synthetic": sets, "real": real_shards(folder / "real"), "out": folder / "study"} | settings
    run_pack(PackStudyConfig(**({"per_generator": 6, "best": 4} | given)))
    out = Path(given["out"])
    return out / PAGE, read_object(out / KEY)


def study_in(page: Path) -> dict[str, Any]:
    """What the page holds for its script."""
    text = page.read_text(encoding="utf-8")
    start = text.index('id="study">') + len('id="study">')
    return json.loads(text[start : text.index("</script>", start)])


def answers_file(path: Path, key: Mapping[str, Any], session: str, given: Mapping[str, str]) -> Path:
    """One person's answers: a value for each item."""
    content = {
        "format": "imagpose-user-study-answers",
        "version": 1,
        "pack": key["pack"],
        "session": session,
        "answers": [list(pair) for pair in given.items()],
    }
    path.write_text(json.dumps(content))
    return path
