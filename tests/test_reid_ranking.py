import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.evaluation import ranking
from reid.evaluation.ranking import (
    FeatureError,
    Labels,
    MatchIndex,
    distance_rows,
    nearest,
    normalized,
    rank_distances,
    rank_features,
)


def labels(*pairs):
    pids, camids = zip(*pairs, strict=True)
    return Labels(pids=np.array(pids), camids=np.array(camids))


def test_a_ranking_of_six_images_is_as_counted_by_hand():
    # Kept in order of distance: wrong, right, distractor, right; left out: junk and the same person by the same camera.
    gallery = labels((9, 2), (7, 2), (-1, 3), (7, 1), (0, 4), (7, 3))
    ranking = rank_distances(np.array([[0.2, 0.3, 0.0, 0.1, 0.4, 0.5]]), labels((7, 1)), gallery)
    assert (ranking.first_rank[0], ranking.last_rank[0], ranking.matches[0]) == (2, 4, 2)
    assert ranking.ap[0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert ranking.ap_trapezoid[0] == pytest.approx(((0 / 1 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
    assert ranking.inp[0] == pytest.approx(2 / 4)
    assert [ranking.cmc(rank) for rank in (1, 2, 10, 1000)] == [0, 1, 1, 1]
    assert ranking.first_rank.dtype == ranking.last_rank.dtype == ranking.matches.dtype == np.int64


def test_a_query_nobody_matches_is_counted_and_left_out_of_the_means():
    query = labels((7, 1), (8, 1))  # 8 is in the gallery under the query's own camera only
    ranking = rank_distances(np.array([[0.1, 0.2], [0.1, 0.2]]), query, labels((7, 2), (8, 1)))
    summary = ranking.summary()
    assert (summary["queries"], summary["unmatched_queries"]) == (1, 1)
    assert summary["rank1"] == summary["map"] == summary["map_trapezoid"] == summary["minp"] == 1
    assert np.isnan(ranking.ap[1]) and ranking.first_rank[1] == 0


def test_the_summary_of_queries_on_either_side_of_every_rank_is_as_counted_by_hand():
    """A query each whose first match has rank 1, 2, 5, 6, 10 and 11 of eleven, and two that nobody matches."""
    query = labels(*((pid, 1) for pid in (1, 2, 5, 6, 10, 11, 90, 91)))
    gallery = labels(*((pid, 2) for pid in range(1, 12)))
    ranking = rank_distances(np.tile(np.arange(11.0), (8, 1)), query, gallery)
    precision = (1 / 1 + 1 / 2 + 1 / 5 + 1 / 6 + 1 / 10 + 1 / 11) / 6
    assert ranking.summary() == pytest.approx(
        {
            "rank1": 1 / 6,
            "rank5": 3 / 6,
            "rank10": 5 / 6,
            "map": precision,
            "map_trapezoid": (precision + 1 / 6) / 2,  # before the only hit nothing is right, unless it is the first
            "minp": precision,
            "queries": 6,
            "unmatched_queries": 2,
        }
    )


def test_no_match_anywhere_is_an_error_and_not_a_figure():
    with pytest.raises(FeatureError, match=r"^no query has a match"):
        rank_distances(np.zeros((1, 1)), labels((7, 1)), labels((8, 2))).summary()


def test_collapsed_features_score_the_worst_and_not_100_percent():
    rng = np.random.default_rng(0)
    pids, camids = rng.integers(1, 6, 200), rng.integers(1, 4, 200)
    both = Labels(pids=pids, camids=camids)
    summary = rank_features(np.ones((200, 8)), np.ones((200, 8)), both, both).summary()
    assert summary["rank1"] == summary["rank10"] == 0
    assert summary["map"] < 0.2


def test_a_tie_is_what_float32_cannot_tell_apart_and_the_page_says_so():
    def first_rank(match_angle, negative_angle):
        features = np.array([[np.cos(angle), np.sin(angle)] for angle in (match_angle, negative_angle)])
        query, gallery = labels((7, 1)), labels((7, 2), (8, 2))
        return rank_features(np.array([[1.0, 0.0]]), features, query, gallery).first_rank[0]

    assert first_rank(1e-2, 2e-2) == 1
    assert first_rank(1e-4, 2e-4) == 2  # nearer by 1.5e-8, which float32 does not see: a tie, against the query
    assert "float32" in ranking.__doc__


def brute_force(distances, query, gallery):
    """Sort by (distance, match last), walk down the list, as the protocol is described."""
    found = []
    for row, pid, camid in zip(distances, query.pids, query.camids, strict=True):
        valid = [
            j for j in range(len(row)) if gallery.pids[j] != -1 and (gallery.pids[j], gallery.camids[j]) != (pid, camid)
        ]
        order = sorted(valid, key=lambda j: (row[j], gallery.pids[j] == pid))
        ranks = [rank for rank, j in enumerate(order, start=1) if gallery.pids[j] == pid]
        precisions = [k / rank for k, rank in enumerate(ranks, start=1)]
        before = [(k - 1) / (rank - 1) if rank > 1 else 1.0 for k, rank in enumerate(ranks, start=1)]
        trapezoid = [(a + b) / 2 for a, b in zip(precisions, before, strict=True)]
        found.append((ranks, precisions, trapezoid, order))
    return found


@settings(max_examples=2000, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 14), st.integers(1, 4), st.integers(1, 5))
def test_every_small_case_equals_a_brute_force_walk(seed, queries, images, people, levels):
    rng = np.random.default_rng(seed)
    query = Labels(pids=rng.integers(1, people + 1, queries), camids=rng.integers(1, 4, queries))
    gallery = Labels(pids=rng.integers(-1, people + 1, images), camids=rng.integers(1, 4, images))
    distances = rng.integers(0, levels, (queries, images)).astype(np.float64)  # few levels, many ties
    ranking = rank_distances(distances, query, gallery)
    for i, (ranks, precisions, trapezoid, _) in enumerate(brute_force(distances, query, gallery)):
        assert ranking.matches[i] == len(ranks)
        if ranks:
            assert (ranking.first_rank[i], ranking.last_rank[i]) == (ranks[0], ranks[-1])
            assert ranking.ap[i] == pytest.approx(np.mean(precisions), abs=1e-12)
            assert ranking.ap_trapezoid[i] == pytest.approx(np.mean(trapezoid), abs=1e-12)
            assert ranking.inp[i] == pytest.approx(len(ranks) / ranks[-1], abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_files_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    query = Labels(pids=rng.integers(1, 5, 5), camids=rng.integers(1, 4, 5))
    gallery = Labels(pids=rng.integers(-1, 5, 20), camids=rng.integers(1, 4, 20))
    features, others = rng.integers(0, 2, (5, 3)), rng.integers(0, 2, (20, 3))
    shuffled = rng.permutation(20)
    one = rank_features(features, others, query, gallery)
    two = rank_features(
        features, others[shuffled], query, Labels(pids=gallery.pids[shuffled], camids=gallery.camids[shuffled])
    )
    np.testing.assert_array_equal(one.ap, two.ap)
    np.testing.assert_array_equal(one.first_rank, two.first_rank)


def random_case(seed=0, queries=40, images=300, width=16):
    rng = np.random.default_rng(seed)
    query = Labels(pids=rng.integers(1, 20, queries), camids=rng.integers(1, 7, queries))
    gallery = Labels(pids=rng.integers(-1, 20, images), camids=rng.integers(1, 7, images))
    return rng.normal(size=(queries, width)), rng.normal(size=(images, width)), query, gallery


def test_chunks_of_any_size_give_the_same_figures():
    one = rank_features(*random_case())
    for chunk_bytes in (1, 5000, 2**30):
        np.testing.assert_array_equal(rank_features(*random_case(), chunk_bytes=chunk_bytes).ap, one.ap)


@pytest.mark.parametrize(("chunk_bytes", "rows"), [(1, 1), (3 * 4 * 300, 3), (2**30, 40)])
def test_of_the_distance_matrix_one_piece_of_the_size_that_was_asked_for_exists(chunk_bytes, rows):
    query, gallery, *_ = random_case()
    found = list(distance_rows(normalized(query), normalized(gallery), chunk_bytes))
    assert len(found) == 40
    assert all(row.base is found[0].base and row.base.shape == (rows, 300) for row in found)


def test_the_figures_equal_torchreids_where_there_are_no_ties():
    from torchreid.reid.metrics.rank import eval_market1501

    query_features, gallery_features, query, gallery = random_case()
    kept = gallery.pids != -1
    distances = 1 - normalized(query_features) @ normalized(gallery_features).T
    cmc, mean_ap = eval_market1501(
        distances[:, kept], query.pids, gallery.pids[kept], query.camids, gallery.camids[kept], 50
    )
    ranking = rank_distances(distances, query, gallery)
    assert ranking.summary()["map"] == pytest.approx(mean_ap, abs=1e-9)
    np.testing.assert_allclose([ranking.cmc(rank) for rank in range(1, 51)], cmc, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value):
    query_features, gallery_features, query, gallery = random_case()
    query_features[3, 2] = value
    with pytest.raises(FeatureError, match=r"1 of 40 features are not finite \(first: row 3\)"):
        rank_features(query_features, gallery_features, query, gallery)
    with pytest.raises(FeatureError, match=r"^distances are not all finite"):
        rank_distances(np.full((40, 300), value), query, gallery)


def test_labels_that_do_not_fit_are_refused():
    query_features, gallery_features, query, gallery = random_case()
    with pytest.raises(FeatureError, match="39 query features but 40"):
        rank_features(query_features[:39], gallery_features, query, gallery)
    with pytest.raises(FeatureError, match="299 gallery features but 300"):
        rank_features(query_features, gallery_features[:299], query, gallery)
    with pytest.raises(FeatureError, match=r"distances \(40, 299\) do not fit 40 queries x 300 images"):
        rank_distances(np.zeros((40, 299)), query, gallery)
    with pytest.raises(FeatureError, match="only gallery images may be junk"):
        rank_distances(np.zeros((1, 1)), labels((0, 1)), labels((0, 2)))
    for pids, camids in ((np.ones(3), np.ones(2)), (np.ones((2, 2)), np.ones((2, 2)))):
        with pytest.raises(FeatureError, match=r"must be two rows of equal length"):
            Labels(pids=pids, camids=camids)


def test_features_of_another_shape_are_refused():
    query_features, gallery_features, query, gallery = random_case()
    with pytest.raises(FeatureError, match="features of width 16 and 15 do not compare"):
        rank_features(query_features, gallery_features[:, :15], query, gallery)
    with pytest.raises(FeatureError, match=r"features have shape \(5,\); expected \(images, dimensions\)"):
        normalized(np.ones(5))


def test_features_are_brought_to_length_1_in_a_copy_of_float32():
    features = np.array([[3.0, 4.0], [0.0, 0.0], [1e-3, 0.0]])
    found = normalized(features)
    assert found.dtype == np.float32 and features[0, 0] == 3
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
    np.testing.assert_array_equal(normalized(features, np.array([True, False, True])), found[[0, 2]])
    assert normalized(np.empty((0, 4))).shape == (0, 4)


def test_a_persons_images_come_in_the_gallerys_order():
    pids, camids = np.tile([1, 2], 500), np.repeat([1, 2, 3, 4], 250)
    same_person, match = MatchIndex(Labels(pids=pids, camids=camids)).of(2, 3)
    assert same_person.tolist() == list(range(1, 1000, 2))
    assert match.tolist() == [*range(1, 500, 2), *range(751, 1000, 2)]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_ranked_lists_follow_the_same_rule_as_the_figures(seed, count):
    rng = np.random.default_rng(seed)
    gallery = Labels(pids=rng.integers(0, 4, 12), camids=rng.integers(1, 3, 12))
    query = labels((1, 1))
    row = rng.integers(0, 3, 12).astype(np.float32)
    expected = brute_force(row[None], query, gallery)[0][3][:count]
    same_person, match = MatchIndex(gallery).of(1, 1)
    assert nearest(row, same_person, match, count).tolist() == expected


def test_distances_are_ordered_as_cosines():
    query, gallery = normalized(np.array([[1.0, 0.0]])), normalized(np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    row = next(distance_rows(query, gallery))
    np.testing.assert_allclose(row, [-1, 0, 1])
    assert row.dtype == np.float32


def test_the_greatest_number_is_an_identity_like_any_other():
    pids = np.array([2**63 - 1, 2])
    query, gallery = (Labels(pids=pids, camids=np.full(2, camid)) for camid in (1, 2))
    assert rank_features(np.eye(2), np.eye(2), query, gallery).matches.tolist() == [1, 1]
