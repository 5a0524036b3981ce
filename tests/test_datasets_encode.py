"""Encoded shards hold what the frozen models give, byte for byte again after a kill, mirrored consistently."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from datasets import encode
from datasets.artifacts import build, partial_directory
from datasets.config import EncodeConfig, ImportPosesConfig, IndexConfig, WriteShardsConfig
from datasets.encode import load_image_encoder, load_vae, make_encoded, view_pixels
from datasets.encoded import EncodedImages, keypoints_from_json, keypoints_to_json
from datasets.errors import ArtifactError, InputError, WeightsError
from datasets.shards import make_shards
from datasets.skeleton import flip_keypoints
from datasets.tars import read_samples
from tests.small_sets import make, market_files, pose_csv, write_files

HEIGHT, WIDTH = 48, 24


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders 'vae', 'dino' and 'clip' with tiny random models."""
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderKL(
            block_out_channels=(8, 8, 8), norm_num_groups=4, latent_channels=4, mid_block_add_attention=False,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, scaling_factor=0.7,
        ).save_pretrained(folder / "vae")  # fmt: skip
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
        Dinov2Model(Dinov2Config(image_size=48, **sizes)).save_pretrained(folder / "dino")
        clip = CLIPVisionConfig(image_size=48, intermediate_size=32, **sizes)
        CLIPVisionModel(clip).save_pretrained(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of 12 training images of 32x64 pixels."""
    folder = tmp_path_factory.mktemp("shards")
    files, store = market_files(), folder / "store"
    index = make(IndexConfig(root=write_files(folder / "set", files), workers=1), store)
    poses = make(ImportPosesConfig(images=index, csv=[pose_csv(folder, files)]), store)
    return build(WriteShardsConfig(images=index, poses=poses, images_per_shard=4), make_shards, store=store)


def config_of(shards: Path, models: Path, **fields: object) -> EncodeConfig:
    sizes = {"view_height": HEIGHT, "view_width": WIDTH, "token_height": HEIGHT, "token_width": WIDTH, "batch_size": 3}
    given = {"vae": models / "vae", "image_encoder": models / "dino", "device": "cpu", **sizes, **fields}
    return EncodeConfig(shards=shards, **given)


@pytest.fixture(scope="module")
def encoded(shards: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(config_of(shards, models), make_encoded, store=tmp_path_factory.mktemp("encoded"))


def picture(shards: Path, key: str) -> Image.Image:
    return Image.open(next((shards.parents[2] / "set").rglob(f"{key}.jpg"))).convert("RGB")


def test_latents_and_tokens_are_those_of_the_models_for_each_image_alone(
    encoded: Path, shards: Path, models: Path
) -> None:
    images = EncodedImages(encoded)
    vae, encoder = load_vae(models / "vae"), load_image_encoder(models / "dino")
    pixels = view_pixels([picture(shards, images.keys[7])], HEIGHT, WIDTH)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in encode.PIXEL_STATISTICS["Dinov2Model"])
    for mirrored in (False, True):
        seen = pixels.flip(-1) if mirrored else pixels
        latents = vae.encode(seen * 2 - 1).latent_dist.mean * 0.7
        tokens = encoder((seen - mean) / std).last_hidden_state
        torch.testing.assert_close(images.latents([7], mirrored), latents, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(images.tokens([7], mirrored), tokens, atol=5e-3, rtol=5e-3)


def test_the_reader_knows_shapes_people_and_faces(encoded: Path) -> None:
    images = EncodedImages(encoded)
    assert (images.view_size, images.latent_shape, images.token_shape) == ((48, 24), (4, 12, 6), (1 + 6 * 3, 16))
    assert len(images) == 12 and sorted(map(len, images.by_pid.values())) == [3, 3, 3, 3]
    assert all(images.pids[i] == pid for pid, members in images.by_pid.items() for i in members)
    both = images.latents([4, 4], mirrored=[False, True])
    assert both.dtype == torch.float32 and both.shape == (2, 4, 12, 6)
    assert torch.equal(both[1:], images.latents([4], True)) and not torch.equal(both[0], both[1])


def test_keypoints_are_in_view_pixels_and_mirror_with_their_names(encoded: Path, shards: Path) -> None:
    images = EncodedImages(encoded)
    source = dict(_sample_keypoints(shards))
    for index, key in enumerate(images.keys):
        there = ~np.isnan(source[key][:, 0])
        expected = (source[key][there, :2] + 0.5) * [WIDTH / 32, HEIGHT / 64] - 0.5
        np.testing.assert_allclose(images.keypoints(index)[there, :2], expected, atol=1e-3)
    plain, mirrored = images.keypoints(0), images.keypoints(0, mirrored=True)
    np.testing.assert_allclose(mirrored[2, 0], WIDTH - 1 - plain[5, 0])  # the right shoulder was the left one
    np.testing.assert_allclose(flip_keypoints(mirrored, WIDTH), plain)


def _sample_keypoints(shards: Path) -> Iterator[tuple[str, np.ndarray]]:
    for path in sorted(shards.glob("*.tar")):
        for key, members in read_samples(path):
            yield key, keypoints_from_json(json.loads(members["json"])["keypoints"])


def test_missing_joints_survive_the_round_trip_through_json() -> None:
    keypoints = np.random.default_rng(0).uniform(0, 20, (18, 3)).astype(np.float32)
    keypoints[3] = np.nan, np.nan, 0
    np.testing.assert_allclose(keypoints_from_json(keypoints_to_json(keypoints)), keypoints, atol=1e-3)


def test_an_interrupted_encoding_goes_on_by_shard_to_the_same_bytes(
    encoded: Path, shards: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, begun = tmp_path / "again", []
    original = encode._encode_shard

    def stop_at_second(shard: Path, *rest: object) -> None:
        begun.append(shard.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        original(shard, *rest)

    monkeypatch.setattr(encode, "_encode_shard", stop_at_second)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        build(config_of(shards, models), make_encoded, output=output)
    assert begun[0] in [path.name for path in partial_directory(output).glob("*.tar")]
    assert not (partial_directory(output) / begun[1]).exists()
    build(config_of(shards, models), make_encoded, output=output)
    assert begun.count(begun[0]) == 1
    names = sorted(path.name for path in encoded.iterdir() if path.name != "manifest.json")
    assert len(names) > 2
    assert all((encoded / name).read_bytes() == (output / name).read_bytes() for name in names)


def test_a_reader_can_be_limited_to_some_keys_but_not_to_unknown_ones(encoded: Path) -> None:
    everything = EncodedImages(encoded)
    wanted = [everything.keys[9], everything.keys[2]]
    some = EncodedImages(encoded, keys=wanted)
    assert some.keys == wanted[::-1]
    assert torch.equal(some.tokens([0, 1]), everything.tokens([2, 9]))
    with pytest.raises(InputError, match="absent: nobody"):
        EncodedImages(encoded, keys=[*wanted, "nobody"])


def test_mirrored_features_are_refused_where_they_were_not_made(shards: Path, models: Path, tmp_path: Path) -> None:
    images = EncodedImages(build(config_of(shards, models, mirrored=False), make_encoded, store=tmp_path))
    assert images.latents([0, 1]).shape == (2, 4, 12, 6)
    with pytest.raises(InputError, match="--mirrored"):
        images.latents([0, 1], mirrored=[False, True])


def test_a_clip_encoder_sees_the_whole_person_too(shards: Path, models: Path, tmp_path: Path) -> None:
    config = config_of(shards, models, image_encoder=models / "clip")
    assert EncodedImages(build(config, make_encoded, store=tmp_path)).token_shape == (1 + 6 * 3, 16)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"view_width": 26}, InputError, "multiples of 4"),
        ({"token_height": 44}, InputError, "multiples of 8"),
        ({"device": "abacus"}, InputError, "device 'abacus'"),
    ],
)
def test_settings_that_do_not_fit_the_models_are_refused_before_work(
    shards: Path, models: Path, tmp_path: Path, fields: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(config_of(shards, models, **fields), make_encoded, store=tmp_path)


def test_models_of_another_kind_or_with_missing_weights_are_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="Dinov2Model or a CLIPVisionModel"):
        load_image_encoder(models / "vae")
    Dinov2Model(
        Dinov2Config(image_size=48, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    ).save_pretrained(tmp_path, state_dict=load_image_encoder(models / "dino").state_dict())
    with pytest.raises(WeightsError, match=r"lacks weights|cannot be loaded"):
        load_image_encoder(tmp_path)


def test_a_reader_names_a_damaged_file(shards: Path, models: Path, tmp_path: Path) -> None:
    directory = build(config_of(shards, models), make_encoded, store=tmp_path)
    tar = sorted(directory.glob("*.tar"))[0]
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(ArtifactError, match="damaged"):
        EncodedImages(directory)
