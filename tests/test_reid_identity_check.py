import numpy as np
import pandas as pd
import pytest

from reid.config import CheckIdentityConfig
from reid.evaluation.identity_check import judge, others_scores, person_means, score, summarize


def config(**changes):
    return CheckIdentityConfig(run=".", synthetic=".", shards=".", **changes)


def table(scores, pids=None, nearest=None):
    pids = pids or [1] * len(scores)
    return pd.DataFrame(
        {
            "key": [f"k{i}" for i in range(len(scores))],
            "pid": pids,
            "camid": [1 + i % 2 for i in range(len(scores))],
            "id_score": scores,
            "nearest_pid": nearest or pids,
        }
    )


def test_scores_are_cosines_with_the_own_persons_mean():
    real = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.5, 0.5]])
    people, means = person_means(real, np.array([3, 3, 7, 0]))  # a distractor is nobody's image
    assert people.tolist() == [3, 7]
    np.testing.assert_allclose(means, [[0.5**0.5, 0.5**0.5], [-1, 0]])
    found = score(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, -1.0]]), np.array([3, 7, 7]), people, means)
    np.testing.assert_allclose(found.id_score, [0.5**0.5, -1.0, 0.0])
    assert found.nearest_pid.tolist() == [3, 3, 7]


def test_a_real_image_is_scored_against_the_others_of_its_person_only():
    features = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(others_scores(features, np.array([5, 5, 9])), [0.0, 0.0])  # 9 has one image: none


def test_an_image_is_refused_for_one_stated_reason():
    found = judge(table([0.9, 0.2, 0.8], [1, 1, 2], [1, 1, 1]), config(min_score=0.3))
    assert found.reject_reason.tolist() == ["", "low-score", "another-person"]
    assert found.kept.tolist() == [True, False, False]
    everything = judge(table([0.9, 0.2, 0.8], [1, 1, 2], [1, 1, 1]), config(nearest=False))
    assert everything.kept.all()


def test_only_the_best_share_is_kept_and_equal_scores_do_not_depend_on_the_order_of_files():
    scores = [0.5, 0.5, 0.9, 0.1]
    kept = judge(table(scores), config(keep=50))
    assert set(kept.key[kept.kept]) == {"k1", "k2"}
    turned = judge(table(scores).iloc[::-1].reset_index(drop=True), config(keep=50))
    assert set(turned.key[turned.kept]) == {"k1", "k2"}
    assert set(turned.reject_reason) == {"", "not-among-the-best"}


def test_the_summary_counts_people_cameras_and_thresholds():
    checked = judge(table([0.95, 0.25, 0.55, 0.05], [1, 1, 2, 3], [1, 1, 2, 1]), config(min_score=0.5))
    summary = summarize(checked, np.array([0.7, 0.9]))
    assert (summary["images"], summary["kept"], summary["identities"]) == (4, 2, 3)
    assert summary["identities_without_any_kept"] == 1
    assert summary["rejected"] == {"low-score": 1, "another-person": 1}
    assert summary["cameras"] == {"1": [2, 2], "2": [0, 2]}
    assert summary["share_at_threshold"]["0.5"] == 0.5 and summary["share_at_threshold"]["0.2"] == 0.75
    assert summary["real_score_quantiles"]["0.5"] == pytest.approx(0.8)


def test_an_empty_set_is_a_finding_and_no_crash():
    empty = judge(table([]).astype({"id_score": float}), config(min_score=0.5))
    assert summarize(empty, np.empty(0))["images"] == 0
