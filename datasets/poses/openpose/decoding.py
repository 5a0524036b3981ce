"""From a pose network's maps to people: peaks of the heatmaps, joined by part affinity fields (PAFs).

The rules are OpenPose's (Cao et al., https://arxiv.org/abs/1812.08008, sections 3.3-3.4; thresholds and quirks as in
its Python descendants, which made Market-1501's published keypoints): smooth, take local maxima, score each pair of
joints by the field along the line between them, match greedily limb by limb, grow people along the limbs, drop those
with few or weak joints. What differs: everything runs over all images, joints and limbs at once, a peak is refined
below the cell, and two equal neighboring cells are one peak, not two.

B images, K joints (18), L limbs (19), h, w cells of the map, N peaks of a batch. Coordinates are cells: the first
cell's center is 0.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datasets.poses.skeleton import JOINT_COUNT, LIMBS, missing_keypoints

PAF_LIMBS = (*LIMBS, (2, 16), (5, 17))
"""Joints that a field connects, in OpenPose's order; the last two (shoulder to ear) never start a person."""

PAF_CHANNELS = (12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36, 18, 26)
"""A limb's channel of x among the 38; that of y follows it."""

TREE_LIMBS = len(LIMBS)
_LIMB_START, _LIMB_END = np.array(PAF_LIMBS).T
_PAF_X = np.array(PAF_CHANNELS)
_MAX_PEAKS = 127  # of one joint in one image, OpenPose's own limit: bounds memory when maps are noise
_PAIRS_AT_ONCE = 100_000


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Thresholds; the defaults are OpenPose's."""

    smoothing_sigma: float = 3.0
    """Standard deviation in cells of the Gaussian that heatmaps are smoothed with; 0 for none."""
    peak_threshold: float = 0.1
    """Smoothed heatmap value above which a local maximum is a joint."""
    paf_threshold: float = 0.05
    """Field along a limb above which a sample of it counts."""
    paf_samples: int = 10
    """Samples along a limb; more than 80 % of them must count."""
    min_joints: int = 4
    """A person with fewer is dropped."""
    min_mean_score: float = 0.4
    """Likewise one whose score (joints plus limbs) per joint is lower."""


@dataclass(frozen=True)
class Peaks:
    """Local maxima of a batch's heatmaps, sorted by image, then joint; arrays (N,)."""

    image: np.ndarray
    joint: np.ndarray
    cell: np.ndarray
    """(N, 2) int: column, row."""
    place: np.ndarray
    """(N, 2) float32: x, y, refined below the cell."""
    score: np.ndarray
    """Unsmoothed heatmap at the cell."""


@dataclass(frozen=True)
class Connections:
    """Limbs that were found: (M,) arrays, sorted by image, limb, then descending score."""

    limb: np.ndarray
    start: np.ndarray
    """Number of the peak it starts at."""
    end: np.ndarray
    score: np.ndarray


@torch.inference_mode()
def decode_people(
    heatmaps: torch.Tensor | np.ndarray,
    pafs: torch.Tensor | np.ndarray,
    decoding: Decoding | None = None,
    *,
    smoothed: torch.Tensor | None = None,
) -> list[np.ndarray]:
    """The people that each image's maps show.

    Args:
        heatmaps: (B, 18 or 19, h, w) float; a 19th channel is background and not used.
        pafs: (B, 38, h, w) float, channels in OpenPose's order.
        smoothed: the first 18 heatmaps already smoothed, by whoever gets them cheaper (smoothing and enlarging are one
            matrix product); else it is done here.

    Returns:
        B arrays (P, 18, 3) float32 of x, y in cells and the heatmap's value, missing (NaN, NaN, 0), most certain person
        first; P may be 0.
    """
    decoding = decoding or Decoding()
    heatmaps, pafs = (torch.as_tensor(maps).float() for maps in (heatmaps, pafs))
    if heatmaps.ndim != 4 or heatmaps.shape[1] < JOINT_COUNT or pafs.shape != (len(heatmaps), 38, *heatmaps.shape[2:]):
        raise ValueError(f"maps of shapes {tuple(heatmaps.shape)}, {tuple(pafs.shape)}; (B, 18+, h, w), (B, 38, h, w)")
    heatmaps = heatmaps[:, :JOINT_COUNT]
    if smoothed is None:
        smoothed = smooth(heatmaps, decoding.smoothing_sigma)
    peaks = find_peaks(heatmaps, smoothed, decoding.peak_threshold)
    connections = connect_peaks(peaks, pafs, decoding)
    return assemble_people(peaks, connections, len(heatmaps), decoding)


@functools.lru_cache(maxsize=64)
def smoothing_matrix(length: int, sigma: float) -> torch.Tensor:
    """(length, length) float32: a Gaussian filter with reflected borders (SciPy's) as a matrix product."""
    return torch.from_numpy(gaussian_filter1d(np.eye(length), sigma, axis=0).astype(np.float32))


def smooth(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Maps (B, C, h, w) filtered with a Gaussian of `sigma` cells; 0 leaves them as they are."""
    if sigma <= 0:
        return maps
    rows, columns = (smoothing_matrix(side, sigma).to(maps.device) for side in maps.shape[2:])
    return rows @ maps @ columns.T


def find_peaks(heatmaps: torch.Tensor, smoothed: torch.Tensor, threshold: float) -> Peaks:
    """Local maxima (four neighbors) of the smoothed heatmaps above the threshold; (B, 18, h, w), any device."""
    height, width = heatmaps.shape[2:]
    # Of equal neighbors the first is the peak; beyond the border there is nothing.
    top = smoothed > threshold
    top[..., 1:] &= smoothed[..., 1:] > smoothed[..., :-1]
    top[..., :-1] &= smoothed[..., :-1] >= smoothed[..., 1:]
    top[..., 1:, :] &= smoothed[..., 1:, :] > smoothed[..., :-1, :]
    top[..., :-1, :] &= smoothed[..., :-1, :] >= smoothed[..., 1:, :]
    place = torch.nonzero(top.reshape(-1)).squeeze(1)
    x, y = place % width, place // width % height
    flat = smoothed.reshape(-1)
    here = flat[place]

    def neighbor(step: int, exists: torch.Tensor) -> torch.Tensor:
        return torch.where(exists, flat[(place + step).clamp(0, len(flat) - 1)], 0)

    offset_x = _vertex(neighbor(-1, x > 0), here, neighbor(1, x < width - 1))
    offset_y = _vertex(neighbor(-width, y > 0), here, neighbor(width, y < height - 1))
    plane = place // (height * width)
    score = heatmaps[plane // JOINT_COUNT, plane % JOINT_COUNT, y, x]
    refined = torch.stack([x + offset_x, y + offset_y], -1)
    columns = (plane // JOINT_COUNT, plane % JOINT_COUNT, torch.stack([x, y], -1), refined, score)
    return _strongest(Peaks(*(column.cpu().numpy() for column in columns)))


def _vertex(before: torch.Tensor, here: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where between two neighbors a Gaussian through three values has its top: -0.5 ... 0.5; 0 at a border."""
    floor = 1e-3 * here
    low, middle, high = before.maximum(floor).log(), here.log(), after.maximum(floor).log()
    offset = (high - low) / (2 * (2 * middle - low - high)).clamp(min=1e-9)
    return torch.where((before > 0) & (after > 0), offset, 0).clamp(-0.5, 0.5)


def _strongest(peaks: Peaks) -> Peaks:
    """At most so many peaks of one joint in one image, those of the highest scores."""
    group = peaks.image * JOINT_COUNT + peaks.joint
    if not len(group) or np.bincount(group).max() <= _MAX_PEAKS:
        return peaks
    order = np.lexsort((-peaks.score, group))
    rank = np.arange(len(group)) - np.searchsorted(group[order], group[order])
    keep = np.sort(order[rank < _MAX_PEAKS])
    return Peaks(*(getattr(peaks, name)[keep] for name in ("image", "joint", "cell", "place", "score")))


def connect_peaks(peaks: Peaks, pafs: torch.Tensor, decoding: Decoding) -> Connections:
    """Score every possible limb by the field under it and choose greedily, limb by limb."""
    images = len(pafs)
    group, limb, start, end = _candidates(peaks, images)
    score = np.empty(len(limb), np.float32)
    good = np.empty(len(limb), bool)
    for first in range(0, len(limb), _PAIRS_AT_ONCE):
        part = slice(first, first + _PAIRS_AT_ONCE)
        score[part], good[part] = _score_limbs(peaks, limb[part], start[part], end[part], pafs, decoding)
    group, limb, start, end, score = (column[good] for column in (group, limb, start, end, score))
    order = np.lexsort((-score, group))  # stable: of equal scores the first pair
    chosen = order[_greedy(limb[order], start[order], end[order], len(peaks.image))]
    return Connections(*(column[chosen] for column in (limb, start, end, score)))


def _candidates(peaks: Peaks, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of peaks of a limb's two joints in one image: image x limb, limb, first and second peak."""
    counts = np.bincount(peaks.image * JOINT_COUNT + peaks.joint, minlength=images * JOINT_COUNT)
    firsts = np.cumsum(counts) - counts
    counts, firsts = counts.reshape(images, JOINT_COUNT), firsts.reshape(images, JOINT_COUNT)
    ends = counts[:, _LIMB_END].ravel()
    pairs = counts[:, _LIMB_START].ravel() * ends  # (B x L)
    group = np.repeat(np.arange(len(pairs)), pairs)
    number = np.arange(len(group)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    start = firsts[:, _LIMB_START].ravel()[group] + number // ends[group]
    end = firsts[:, _LIMB_END].ravel()[group] + number % ends[group]
    return group, group % len(PAF_LIMBS), start, end


def _score_limbs(
    peaks: Peaks, limb: np.ndarray, start: np.ndarray, end: np.ndarray, pafs: torch.Tensor, decoding: Decoding
) -> tuple[np.ndarray, np.ndarray]:
    """Mean field along each candidate, less a prior against limbs beyond half the map; and whether it may stand."""
    origin, target = peaks.cell[start].astype(np.float64), peaks.cell[end].astype(np.float64)
    length = np.maximum(np.linalg.norm(target - origin, axis=1), 1e-3)
    direction = (target - origin) / length[:, None]
    steps = np.linspace(0, 1, decoding.paf_samples)
    points = np.rint(origin[:, None] + (target - origin)[:, None] * steps[:, None]).astype(np.int64)  # (M, S, 2)
    height, width = pafs.shape[2:]
    plane = (peaks.image[start] * pafs.shape[1] + _PAF_X[limb]) * (height * width)
    index = torch.from_numpy(plane[:, None] + points[..., 1] * width + points[..., 0]).to(pafs.device)
    flat = pafs.reshape(-1)
    along = flat[index].cpu().numpy() * direction[:, :1] + flat[index + height * width].cpu().numpy() * direction[:, 1:]
    score = along.mean(1) + np.minimum(0.5 * height / length - 1, 0)
    enough = (along > decoding.paf_threshold).sum(1) > 0.8 * decoding.paf_samples
    return score, enough & (score > 0)


def _greedy(limb: np.ndarray, start: np.ndarray, end: np.ndarray, peak_count: int) -> np.ndarray:
    """Rows that a greedy choice from the top takes when each peak may serve once per limb; rows come best first.

    Every round takes the rows that are the best of both their peaks: the same set as one by one from the top, in as
    many rounds as people crowd, not as there are rows.
    """
    remaining = np.arange(len(limb))
    taken = np.zeros(len(limb), bool)
    start_key, end_key = limb * peak_count + start, limb * peak_count + end
    while len(remaining):
        best_of_start, best_of_end = (np.full(len(PAF_LIMBS) * peak_count, -1) for _ in range(2))
        best_of_start[start_key[remaining[::-1]]] = remaining[::-1]  # the last writing stays: the best row
        best_of_end[end_key[remaining[::-1]]] = remaining[::-1]
        best = (best_of_start[start_key[remaining]] == remaining) & (best_of_end[end_key[remaining]] == remaining)
        taken[remaining[best]] = True
        free_start = ~taken[best_of_start[start_key[remaining]]]
        free_end = ~taken[best_of_end[end_key[remaining]]]
        remaining = remaining[~best & free_start & free_end]
    return np.flatnonzero(taken)


def assemble_people(peaks: Peaks, connections: Connections, images: int, decoding: Decoding) -> list[np.ndarray]:
    """Peaks that hang together are a person; (P, 18, 3) for each image, the most certain first."""
    people, person_image, score, joints = _grow(peaks, connections)
    _add_ears(peaks, connections, people, person_image, score, joints)
    keep = np.flatnonzero((joints >= decoding.min_joints) & (score >= decoding.min_mean_score * joints))
    keep = keep[np.lexsort((-score[keep], person_image[keep]))]
    keypoints = np.broadcast_to(missing_keypoints(), (len(keep), JOINT_COUNT, 3)).copy()
    there = people[keep] >= 0
    numbers = people[keep][there]
    keypoints[there] = np.concatenate([peaks.place[numbers], peaks.score[numbers, None]], 1)
    return np.split(keypoints, np.searchsorted(person_image[keep], np.arange(1, images)))[:images]


def _grow(peaks: Peaks, connections: Connections) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """People as parts that the tree's limbs connect: peak number by joint (P, 18), image, score, number of joints.

    The limbs are a tree and each peak serves once per limb, so no person can get two peaks of a joint. People are in
    the order of their first limb, which matters for `_add_ears` alone.
    """
    tree = connections.limb < TREE_LIMBS
    start, end, limb_score = connections.start[tree], connections.end[tree], connections.score[tree]
    count = len(peaks.image)
    graph = coo_array((np.ones(len(start), np.int8), (start, end)), shape=(count, count))
    _, part = connected_components(graph, directed=False)
    _, first, person_of_limb = np.unique(part[start], return_index=True, return_inverse=True)
    order = np.argsort(first)  # first limbs' numbers rise with the limb inside an image
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    people = np.full((len(order), JOINT_COUNT), -1)
    score = np.bincount(rank[person_of_limb], limb_score, minlength=len(order)).astype(np.float64)
    for ends in (start, end):
        people[rank[person_of_limb], peaks.joint[ends]] = ends
    there = people >= 0
    score += np.where(there, peaks.score[people], 0).sum(1) if len(people) else 0
    return people, peaks.image[start[first[order]]], score, there.sum(1)


def _add_ears(
    peaks: Peaks,
    connections: Connections,
    people: np.ndarray,
    person_image: np.ndarray,
    score: np.ndarray,
    joints: np.ndarray,
) -> None:
    """Let the shoulder-to-ear limbs extend people or join two, in place; most say what is known already.

    A person seen from behind has ears but neither nose nor eyes. Whoever loses all joints to another has 0 of them.
    """
    for number in np.flatnonzero(connections.limb >= TREE_LIMBS):
        limb, start, end = connections.limb[number], connections.start[number], connections.end[number]
        shoulder, ear = PAF_LIMBS[limb]
        low, high = np.searchsorted(person_image, [peaks.image[start], peaks.image[start] + 1])
        owners = low + np.flatnonzero((people[low:high, shoulder] == start) | (people[low:high, ear] == end))
        if not len(owners) or (len(owners) == 1 and people[owners[0], ear] == end):
            continue
        first = owners[0]
        if len(owners) > 1 and not ((people[owners[0]] >= 0) & (people[owners[1]] >= 0)).any():
            second = owners[1]
            people[first] = np.maximum(people[first], people[second])
            score[first] += score[second] + connections.score[number]
            joints[first] += joints[second]
            people[second], joints[second] = -1, 0
            continue
        people[first, ear] = end
        joints[first] += 1
        score[first] += peaks.score[end] + connections.score[number]
