"""Training identities held out for choosing settings."""

import pytest

from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from datasets.sources.config import IndexConfig
from datasets.sources.holdout import hold_identities_out
from datasets.sources.index import read_index
from tests.small_sets import make, market_root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return market_root(tmp_path_factory.mktemp("holdout"), identities=8, images=7)


def index(root, tmp_path, **settings):
    return make(IndexConfig(root=root, workers=1, **settings), tmp_path)


def test_held_out_people_become_query_and_gallery_and_the_data_sets_own_test_images_are_left_out(root, tmp_path):
    folder = index(root, tmp_path, validation_identities=3)
    images, whole = read_index(folder), read_index(index(root, tmp_path))
    train = whole[whole.split == "train"]
    assert set(images.path) == set(train.path)
    people = {split: set(rows.pid) for split, rows in images.groupby("split")}
    assert len(people["query"]) == 3 and people["query"] == people["gallery"]
    assert people["train"] == set(train.pid) - people["query"]
    queries = images[images["split"] == "query"]
    cameras = train[train.pid.isin(people["query"])].groupby("pid").camid.nunique()
    assert (
        queries.groupby("pid").camid.nunique().to_dict() == queries.groupby("pid").size().to_dict() == cameras.to_dict()
    )
    assert "deviations" not in manifest_of(folder)["summary"]


def test_who_is_held_out_depends_on_the_seed_alone(root, tmp_path):
    def held_out(seed):
        images = read_index(index(root, tmp_path, validation_identities=3, seed=seed))
        return set(images[images["split"] == "query"].path)

    assert held_out(0) == held_out(0) and held_out(0) != held_out(1)


def test_nobody_seen_by_one_camera_is_held_out_and_too_few_people_are_refused():
    rows = [
        {"path": f"{pid}_{i}", "pid": pid, "camid": 1 + i * (pid > 2), "split": "train", "role": "person"}
        for pid in range(6)
        for i in range(2)
    ]
    assert {row["pid"] for row in hold_identities_out(rows, 3, 0) if row["split"] != "train"} == {3, 4, 5}
    with pytest.raises(InputError, match="validation_identities 4: of 6 training identities 3 were seen by two"):
        hold_identities_out(rows, 4, 0)
    assert all(row["split"] == "train" for row in rows)
