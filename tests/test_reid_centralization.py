import json

import numpy as np
import pandas as pd
import pytest

from datasets.runtime.artifacts import build
from reid.benchmark.tables import notes
from reid.config import EvaluateReidConfig, NfcConfig, RerankConfig
from reid.evaluation import centralization
from reid.evaluation.centralization import add_mutual_neighbors, identity_density
from reid.evaluation.evaluate import make_evaluation


def by_the_book(features, k1, k2):
    """Pose2ID's definition, image by image, in float64: the sum over those who have each other among their nearest."""
    features = features.astype(np.float64)
    nearest = []
    for i, feature in enumerate(features):
        others = [j for j in range(len(features)) if j != i]
        nearest.append(sorted(others, key=lambda j: np.sum((feature - features[j]) ** 2))[:k1])
    return np.stack(
        [
            feature + sum((features[j] for j in nearest[i] if i in nearest[j][:k2]), np.zeros_like(feature))
            for i, feature in enumerate(features)
        ]
    )


@pytest.mark.parametrize(("k1", "k2"), [(2, 2), (1, 1), (5, 2), (3, 7)])
@pytest.mark.parametrize("scale", [1.0, 30.0])  # features are compared as they are, not by their direction
def test_mutual_neighbors_are_those_of_the_definition(k1, k2, scale):
    features = np.random.default_rng(k1).normal(size=(60, 12)).astype(np.float32)
    features *= scale * np.linspace(0.5, 2, 60, dtype=np.float32)[:, None]
    given = features.copy()
    found = add_mutual_neighbors(features, NfcConfig(k1=k1, k2=k2))
    np.testing.assert_allclose(found, by_the_book(features, k1, k2), rtol=1e-6, atol=1e-6 * scale)
    np.testing.assert_array_equal(features, given)


def test_chunks_change_nothing(monkeypatch):
    features = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    whole = add_mutual_neighbors(features, NfcConfig(k1=3, k2=3))
    monkeypatch.setattr(centralization, "CHUNK_BYTES", 4 * 50 * 7)
    monkeypatch.setattr(centralization, "ROWS_AT_A_TIME", 11)
    np.testing.assert_allclose(add_mutual_neighbors(features, NfcConfig(k1=3, k2=3)), whole, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_images_than_neighbors_are_centralized_all_the_same(count):
    features = np.eye(3, dtype=np.float32)[:count]
    found = add_mutual_neighbors(features, NfcConfig(k1=5, k2=5))
    np.testing.assert_array_equal(found, features if count < 2 else np.tile(features.sum(axis=0), (2, 1)))


def test_identity_density_is_the_mean_squared_distance_from_the_own_center():
    features = np.array([[3, 0], [0, 5], [1, 0], [1, 1], [7, 7]], dtype=np.float32)
    pids = np.array([1, 1, 2, 0, -1])  # person 1: unit vectors on both axes, half a unit squared from their mean
    assert identity_density([features[:2], features[2:]], pids) == pytest.approx((0.5 + 0.5 + 0) / 3)


def clustered(folder, seed=0):
    """A file of noisy features of 12 people, junk and a distractor among the gallery."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(13, 8))
    people = [*range(1, 13)]
    rows = [
        (f"q{pid}_{i}", "query", pid, 1, centers[pid] + 0.7 * rng.normal(size=8)) for pid in people for i in range(4)
    ]
    rows += [
        (f"g{pid}_{i}", "gallery", pid, 2 + i, centers[pid] + 0.7 * rng.normal(size=8))
        for pid in people
        for i in range(4)
    ]
    rows += [("d", "gallery", 0, 2, rng.normal(size=8)), ("j", "gallery", -1, 2, rng.normal(size=8))]
    path = folder / "features.parquet"
    pd.DataFrame(rows, columns=["key", "split", "pid", "camid", "feature"]).to_parquet(path)
    return path


def test_centralized_figures_stand_beside_the_headline_and_do_not_change_it(tmp_path):
    file = clustered(tmp_path)
    plain = build(EvaluateReidConfig(features=file), make_evaluation, store=tmp_path)
    config = EvaluateReidConfig(features=file, nfc=NfcConfig(), rerank=RerankConfig(k1=4, k2=2))
    tried = build(config, make_evaluation, store=tmp_path)
    before, after = (json.loads((folder / "metrics.json").read_text()) for folder in (plain, tried))
    assert {name: after[name] for name in before} == before
    assert after["nfc_map"] > before["map"] + 0.02
    assert {"nfc_rank1", "reranked_map", "nfc_reranked_minp"} <= after.keys()
    table = pd.read_parquet(tried / "test_time.parquet").set_index("variant")
    assert table.index.tolist() == ["plain", "reranked", "nfc", "nfc_reranked"]
    assert table.loc["plain", "map"] == before["map"] and table.loc["plain", "map_gain"] == 0
    assert table.map_gain["nfc"] == pytest.approx(after["nfc_map"] - before["map"])
    assert table.map_gain_low["nfc"] < table.map_gain["nfc"] < table.map_gain_high["nfc"]
    assert table.id2["nfc"] < table.id2["plain"] == table.id2["reranked"]
    per_query = pd.read_parquet(tried / "per_query_nfc.parquet")
    assert per_query.ap.mean() == pytest.approx(after["nfc_map"])
    assert "nfc" in json.loads((tried / "logs" / "test_time.json").read_text())["seconds_per_thousand_images"]


def test_junk_is_nobodys_neighbor(tmp_path):
    file = clustered(tmp_path)
    table = pd.read_parquet(file)
    config = EvaluateReidConfig(features=file, nfc=NfcConfig())
    found = make_evaluation(config, tmp_path)
    table[table.pid != -1].to_parquet(file)
    assert make_evaluation(config, tmp_path)["nfc_map"] == found["nfc_map"]


def test_the_table_of_runs_names_what_was_tried_at_test_time():
    row = {"protocol": "leak-free", "fraction": 20, "arm": "real", "provenance": "", "steps_before": 0}
    figures = {"nfc_rank1": 0.5, "nfc_map": 0.25, "reranked_rank1": 0.4, "reranked_map": 0.2}
    (text,) = notes(pd.DataFrame([row | figures]))
    assert "| leak-free | 20 % | real | nfc | 50.0 | 25.0 |" in text
    assert "| leak-free | 20 % | real | reranked | 40.0 | 20.0 |" in text
