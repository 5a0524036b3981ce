"""Training subsets: nested, seeded, exact in size, nobody left out."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from datasets.runtime.errors import ArtifactError, InputError
from datasets.runtime.manifests import manifest_of
from datasets.sources.config import IndexConfig, SelectSubsetsConfig
from datasets.sources.index import read_index
from datasets.sources.subsets import SCHEMA, SUBSETS_FILE, draw_order, read_subset, subset_size
from tests.small_sets import jpeg, make, market_files, write_files


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subsets")
    files = market_files(identities=10, images=9)
    files["bounding_box_train/0002_c1s1_000000_01.jpg"] = b""  # unusable
    return make(IndexConfig(root=write_files(folder / "set", files), workers=1, max_error_percent=5), folder / "store")


def names(count):
    return np.array([f"{i:05d}" for i in range(count)])


def members(keys, pids, fraction, seed=0):
    size = subset_size(len(keys), len(set(pids)), fraction)
    return set(keys[draw_order(keys, pids, seed, 0)[:size]])


def subsets(index, tmp_path, **settings):
    return make(SelectSubsetsConfig(images=index, **settings), tmp_path)


def test_subsets_are_nested_and_hold_every_identity(index, tmp_path):
    directory = subsets(index, tmp_path, fractions=[20, 40, 60, 80, 100], draws=2)
    images = read_index(index).set_index("key")
    for draw in range(2):
        smaller: set[str] = set()
        for fraction, size in ((20, 18), (40, 36), (60, 53), (80, 71), (100, 89)):
            keys = read_subset(directory, fraction, draw)
            assert len(keys) == size and keys == sorted(keys) and smaller < set(keys)
            assert images.loc[keys, "pid"].nunique() == 10
            smaller = set(keys)
        assert set(images.loc[sorted(smaller), "split"]) == {"train"} and set(images.loc[sorted(smaller), "role"]) == {
            "person"
        }


def test_draws_differ_and_a_seed_gives_the_same_subset_again(index, tmp_path):
    directory = subsets(index, tmp_path, draws=2, seed=3)
    assert read_subset(directory, 40, 0) != read_subset(directory, 40, 1)
    other = read_subset(subsets(index, tmp_path, draws=1, seed=4), 40, 0)
    assert other not in (read_subset(directory, 40, 0), read_subset(directory, 40, 1))
    assert read_subset(subsets(index, tmp_path, fractions=[40], seed=3), 40) == read_subset(directory, 40)


def test_a_tiny_fraction_still_has_one_image_of_each_identity():
    assert subset_size(100, 30, 20) == 30 and subset_size(100, 3, 20) == 20
    pids = np.repeat(np.arange(30), [1] * 15 + [8] * 15)
    order = draw_order(names(len(pids)), pids, 0, 0)
    assert sorted(pids[order[:30]]) == list(range(30)) and sorted(order) == list(range(len(pids)))


def test_beyond_the_first_images_the_choice_is_uniform():
    pids = np.repeat([0, 1], [2, 8])
    chosen = np.stack([np.bincount(draw_order(names(10), pids, 0, draw)[:5], minlength=10) for draw in range(4000)])
    second_of_the_rare = chosen[:, :2].sum(1) - 1
    assert abs(second_of_the_rare.mean() - 3 / 8) < 0.03  # 3 places among the 8 images that are not first
    assert np.abs(chosen[:, :2].mean(0) - (0.5 + 3 / 16)).max() < 0.03  # nobody's images are preferred
    assert np.abs(chosen[:, 2:].mean(0) - (1 / 8 + 7 / 8 * 3 / 8)).max() < 0.03


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(2, 12), min_size=3, max_size=25),
    changes=st.integers(1, 5),
    fraction=st.sampled_from([20, 40, 60, 80]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_a_few_images_more_or_less_change_as_few_members_of_a_subset(counts, changes, fraction, seed, data):
    pids = np.repeat(np.arange(len(counts)), counts)
    keys = names(len(pids))
    gone = data.draw(st.sets(st.integers(0, len(pids) - 1), min_size=1, max_size=changes))
    left = np.setdiff1d(np.arange(len(pids)), list(gone))
    before, after = (members(keys[rows], pids[rows], fraction, seed) for rows in (np.arange(len(pids)), left))
    # Besides the image itself: the one that takes its place, the one that now is its identity's first, and the size.
    assert len(before ^ after) <= 5 * len(gone)


def test_at_market1501s_size_one_image_more_changes_a_member_or_two():
    counts = np.random.default_rng(0).integers(6, 30, 751)
    pids = np.repeat(np.arange(751), counts)
    keys = names(len(pids))
    whole = members(keys, pids, 20)
    for lost in (1, 50):
        rows = np.sort(np.random.default_rng(lost).permutation(len(pids))[lost:])
        assert (
            len(whole - members(keys[rows], pids[rows], 20)) <= 2 * lost
        )  # where a draw by position kept 44 and 21 % of them


def index_of(folder, train):
    """An index whose training images are these files."""
    files = {name: content for name, content in market_files().items() if "train" not in name} | train
    return make(IndexConfig(root=write_files(folder / "set", files), workers=1), folder / "store")


def test_the_summary_counts_what_a_subset_lacks(tmp_path):
    cameras = {2: [1], 3: [1, 2], 4: [3, 3, 3], 5: [1, 2, 3, 4], 6: [1, 1, 2, 2, 3], 7: [2], 8: [1, 2, 3, 4, 5, 6]}
    names = [f"{pid:04d}_c{camera}s1_{i:06d}_01.jpg" for pid, of in cameras.items() for i, camera in enumerate(of)]
    index = index_of(tmp_path, {f"bounding_box_train/{name}": jpeg(seed) for seed, name in enumerate(names, 1000)})
    summary = manifest_of(subsets(index, tmp_path, fractions=[100]))["summary"]
    whole = {
        "draw": 0,
        "fraction": 100,
        "images": 22,
        "identities": 7,
        "identities with one image": 2,
        "identities with fewer than four images": 4,
        "identities at one camera": 3,
    }
    assert summary == {"training images": 22, "identities": 7, "subsets": [whole]}


def test_the_table_has_its_columns_and_nothing_of_pandas(index, tmp_path):
    found = pq.read_schema(subsets(index, tmp_path) / SUBSETS_FILE)
    assert found.equals(SCHEMA) and found.metadata is None


def test_a_set_without_a_training_image_of_a_person_is_refused(tmp_path):
    index = index_of(tmp_path, {"bounding_box_train/Thumbs.db": b""})
    with pytest.raises(InputError, match=f"{index} has no usable training image of a person; index"):
        subsets(index, tmp_path)


def test_a_subset_that_is_not_there_and_fractions_that_are_no_percentages_are_refused(index, tmp_path):
    with pytest.raises(InputError, match=r"no subset of 30 % in draw 0; it has .*\[\(0, 20\), \(0, 40\)\]"):
        read_subset(subsets(index, tmp_path, fractions=[20, 40]), 30)
    with pytest.raises(ArtifactError, match="'select-subsets'"):
        read_subset(index, 20)
    for fractions in ([0], [101], [20, 20], [0.2], []):
        with pytest.raises(ValidationError):
            SelectSubsetsConfig(images=index, fractions=fractions)
