"""Plan a rendered data set: who is seen where, when, in which pose, under which file name.

A plan is a list of `PlannedImage` rows that depends on the config's sizes and seed only; `miniature` draws it. Names,
splits and frequencies follow Market-1501 and DeepFashion In-shop.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from datasets.miniature.appearance import Appearance, sample_appearance, sample_outfit
from datasets.miniature.body import GESTURES, Arm, suit_motion
from datasets.miniature.figures import CAMERAS, Motion, advance_motion, sample_motion

MARKET_PIDS = 1501
MAX_PIDS = 9999
_MARKET_FOLDERS = {"train": "bounding_box_train", "gallery": "bounding_box_test", "query": "query"}
_CATALOG_VIEWS = ("1_front", "2_side", "3_back", "4_full", "7_additional")
_SLOPPY_SHARE = 0.5
"""Share of the distractors that are false detections rather than well-cropped strangers."""


class MiniatureLike(Protocol):
    """What is read of a config (`datasets.miniature.config.MiniatureConfig` has it)."""

    layout: str
    train_identities: int
    test_identities: int
    images_per_identity: int
    distractors: int
    junk: int
    seed: int
    width: int
    height: int
    workers: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedImage:
    """All that one picture is drawn from: a row of truth.parquet."""

    file: str
    """Path relative to the data set's root."""
    name: str
    """Name in the keypoint CSV: the file's own (Market-1501), or PATN's flat name (DeepFashion)."""
    split: str
    """train, query or gallery (Market-1501); train or test (DeepFashion)."""
    role: str
    """person, distractor or junk."""
    pid: int
    camid: int
    sequence: int
    frame: int
    view: str
    """DeepFashion's 1_front, 2_side, 3_back, 4_full or 7_additional; empty for Market-1501."""
    identity_seed: int
    """Two pictures with equal seeds and outfits show the same person in the same clothes."""
    outfit: int
    image_seed: int
    place: float
    sloppy: bool
    motion: str
    """JSON of the Motion."""
    width: int
    height: int


def check_config(config: MiniatureLike) -> None:
    """Refuse a config that cannot be rendered, before any work.

    Raises:
        ValueError: naming the field, its value, the rule and the way out.
    """
    identities = config.train_identities + config.test_identities
    if min(config.train_identities, config.test_identities) < 0 or not 3 <= identities <= MAX_PIDS:
        raise ValueError(
            f"train_identities {config.train_identities} and test_identities {config.test_identities} make {identities}"
            f" identities; use 3 to {MAX_PIDS} together (a pid has four digits), neither below 0"
        )
    if config.images_per_identity < 2:
        raise ValueError(
            f"images_per_identity is {config.images_per_identity}; use 2 or more, a person needs two cameras"
        )
    for field in ("distractors", "junk", "seed"):
        if getattr(config, field) < 0:
            raise ValueError(f"{field} is {getattr(config, field)}; use 0 or more")
    if config.width < 16 or config.height < 32:
        raise ValueError(
            f"pictures of {config.width} x {config.height} pixels are too small; use at least 16 wide, 32 high"
        )
    if config.workers < 1:
        raise ValueError(f"workers is {config.workers}; use 1 (this process) or more")


# Market-1501: who is seen where and when.


def plan_market(config: MiniatureLike) -> list[PlannedImage]:
    """Every picture of a data set in Market-1501's layout, sorted by file."""
    check_config(config)
    pids = _split_pids(config)
    taken: set[str] = set()
    pictures: list[PlannedImage] = []
    for split in ("train", "test"):
        for pid in pids[split]:
            rng = np.random.default_rng([config.seed, 1, pid])
            pictures += _plan_person(config, pid, split, rng, taken)
    pictures += _plan_others(config, pids["test"] or pids["train"], taken)
    return sorted(pictures, key=lambda picture: picture.file)


def _identity_seed(seed: int, pid: int) -> int:
    return int(np.random.default_rng([seed, 0, pid]).integers(2**62))


def _split_pids(config: MiniatureLike) -> dict[str, list[int]]:
    """Disjoint, interleaved pids over 1..1501, as Market-1501's."""
    total = config.train_identities + config.test_identities
    order = np.random.default_rng([config.seed, 2]).permutation(max(total, MARKET_PIDS))[:total] + 1
    train = sorted(int(pid) for pid in order[: config.train_identities])
    return {"train": train, "test": sorted(int(pid) for pid in order[config.train_identities :])}


def _images_of(rng: np.random.Generator, mean: int) -> int:
    """Draw as in Market-1501: a tenth of the people have a third of the mean, some have four times it; at least 2."""
    sigma = 0.6
    return int(np.clip(round(mean * float(rng.lognormal(-0.5 * sigma**2, sigma))), 2, 4 * mean))


def _plan_person(
    config: MiniatureLike, pid: int, split: str, rng: np.random.Generator, taken: set[str]
) -> list[PlannedImage]:
    count = _images_of(rng, config.images_per_identity)
    cameras = min(count, int(rng.choice([2, 3, 4, 5, 6], p=[0.12, 0.2, 0.26, 0.24, 0.18])))
    camids = sorted(int(c) for c in rng.permutation(len(CAMERAS))[:cameras])
    extra = rng.multinomial(count - cameras, rng.dirichlet(np.full(cameras, 2.0)))
    pictures = []
    for index, more in zip(camids, extra, strict=True):
        queried = split == "test"
        rows = _plan_camera(config, pid, index, 1 + int(more) + queried, rng, taken)
        query = int(rng.integers(len(rows))) if queried else -1
        for k, row in enumerate(rows):
            where = "train" if split == "train" else ("query" if k == query else "gallery")
            pictures.append(_named(row, where, "00" if where == "query" else f"{int(rng.integers(1, 7)):02d}"))
    return pictures


def _plan_camera(
    config: MiniatureLike, pid: int, camera: int, count: int, rng: np.random.Generator, taken: set[str]
) -> list[PlannedImage]:
    """Short walks (tracklets) of up to six pictures past one camera."""
    rows: list[PlannedImage] = []
    while len(rows) < count:
        length = min(count - len(rows), int(rng.integers(2, 7)))
        rows += _plan_walk(config, pid, _identity_seed(config.seed, pid), camera, length, rng, taken)
    return rows


def _plan_walk(
    config: MiniatureLike, pid: int, identity: int, camera: int, length: int, rng: np.random.Generator, taken: set[str]
) -> list[PlannedImage]:
    motion, place = sample_motion(rng, CAMERAS[camera], person_of(identity, 0)), float(rng.random())
    while True:
        sequence, frame = int(rng.integers(1, 7)), 1 + 25 * int(rng.integers(0, 4000))
        steps = [0, *(25 * int(step) for step in rng.choice([1, 1, 2, 4], size=length - 1))]
        frames = [frame + int(at) for at in np.cumsum(steps)]
        keys = {f"{pid}_{camera}_{sequence}_{at}" for at in frames}
        if not keys & taken:
            taken |= keys
            break
    rows = []
    for step, at in zip(steps, frames, strict=True):
        if step:
            motion = advance_motion(motion, rng, frames=step)
            # 1.3 m/s across 14 m of surroundings, turned round at the ends.
            place = abs((place + 0.0037 * step * motion.stride * np.sin(np.radians(motion.yaw)) + 1) % 2 - 1)
        rows.append(_row(config, pid, identity, camera, sequence, at, motion, place, rng))
    return rows


def _row(
    config: MiniatureLike,
    pid: int,
    identity: int,
    camera: int,
    sequence: int,
    frame: int,
    motion: Motion,
    place: float,
    rng: np.random.Generator,
) -> PlannedImage:
    return PlannedImage(
        file="",
        name="",
        split="",
        role="person",
        pid=pid,
        camid=CAMERAS[camera].camid,
        sequence=sequence,
        frame=frame,
        view="",
        identity_seed=identity,
        outfit=0,
        image_seed=int(rng.integers(2**62)),
        place=round(float(place), 5),
        sloppy=False,
        motion=json.dumps(dataclasses.asdict(motion)),
        width=config.width,
        height=config.height,
    )


def _named(row: PlannedImage, split: str, box: str) -> PlannedImage:
    label = {"distractor": "0000", "junk": "-1"}.get(row.role, f"{row.pid:04d}")
    name = f"{label}_c{row.camid}s{row.sequence}_{row.frame:06d}_{box}.jpg"
    return dataclasses.replace(row, split=split, name=name, file=f"{_MARKET_FOLDERS[split]}/{name}")


def _plan_others(config: MiniatureLike, pids: Sequence[int], taken: set[str]) -> Iterator[PlannedImage]:
    """Distractors (pid 0) show strangers or bad boxes; junk (pid -1) shows test identities cut off or merged."""
    rng = np.random.default_rng([config.seed, 3])
    for role, count in (("distractor", config.distractors), ("junk", config.junk)):
        for index in range(count):
            label = 0 if role == "distractor" else -1
            shown = MAX_PIDS + 1 + index if role == "distractor" else int(rng.choice(pids))
            identity, camera = _identity_seed(config.seed, shown), int(rng.integers(len(CAMERAS)))
            row = _plan_walk(config, label, identity, camera, 1, rng, taken)[0]
            sloppy = role == "junk" or bool(rng.random() < _SLOPPY_SHARE)
            row = dataclasses.replace(row, role=role, sloppy=sloppy)
            yield _named(row, "gallery", f"{int(rng.integers(1, 7)):02d}")


# DeepFashion In-shop: catalog views of outfits.


def plan_deepfashion(config: MiniatureLike) -> list[PlannedImage]:
    """Every picture of a data set in DeepFashion's layout, sorted by file; distractors and junk do not exist there."""
    check_config(config)
    pictures = []
    total = config.train_identities + config.test_identities
    order = np.random.default_rng([config.seed, 2]).permutation(total)
    for pid in range(1, total + 1):
        split = "train" if order[pid - 1] < config.train_identities else "test"
        rng = np.random.default_rng([config.seed, 4, pid])
        count = _images_of(rng, config.images_per_identity)
        for outfit, views in enumerate(_outfit_views(rng, count)):
            pictures += [_catalog_row(config, pid, outfit, view, split, rng) for view in views]
    return sorted(pictures, key=lambda picture: picture.file)


def _outfit_views(rng: np.random.Generator, count: int) -> Iterator[list[str]]:
    """Split `count` pictures into outfits of two to five views; each has a front."""
    while count > 0:
        size = min(count, int(rng.integers(2, 6)))
        size += count - size == 1 and size < 5  # no outfit with a single picture, where that can be helped
        rest = rng.permutation(_CATALOG_VIEWS[1:])[: size - 1]
        yield sorted(["1_front", *(str(view) for view in rest)])
        count -= size


def _catalog_row(
    config: MiniatureLike, pid: int, outfit: int, view: str, split: str, rng: np.random.Generator
) -> PlannedImage:
    identity = _identity_seed(config.seed, pid)
    who = person_of(identity, outfit)
    gender, category = "WOMEN" if who.feminine else "MEN", _category(who)
    folder = f"{gender}/{category}/id_{pid:08d}"
    index, kind = view.split("_")
    row = _row(config, pid, identity, 0, 0, 0, suit_motion(_catalog_motion(view, rng), who), 0.5, rng)
    return dataclasses.replace(
        row,
        file=f"img/{folder}/{outfit + 1:02d}_{view}.jpg",
        outfit=outfit,
        view=view,
        split=split,
        camid=1,
        name=f"fashion{gender}{category}id{pid:08d}{outfit + 1:02d}_{index}{kind}.jpg",
    )


def _category(who: Appearance) -> str:
    outfit = who.outfit
    tops = {"tank": "Tees_Tanks", "tshirt": "Tees_Tanks", "longsleeve": "Sweaters"}
    if who.feminine:
        by_style = tops | {"dress": "Dresses", "jacket": "Jackets_Coats", "coat": "Jackets_Coats"}
    else:
        by_style = tops | {"jacket": "Jackets_Vests", "coat": "Jackets_Vests"}
    if outfit.upper_style == "tshirt" and outfit.front == "buttons":
        return "Blouses_Shirts" if who.feminine else "Shirts_Polos"
    return by_style[outfit.upper_style]


def _catalog_motion(view: str, rng: np.random.Generator) -> Motion:
    side = float(rng.choice([-1.0, 1.0]))
    yaw = {"1_front": 0.0, "2_side": 75 * side, "3_back": 180.0, "4_full": 15 * side, "7_additional": 25 * side}[view]
    arms = [GESTURES[str(rng.choice(["down", "down", "swing", "pocket", "hold"]))] for _ in range(2)]
    right, left = (_jittered(arm, rng) for arm in arms)
    return Motion(
        yaw=round(float(yaw + rng.normal(0, 10)) % 360, 2),
        phase=round(float(rng.uniform(0, 360)), 2),
        stride=round(float(rng.uniform(0, 0.5)), 3),
        lean=round(float(rng.normal(0, 1.5)), 2),
        head_yaw=round(float(rng.normal(0, 14)), 2),
        head_pitch=round(float(rng.normal(2, 4)), 2),
        right_arm=right,
        left_arm=left,
        right_swing=0.3,
        left_swing=0.3,
    )


def person_of(identity_seed: int, outfit: int) -> Appearance:
    """The person of an identity seed; outfit 0 is what they were drawn with, others are further clothes."""
    who = sample_appearance(np.random.default_rng(identity_seed))
    if outfit == 0:
        return who
    clothes = sample_outfit(np.random.default_rng([identity_seed, outfit]), feminine=who.feminine)
    return dataclasses.replace(who, outfit=clothes)


def _jittered(arm: Sequence[float], rng: np.random.Generator) -> Arm:
    """A gesture's four angles, in degrees, each moved a little."""
    first, second, third, fourth = (round(float(angle + rng.normal(0, 4)), 2) for angle in arm)
    return first, second, third, fourth
