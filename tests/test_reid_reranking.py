import numpy as np
import pytest

from reid.config import RerankConfig
from reid.evaluation.ranking import FeatureError, Labels, rank_distances, rank_features
from reid.evaluation.reranking import FeaturePairs, rerank, rerank_features


def clustered(queries, images, people, width=16, seed=0, noise=1.0):
    """Features of people, and who they are: (Q, D), (G, D), query and gallery labels."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(people + 1, width))
    labels = [Labels(pids=rng.integers(1, people + 1, n), camids=rng.integers(1, 5, n)) for n in (queries, images)]
    features = [centers[part.pids] + noise * rng.normal(size=(len(part), width)) for part in labels]
    return features[0].astype(np.float32), features[1].astype(np.float32), labels[0], labels[1]


def torchreids(query, gallery, config):
    from torchreid.reid.utils.rerank import re_ranking

    features = np.concatenate([query, gallery])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    root = np.sqrt(np.maximum(2 - 2 * (features @ features.T).astype(np.float64), 0))
    q = len(query)
    return re_ranking(root[:q, q:], root[:q, :q], root[q:, q:], config.k1, config.k2, config.weight)


@pytest.mark.parametrize(
    "config", [RerankConfig(), RerankConfig(k1=7, k2=1, weight=0.5), RerankConfig(k1=3, k2=2, weight=0.0)]
)
def test_re_ranked_distances_equal_torchreids(config):
    query, gallery, *_ = clustered(30, 170, 25)
    np.testing.assert_allclose(rerank_features(query, gallery, config), torchreids(query, gallery, config), atol=1e-5)


def test_weight_one_leaves_the_original_order():
    query, gallery, query_labels, gallery_labels = clustered(20, 100, 10)
    distances = rerank_features(query, gallery, RerankConfig(weight=1.0))
    one, two = (
        rank_distances(distances, query_labels, gallery_labels),
        rank_features(query, gallery, query_labels, gallery_labels),
    )
    np.testing.assert_allclose(one.ap, two.ap, atol=1e-9)


def test_neighbors_that_agree_raise_the_figures_of_noisy_features():
    query, gallery, query_labels, gallery_labels = clustered(40, 300, 20, noise=1.5)
    before = rank_features(query, gallery, query_labels, gallery_labels).summary()["map"]
    after = rank_distances(rerank_features(query, gallery, RerankConfig()), query_labels, gallery_labels).summary()
    assert after["map"] > before + 0.02


def test_chunks_of_rows_change_nothing(monkeypatch):
    query, gallery, *_ = clustered(10, 60, 8)
    whole = rerank_features(query, gallery, RerankConfig())
    monkeypatch.setattr("reid.evaluation.reranking.CHUNK_BYTES", 4 * 70 * 3)
    monkeypatch.setattr("reid.evaluation.reranking.ROWS_AT_A_TIME", 7)
    monkeypatch.setattr("reid.evaluation.reranking.PAIRS_AT_A_TIME", 11)
    np.testing.assert_allclose(rerank_features(query, gallery, RerankConfig()), whole, atol=1e-6)


def test_a_gallery_smaller_than_k1_is_ranked_all_the_same():
    query, gallery, *_ = clustered(2, 3, 2)
    distances = rerank_features(query, gallery, RerankConfig())
    assert distances.shape == (2, 3) and np.isfinite(distances).all()


def test_collapsed_features_do_not_make_a_perfect_ranking():
    labels = Labels(pids=np.arange(40) % 8 + 1, camids=np.arange(40) % 3)
    pairs = FeaturePairs(np.full((80, 4), 0.5, dtype=np.float32))
    summary = rank_distances(rerank(pairs, 40, RerankConfig()), labels, labels).summary()
    assert summary["map"] < 0.5


def test_features_of_unequal_width_are_refused():
    with pytest.raises(FeatureError, match="do not compare"):
        rerank_features(np.zeros((2, 3)), np.zeros((2, 4)), RerankConfig())
