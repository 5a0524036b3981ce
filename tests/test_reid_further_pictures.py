"""Features averaged with further pictures of test images; folders as other generators publish them."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from datasets.runtime.artifacts import build
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import ArtifactError, DatasetLayoutError, InputError
from datasets.sources.folders.image_folders import iterate_folder
from datasets.sources.folders.output_forms import published_table
from reid.config import CentralizeConfig, EvaluateReidConfig, NfcConfig
from reid.data.training_set import has_provenance, read_synthetic_table
from reid.evaluation.averaging import corner_crops, sum_by_source
from reid.evaluation.embedding import NetworkEmbedder
from reid.evaluation.evaluate import load_network, make_evaluation
from tests.test_reid_export import picture, world  # noqa: F401 - a fixture

QUERIES = [f"{pid:04d}_c1s1_{i:06d}_01" for pid in range(11, 15) for i in range(2)]
GALLERY = [f"{pid:04d}_c{2 + i}s1_{i:06d}_01" for pid in range(11, 15) for i in range(3)]


class DrawnConfig(StageConfig):
    stage: ClassVar[str] = "draw-poses"
    package: ClassVar[str] = "tests"
    seen: int | None
    pose: str


def save(folder, names, suffix=".jpg", noise=20):
    rng = np.random.default_rng(len(names))
    for name in names:
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pid = int(path.name[:4])
        image = np.clip(picture(pid, rng) + rng.normal(0, noise, (32, 16, 3)), 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Test images under Market-1501's names, and two further pictures of each as Pose2ID publishes them."""
    root = tmp_path_factory.mktemp("people")
    save(root / "query", QUERIES, noise=200)
    save(root / "bounding_box_test", GALLERY, noise=200)
    for pose in ("pose1", "pose2"):
        save(root / "query_gen" / pose, QUERIES, noise=0)
        save(root / "bounding_box_test_gen" / pose, GALLERY, noise=0)
    return root


def test_pose2ids_folders_tell_the_source_by_name_and_no_pose(people):
    table = published_table(people)
    assert len(table) == 2 * (len(QUERIES) + len(GALLERY))
    row = table.set_index("key").loc["query_gen_pose2_0012_c1s1_000001_01"]
    assert (row.pid, row.camid, row.source_keys) == (12, 1, ["0012_c1s1_000001_01"])
    assert not has_provenance(table)  # the poses are unknown
    inner = published_table(people / "query_gen")  # a sub-folder by itself is read as well
    assert inner.key.tolist()[0] == "pose1_0011_c1s1_000000_01"


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("0002_c1s1_000451_03_to_0007_c3s1_000001_01", ".png"),  # PCDMs
        ("0002_c1s1_000451_03_2_0007_c3s1_000001_01_vis", ".jpg"),  # GFLA and what followed it
        ("0002_c1s1_000451_03_2_0007_c3s1_000001_01", ".png"),
        ("0002_c1s1_000451_03.jpg___0007_c3s1_000001_01.jpg_vis", ".jpg"),  # PATN
    ],
)
def test_names_of_source_and_target_become_labels_and_provenance(tmp_path, name, suffix):
    save(tmp_path, [name], suffix)
    table = read_synthetic_table(tmp_path)
    assert has_provenance(table)
    (row,) = table.to_dict("records")
    assert (row["pid"], row["camid"], row["source_keys"]) == (2, 1, ["0002_c1s1_000451_03"])
    assert row["target_pose_key"] == "0007_c3s1_000001_01"
    ((facts, data),) = iterate_folder(tmp_path, "synthetic")
    assert facts["key"] == row["key"] and data


def test_a_picture_of_another_form_is_named_and_not_left_out(tmp_path):
    save(tmp_path, ["0002_c1s1_000451_03_to_0007_c3s1_000001_01"], ".png")
    save(tmp_path, ["0009_grid"], ".png")
    with pytest.raises(DatasetLayoutError, match=r"0009_grid\.png is not named as the first picture, SOURCE_to_TARGET"):
        published_table(tmp_path)
    names = tmp_path / "names"
    save(names, ["0002_c1s1_000451_03"])
    assert published_table(names) is None  # Market-1501's own names stay what they were


def test_sums_are_those_of_each_images_own_pictures():
    def embed(pixels):
        return pixels.float().mean(dim=(1, 2, 3))[:, None].numpy()

    def samples():
        import io

        for key, value in (("a", 10), ("b", 30), ("c", 50), ("unnamed", 200)):
            file = io.BytesIO()
            Image.new("RGB", (16, 32), (value,) * 3).save(file, "PNG")
            yield {"key": key}, file.getvalue()

    sums, counts = sum_by_source(
        Path("a"), embed, samples(), {"a": "x", "b": "y", "c": "x"}, ["w", "x", "y"], (32, 16), 1
    )
    assert sums[:, 0].tolist() == [0, 60, 30] and counts.tolist() == [0, 2, 1]
    both = ["x", "y", "x"]  # a query that lies in the gallery too, under its own name
    sums, counts = sum_by_source(Path("a"), embed, samples(), {"a": "x", "b": "y", "c": "x"}, both, (32, 16), 1)
    assert sums[:, 0].tolist() == [60, 30, 60] and counts.tolist() == [2, 1, 2]


def test_crops_move_the_image_towards_its_corners():
    image = torch.arange(1, 52 * 3 * 4 + 1, dtype=torch.int64).reshape(1, 3, 52, 4).to(torch.uint8)
    first, *_, last = corner_crops(image)
    assert torch.equal(first[:, :, 2:, 2:], image[:, :, :-2, :-2]) and (first[:, :, :2] == 0).all()
    assert torch.equal(last[:, :, :-2, :-2], image[:, :, 2:, 2:])


def evaluate_config(world, people, **fields):  # noqa: F811
    return EvaluateReidConfig(run=world["run"], test_shards=people, device="cpu", **fields)


def test_further_pictures_are_averaged_in_columns_of_their_own(world, people, tmp_path):  # noqa: F811
    entries = [CentralizeConfig(images=people, weight=2.0), CentralizeConfig(name="flips", control="flip")]
    config = evaluate_config(world, people, centralize=entries, nfc=NfcConfig())
    metrics = make_evaluation(config, tmp_path)
    plain = make_evaluation(evaluate_config(world, people), tmp_path / "..")
    assert {name: metrics[name] for name in plain} == plain
    table = pd.read_parquet(tmp_path / "test_time.parquet")
    assert table.variant.tolist() == ["plain", "nfc", "centralized", "centralized_nfc", "flips", "flips_nfc"]
    assert metrics["centralized_map"] > metrics["map"]  # the further pictures have less noise
    facts = metrics["centralize"]["centralized"]
    assert (facts["pictures"], facts["images_with_pictures"], facts["weight"]) == (40, 20, 2.0)
    assert facts["provenance"] == "unknown" and metrics["centralize"]["flips"]["control"] == "flip"


def test_a_set_that_does_not_fit_is_refused_before_any_picture_is_embedded(world, people, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(NetworkEmbedder, "__call__", lambda *_: pytest.fail("embedded"))
    save(tmp_path / "others", ["0099_c1s1_000451_03_to_0007_c3s1_000001_01"], ".png")
    entries = [CentralizeConfig(images=people), CentralizeConfig(name="others", images=tmp_path / "others")]
    with pytest.raises(InputError, match="expected one query or gallery image of the test set"):
        make_evaluation(evaluate_config(world, people, centralize=entries), tmp_path)


def test_an_averaged_feature_is_the_own_one_plus_weight_times_the_mean(world, people):  # noqa: F811
    from reid.data.images import read_images
    from reid.evaluation.averaging import averaged_features, picture_sources
    from reid.evaluation.features import features_of

    network, _ = load_network(world["run"])
    query, gallery = (read_images(people, split, (32, 16)) for split in ("query", "gallery"))
    embed = NetworkEmbedder(network, torch.device("cpu"))
    plain = features_of(embed, query, gallery)
    config = evaluate_config(world, people, centralize=[CentralizeConfig(images=people, weight=2.0)])
    sources = picture_sources(config, [*query.keys, *gallery.keys])
    found = averaged_features(config, embed, (query, gallery), plain, sources)
    drawn = read_images(people, "synthetic", (32, 16))
    own = [i for i, key in enumerate(drawn.keys) if key.endswith(gallery.keys[4])]
    assert len(own) == 2
    expected = plain[1].values[4] + 2 * embed(drawn.pixels[own]).mean(axis=0)
    np.testing.assert_allclose(found["centralized"].pair[1][4], expected, rtol=1e-4, atol=1e-5)


def drawn_set(store, people, seen, pose):
    """A set as `imagpose draw-poses` makes it."""

    def make(_config, folder):
        save(folder, ["0011_c1s0_000000_00"])
        rows = {"key": ["0011_c1s0_000000_00"], "path": "0011_c1s0_000000_00.jpg", "pid": 11, "camid": 1}
        table = pd.DataFrame({**rows, "source_keys": [[QUERIES[0]]], "target_pose_key": pose, "status": "ok"})
        table.to_parquet(folder / "synthetic.parquet")
        return {"test_identities_seen": seen}

    return build(DrawnConfig(seen=seen, pose=pose), make, store=store)


def test_a_generator_that_has_seen_test_identities_is_refused_under_leak_free(world, people, tmp_path):  # noqa: F811
    from reid.data.further_pictures import sources_of

    keys = [*QUERIES, *GALLERY]
    good, seen = drawn_set(tmp_path, people, 0, "a-training-image"), drawn_set(tmp_path, people, 3, "a-training-image")
    assert sources_of(good, keys, "leak-free") == {"0011_c1s0_000000_00": QUERIES[0]}
    with pytest.raises(InputError, match="has seen 3 of the test identities"):
        sources_of(seen, keys, "leak-free")
    assert sources_of(seen, keys, "paper")
    with pytest.raises(InputError, match="has the pose of another test image"):
        sources_of(drawn_set(tmp_path, people, 0, QUERIES[3]), keys, "leak-free")
    assert sources_of(drawn_set(tmp_path, people, 0, QUERIES[0]), keys, "leak-free")  # its own: a reconstruction
    with pytest.raises(InputError, match="expected one query or gallery image of the test set"):
        sources_of(good, GALLERY, "leak-free")


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="either 'images' or 'control'"):
        CentralizeConfig()
    with pytest.raises(ValueError, match="'nfc' is taken"):
        CentralizeConfig(name="nfc", control="flip")
    with pytest.raises(ValueError, match="'centralize' needs 'run'"):
        EvaluateReidConfig(features="f.parquet", centralize=[CentralizeConfig(control="flip")])
    with pytest.raises(ValueError, match="two entries of 'centralize' are called 'centralized'"):
        entries = [CentralizeConfig(control="flip"), CentralizeConfig(control="crops")]
        EvaluateReidConfig(run="run", test_shards="shards", centralize=entries)


def test_seconds_of_drawing_count_each_drawn_image_with_its_encoding(tmp_path):
    from datasets.runtime.manifests import manifest_of
    from reid.data.further_pictures import drawing_seconds
    from tests import small_sets

    (tmp_path / "encoded").mkdir()
    encoded = small_sets.finish(tmp_path / "encoded", "encode", summary={"samples": 10}, seconds=5.0)
    inputs = {"encoded": {"path": str(encoded), "sha256": manifest_of(encoded)["content_sha256"]}}
    (tmp_path / "set" / "logs").mkdir(parents=True)
    (tmp_path / "set" / "logs" / "drawing.json").write_text('{"pictures": 6, "seconds": 3.0}')  # resumed: not all
    summary = {"images": 24, "drawn_images": 8}
    drawn = small_sets.finish(tmp_path / "set", "draw-poses", inputs=inputs, summary=summary)
    assert drawing_seconds(drawn) == pytest.approx(3 * 0.5 + 0.5)  # three pictures an image, and its encoding
    (encoded / "manifest.json").unlink()
    assert drawing_seconds(drawn) == pytest.approx(1.5)
    (drawn / "logs" / "drawing.json").write_text('{"pictures": "6", "seconds": 3.0}')
    small_sets.forge(drawn)
    with pytest.raises(ArtifactError, match=r"drawing\.json .*pictures"):
        drawing_seconds(drawn)
    assert drawing_seconds(encoded) is None
