"""Encoded shards hold what the frozen models give, byte for byte again after a kill, flipped consistently."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from datasets.poses.config import ImportPosesConfig
from datasets.poses.skeleton import flip_keypoints
from datasets.runtime.artifacts import build
from datasets.runtime.errors import ArtifactBusyError, ArtifactError, InputError, WeightsError
from datasets.runtime.keys import artifact_directory, partial_directory
from datasets.runtime.manifests import is_complete, manifest_of
from datasets.shards import encode
from datasets.shards.config import EncodeConfig, WriteShardsConfig
from datasets.shards.encode import make_encoded
from datasets.shards.encoded import EncodedImages, keypoints_from_json, keypoints_to_json
from datasets.shards.encoders_used import other_encoders, refuse_other_encoders
from datasets.shards.frozen_models import load_image_encoder, load_vae, view_pixels
from datasets.shards.image_encoders import DINOV2
from datasets.shards.tars import read_samples
from datasets.shards.write import make_shards
from datasets.sources.config import IndexConfig
from tests.small_sets import jpeg, make, market_files, pose_csv, write_files

HEIGHT, WIDTH = 48, 24


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders 'vae', 'dino' and 'clip' with tiny random models."""
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderKL(
            block_out_channels=(8, 8, 8),
            norm_num_groups=4,
            latent_channels=4,
            mid_block_add_attention=False,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            scaling_factor=0.7,
        ).save_pretrained(folder / "vae")
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
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (DINOV2.mean, DINOV2.std))
    for flipped in (False, True):
        seen = pixels.flip(-1) if flipped else pixels
        latents = vae.encode(seen * 2 - 1).latent_dist.mean * 0.7
        tokens = encoder((seen - mean) / std).last_hidden_state
        torch.testing.assert_close(images.latents([7], flipped), latents, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(images.tokens([7], flipped), tokens, atol=5e-3, rtol=5e-3)


def test_the_reader_knows_shapes_people_and_faces(encoded: Path) -> None:
    images = EncodedImages(encoded)
    assert (images.view_size, images.latent_shape, images.token_shape) == ((48, 24), (4, 12, 6), (1 + 6 * 3, 16))
    assert len(images) == 12 and sorted(map(len, images.by_pid.values())) == [3, 3, 3, 3]
    assert all(images.pids[i] == pid for pid, members in images.by_pid.items() for i in members)
    both = images.latents([4, 4], flipped=[False, True])
    assert both.dtype == torch.float32 and both.shape == (2, 4, 12, 6)
    assert torch.equal(both[1:], images.latents([4], True)) and not torch.equal(both[0], both[1])


def test_keypoints_are_in_view_pixels_and_flip_with_their_names(encoded: Path, shards: Path) -> None:
    images = EncodedImages(encoded)
    source = dict(_sample_keypoints(shards))
    for index, key in enumerate(images.keys):
        there = ~np.isnan(source[key][:, 0])
        expected = (source[key][there, :2] + 0.5) * [WIDTH / 32, HEIGHT / 64] - 0.5
        np.testing.assert_allclose(images.keypoints(index)[there, :2], expected, atol=1e-3)
    plain, flipped = images.keypoints(0), images.keypoints(0, flipped=True)
    np.testing.assert_allclose(flipped[2, 0], WIDTH - 1 - plain[5, 0])  # the right shoulder was the left one
    np.testing.assert_allclose(flip_keypoints(flipped, WIDTH), plain)


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

    def stop_at_second(shard: dict[str, object], *rest: object) -> None:
        begun.append(shard["name"])
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


NURSERY = """
import os, sys
from pathlib import Path
from datasets.runtime.artifacts import build
from datasets.shards.config import EncodeConfig
from datasets.shards.encode import make_encoded
import diffusers.models.autoencoders.autoencoder_kl, transformers.models.dinov2.modeling_dinov2
config = EncodeConfig.model_validate_json(Path(sys.argv[1]).read_text())
for store in sys.stdin:
    pid = os.fork()
    if pid == 0:
        build(config, make_encoded, store=Path(store.strip()))
        os._exit(0)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""
"""Starts one child per line, so that the libraries are imported once for all kills."""


def test_killed_while_encoding_and_run_again_the_set_is_byte_identical(
    encoded: Path, shards: Path, models: Path, tmp_path: Path, repository: Path
) -> None:
    config = config_of(shards, models)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    whole = {path.name: path.read_bytes() for path in encoded.iterdir() if path.name != "manifest.json"}
    command = [sys.executable, "-c", NURSERY, str(tmp_path / "config.json")]
    caught = Counter()
    with subprocess.Popen(command, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        for wanted in (0, 1, 2):  # killed once so many shards are there
            store = tmp_path / f"killed-{wanted}"
            directory = artifact_directory(config, store)
            nursery.stdin.write(f"{store}\n")
            nursery.stdin.flush()
            child, deadline = int(nursery.stdout.readline()), time.monotonic() + 60
            while len(list(store.rglob("train-*.tar"))) < wanted and time.monotonic() < deadline:
                time.sleep(0.002)
            os.kill(child, signal.SIGKILL)
            assert nursery.stdout.readline() == "ended\n"
            caught[is_complete(directory)] += 1
            assert is_complete(directory) or not directory.exists()
            build(config, make_encoded, store=store)
            assert {p.name: p.read_bytes() for p in directory.iterdir() if p.name != "manifest.json"} == whole
        nursery.stdin.close()
    assert caught[False] >= 2  # the kills really hit the work


def test_shards_that_did_not_change_are_taken_over_from_an_earlier_artifact(models: Path, tmp_path: Path) -> None:
    files = market_files(identities=60, images=2)
    store, added = tmp_path / "store", "bounding_box_train/0030_c6s1_009999_01.jpg"
    poses = pose_csv(tmp_path, {**files, added: b""})

    def encode_all(files: dict[str, bytes], store: Path, **fields: object) -> Path:
        index = make(IndexConfig(root=write_files(tmp_path / "set", files), workers=1), tmp_path / "store")
        skeletons = make(ImportPosesConfig(images=index, csv=[poses]), tmp_path / "store")
        shards = make(WriteShardsConfig(images=index, poses=skeletons, images_per_shard=16), tmp_path / "store")
        return build(config_of(shards, models, **fields), make_encoded, store=store)

    def counts(directory: Path) -> tuple[int, int, int]:
        summary = manifest_of(directory)["summary"]
        return summary["shards_encoded"], summary["shards_kept"], summary["shards_reused"]

    first = encode_all(files, store)
    shards = len(list(first.glob("*.tar")))
    assert counts(first) == (shards, 0, 0) and shards >= 6
    second = encode_all({**files, added: jpeg(4242)}, store)
    assert counts(second) == (1, 0, shards - 1)
    fresh = encode_all({**files, added: jpeg(4242)}, tmp_path / "fresh")
    assert all((fresh / path.name).read_bytes() == path.read_bytes() for path in second.glob("*.tar"))
    other = encode_all({**files, added: jpeg(4242)}, store, flipped=False)
    assert counts(other) == (shards, 0, 0)


def test_a_full_disk_while_encoding_is_told_and_the_next_run_goes_on(
    encoded: Path, shards: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, []

    def full_at_the_second(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr("datasets.shards.tars.os.fsync", full_at_the_second)
    with pytest.raises(InputError, match="no space left while making"):
        build(config_of(shards, models), make_encoded, store=tmp_path)
    directory = build(config_of(shards, models), make_encoded, store=tmp_path)
    # Two were written before the disk was full, and the thread may have begun one more before it was stopped.
    assert manifest_of(directory)["summary"]["shards_kept"] in (2, 3)
    assert all((encoded / path.name).read_bytes() == path.read_bytes() for path in directory.glob("*.tar"))


def test_two_writers_do_not_meet(shards: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, config = encode.write_tar, config_of(shards, models)

    def tries_again_inside(path: Path, members: Iterator[tuple[str, bytes]]) -> None:
        with pytest.raises(ArtifactBusyError, match="another process is making"):
            build(config, make_encoded, store=tmp_path)
        real(path, members)

    monkeypatch.setattr(encode, "write_tar", tries_again_inside)
    assert is_complete(build(config, make_encoded, store=tmp_path))


def test_a_reader_can_be_limited_to_some_keys_but_not_to_unknown_ones(encoded: Path) -> None:
    everything = EncodedImages(encoded)
    wanted = [everything.keys[9], everything.keys[2]]
    some = EncodedImages(encoded, keys=wanted)
    assert some.keys == wanted[::-1]
    assert torch.equal(some.tokens([0, 1]), everything.tokens([2, 9]))
    with pytest.raises(InputError, match="absent: nobody"):
        EncodedImages(encoded, keys=[*wanted, "nobody"])


def test_flipped_features_are_refused_where_they_were_not_made(shards: Path, models: Path, tmp_path: Path) -> None:
    images = EncodedImages(build(config_of(shards, models, flipped=False), make_encoded, store=tmp_path))
    assert images.latents([0, 1]).shape == (2, 4, 12, 6)
    with pytest.raises(InputError, match="--flipped"):
        images.latents([0, 1], flipped=[False, True])


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


def test_a_reader_names_a_corrupt_file(shards: Path, models: Path, tmp_path: Path) -> None:
    directory = build(config_of(shards, models), make_encoded, store=tmp_path)
    tar = sorted(directory.glob("*.tar"))[0]
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(ArtifactError, match=r"train-00000\.tar has 3000 bytes, \d+ by its manifest"):
        EncodedImages(directory)


def generator_of(folder: Path, vae: Path, image_encoder: Path) -> Path:
    """A folder with the two encoders that a generator carries."""
    for name, source in (("vae", vae), ("image_encoder", image_encoder)):
        shutil.copytree(source, folder / name)
    return folder


def test_a_generators_own_encoders_are_told_from_others_by_what_they_hold(shards, models, tmp_path) -> None:
    trained = shutil.copytree(models / "vae", tmp_path / "train-vae")
    (trained / "reconstructions.png").write_bytes(b"what a training leaves beside the model")
    encoded = build(config_of(shards, models, vae=trained), make_encoded, store=tmp_path / "store")
    own = generator_of(tmp_path / "own", models / "vae", models / "dino")
    assert other_encoders(encoded, own) == []
    refuse_other_encoders(encoded, own)

    other = generator_of(tmp_path / "other", models / "vae", models / "dino")
    config = json.loads((other / "vae" / "config.json").read_text())
    (other / "vae" / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.9}))
    assert other_encoders(encoded, other) == ["vae"]
    with pytest.raises(InputError, match=rf"by another vae than {other}'s own; encode with --vae {other}/vae$"):
        refuse_other_encoders(encoded, other)

    strange = generator_of(tmp_path / "strange", other / "vae", models / "clip")
    assert other_encoders(encoded, strange) == ["vae", "image_encoder"]
    with pytest.raises(InputError, match=r"another vae and image_encoder .*--image-encoder"):
        refuse_other_encoders(encoded, strange)


def test_an_encoder_that_is_gone_or_changed_cannot_be_compared(shards, models, tmp_path) -> None:
    trained = shutil.copytree(models / "vae", tmp_path / "train-vae")
    encoded = build(config_of(shards, models, vae=trained), make_encoded, store=tmp_path / "store")
    other = generator_of(tmp_path / "other", models / "vae", models / "dino")
    (other / "vae" / "extra.safetensors").write_bytes(b"1")
    assert other_encoders(encoded, other) == ["vae"]
    shutil.rmtree(other / "image_encoder")
    assert other_encoders(encoded, other) == ["vae"], "a generator without an image encoder has none to compare"
    (trained / "more.json").write_text("{}")
    assert other_encoders(encoded, other) == [], "what stands there now says nothing of what encoded the images"
    shutil.rmtree(trained)
    assert other_encoders(encoded, other) == []
