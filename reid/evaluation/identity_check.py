"""Does a synthetic image show the person it is named after? Scores, thresholds and counts, written once.

Every synthetic image's feature is compared with the mean feature of its person's real images. The scoring network may
only have seen what the protocol allows: it is a run on the same subset, trained without synthetic images. Nothing is
deleted: ``identity_check.parquet`` records what is kept and why, and ``reid train --identity-check`` joins it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.runtime import devices
from datasets.runtime.errors import InputError
from datasets.runtime.hashing import file_sha256
from datasets.runtime.manifests import manifest_of
from datasets.sources.subsets import read_subset
from reid.config import CheckIdentityConfig, TrainReidConfig
from reid.data.images import read_images
from reid.data.training_set import read_synthetic_table
from reid.evaluation.embedding import NetworkEmbedder
from reid.evaluation.evaluate import load_network
from reid.evaluation.features import extract_features
from reid.evaluation.ranking import normalized

logger = logging.getLogger(__name__)

CHECK_FILE = "identity_check.parquet"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("id_score", pa.float64()),
        ("kept", pa.bool_()),
        ("reject_reason", pa.string()),
        ("scorer_sha256", pa.string()),
        ("pid", pa.int64()),
        ("camid", pa.int64()),
        ("nearest_pid", pa.int64()),
    ]
)
THRESHOLDS = tuple(round(0.1 * tenth, 1) for tenth in range(10))


def make_identity_check(config: CheckIdentityConfig, directory: Path) -> dict[str, Any]:
    """Write ``identity_check.parquet`` and ``identities.parquet``; returns kept shares by threshold and by camera.

    Raises:
        InputError: the judge was trained on synthetic images or another subset, or somebody has no real image.
    """
    refuse_partial_judge(config)
    device = devices.pick(config.device)
    network, settings = load_network(config.run)
    size = (settings.height, settings.width)
    keys = None if config.subsets is None else set(read_subset(config.subsets, config.fraction, config.draw))
    real = read_images(config.shards, "train", size, keys=keys, workers=config.workers)
    usable = set(read_synthetic_table(config.synthetic).key)
    embed = NetworkEmbedder(network, device)
    real_features = normalized(extract_features(embed, real.pixels, label="features of real images"))
    pids, means = person_means(real_features, real.pids)
    table = pd.DataFrame(columns=["key", "pid", "camid", "id_score", "nearest_pid"])
    if usable:
        made = read_images(config.synthetic, "synthetic", size, keys=usable, workers=config.workers)
        if unknown_pids := sorted(set(made.pids.tolist()) - set(pids.tolist())):
            raise InputError(f"{config.synthetic} shows pid {unknown_pids[0]}, who has no real image in this subset")
        features = normalized(extract_features(embed, made.pixels, label="features of synthetic images"))
        table = score(features, made.pids, pids, means).assign(key=made.keys, camid=made.camids)
    table = judge(table, config).assign(scorer_sha256=file_sha256(config.run / "model.safetensors"))
    rows = pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False)
    pq.write_table(rows.replace_schema_metadata(), directory / CHECK_FILE, compression="zstd")
    people = table.groupby("pid").agg(
        images=("kept", "size"), kept=("kept", "sum"), mean_score=("id_score", "mean"), least_score=("id_score", "min")
    )
    people.astype({"kept": int}).reset_index().to_parquet(directory / "identities.parquet", index=False)
    return summarize(table, others_scores(real_features, real.pids))


def refuse_partial_judge(config: CheckIdentityConfig) -> None:
    """Refuse a scoring network that was trained on more or other images than the check allows.

    Raises:
        InputError: what it was trained on, and what to give instead.
    """
    manifest = manifest_of(config.run, TrainReidConfig.stage)
    judge_config = manifest["config"]
    if judge_config["synthetic"]:
        raise InputError(f"{config.run} was trained on synthetic images; it cannot judge. Give a run of arm 'real'")
    if "init_from" not in judge_config:
        raise InputError(f"{config.run} was trained by an earlier version of this project; train it again")
    if judge_config["init_from"] is not None:
        raise InputError(
            f"{config.run} is initialized from another run, which may have seen more; give a run of arm 'real'"
        )
    found, requested = (judge_config["fraction"], judge_config["draw"]), (config.fraction, config.draw)
    if found != requested:
        raise InputError(
            f"{config.run} was trained on fraction {found[0]}, draw {found[1]}; the check asks for fraction "
            f"{requested[0]}, draw {requested[1]}: a judge must know the same subset"
        )
    if config.fraction == 100 or config.subsets is None:
        return
    if manifest["inputs"]["subsets"]["sha256"] != manifest_of(config.subsets)["content_sha256"]:
        raise InputError(
            f"{config.run} was trained by another list of subsets than {config.subsets}; a judge must know the same "
            "subset: give the list that its manifest names"
        )


def person_means(features: np.ndarray, pids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pids (C,) and the normalized mean of each identity's normalized features (C, D)."""
    people = np.unique(pids[pids > 0])
    return people, normalized(np.stack([features[pids == pid].mean(axis=0) for pid in people]))


def score(features: np.ndarray, pids: np.ndarray, people: np.ndarray, means: np.ndarray) -> pd.DataFrame:
    """Cosine of each unit feature (N, D) with its own person's mean, and whose mean is nearest."""
    cosines = features @ means.T
    own = np.searchsorted(people, pids)
    return pd.DataFrame(
        {
            "pid": pids,
            "id_score": cosines[np.arange(len(pids)), own].astype(np.float64),
            "nearest_pid": people[cosines.argmax(axis=1)],
        }
    )


def others_scores(features: np.ndarray, pids: np.ndarray) -> np.ndarray:
    """Cosine of each real image with the mean of its person's *other* images, where there are others."""
    found = []
    for pid in np.unique(pids[pids > 0]):
        own = features[pids == pid].astype(np.float64)
        if len(own) > 1:
            others = own.sum(axis=0) - own
            found.append((own * others).sum(axis=1) / np.maximum(np.linalg.norm(others, axis=1), 1e-12))
    return np.concatenate(found) if found else np.empty(0)


def judge(table: pd.DataFrame, config: CheckIdentityConfig) -> pd.DataFrame:
    """Add ``kept`` and ``reject_reason``: '', 'another-person', 'low-score' or 'not-among-the-best'."""
    scores = table.id_score.to_numpy(dtype=np.float64)
    reasons = np.full(len(table), "", dtype=object)
    if config.min_score is not None:
        reasons[scores < config.min_score] = "low-score"
    if config.nearest:
        reasons[(table.nearest_pid != table.pid).to_numpy(dtype=bool)] = "another-person"
    passing = np.flatnonzero(reasons == "")
    surplus = len(passing) - round(len(passing) * config.keep / 100)
    # Equal scores are rejected in the order of their keys: the result must not depend on the order of the files.
    order = passing[np.lexsort((table.key.to_numpy(dtype=str)[passing], scores[passing]))]
    reasons[order[:surplus]] = "not-among-the-best"
    return table.assign(kept=reasons == "", reject_reason=reasons)


def summarize(table: pd.DataFrame, real_scores: np.ndarray) -> dict[str, Any]:
    """Counts for the manifest."""
    scores = table.id_score.to_numpy(dtype=np.float64)
    cameras = table.groupby("camid").kept.agg(["size", "sum"])
    quantiles = (0.05, 0.25, 0.5, 0.75, 0.95)

    def described(values: np.ndarray) -> list[float]:
        return [round(float(value), 4) for value in np.quantile(values, quantiles)] if len(values) else []

    return {
        "images": len(table),
        "kept": int(table.kept.sum()),
        "rejected": {str(name): int(count) for name, count in table.reject_reason.value_counts().items() if name},
        "identities": int(table.pid.nunique()),
        "identities_without_any_kept": int((~table.groupby("pid").kept.any()).sum()) if len(table) else 0,
        "cameras": {str(camid): [int(row["sum"]), int(row["size"])] for camid, row in cameras.iterrows()},
        "share_at_threshold": {str(t): round(float((scores >= t).mean()), 4) if len(scores) else 0 for t in THRESHOLDS},
        "score_quantiles": dict(zip(map(str, quantiles), described(scores), strict=False)),
        "real_score_quantiles": dict(zip(map(str, quantiles), described(real_scores), strict=False)),
    }
