import copy
import json

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch.nn import functional

from datasets.runtime.errors import InputError, WeightsError
from reid.config import AugmentationConfig, BatchConfig, LossConfig, NetworkConfig, ScheduleConfig, TrainReidConfig
from reid.data.images import ImageSet, augment, erase, flip_and_crop, normalize
from reid.data.sampler import IdentitySampler
from reid.data.training_set import TrainingSet, join_training_sets, refuse_leak
from reid.evaluation import evaluate
from reid.training.distributed import Processes
from reid.training.losses import CenterLoss, batch_hard_triplet_loss, identity_loss
from reid.training.model import assemble_network, seeded_backbone
from reid.training.schedule import rate_factor, stretched_epoch
from reid.training.train import Trainer, save_network
from tests.small_sets import finish

TINY = NetworkConfig(backbone="test_resnet.r160_in1k", weights="none", height=32, width=16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- losses


def batch(seed=0, people=4, images=4, width=8):
    features = torch.randn(people * images, width, generator=generator(seed), dtype=torch.float64)
    return features, torch.arange(people).repeat_interleave(images)


def test_the_triplet_loss_and_its_gradient_equal_torchreids():
    from torchreid.reid.losses import TripletLoss

    features, labels = batch()
    ours, theirs = features.float().requires_grad_(), features.float().requires_grad_()
    loss, reference = batch_hard_triplet_loss(ours, labels, 0.3), TripletLoss(margin=0.3)(theirs, labels)
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), abs=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_the_triplet_loss_of_two_people_is_as_computed_by_hand():
    features = torch.tensor([[0.0], [1.0], [1.5], [3.0]])
    # anchors: farthest of the same person 1, 1, 1.5, 1.5; nearest of the other 1.5, 0.5, 0.5, 2
    loss = batch_hard_triplet_loss(features, torch.tensor([0, 0, 1, 1]), 0.3)
    assert loss.item() == pytest.approx((0 + 0.8 + 1.3 + 0) / 4, abs=1e-6)


def test_identity_loss_is_label_smoothed_cross_entropy():
    logits, labels = torch.randn(6, 5, generator=generator()), torch.tensor([0, 1, 2, 3, 4, 0])
    real = torch.zeros(6, dtype=torch.bool)
    one_hot = functional.one_hot(labels, 5) * 0.9 + 0.1 / 5
    by_hand = -(one_hot * logits.log_softmax(1)).sum(1).mean()
    assert identity_loss(logits, labels, real, LossConfig()).item() == pytest.approx(by_hand.item(), abs=1e-6)


def test_synthetic_images_may_weigh_less_and_be_smoothed_more():
    logits, labels = torch.randn(2, 5, generator=generator()), torch.tensor([0, 1])
    synthetic = torch.tensor([False, True])
    config = LossConfig(synthetic_weight=0.5, synthetic_label_smoothing=0.4)
    a = functional.cross_entropy(logits[:1], labels[:1], label_smoothing=0.1)
    b = functional.cross_entropy(logits[1:], labels[1:], label_smoothing=0.4)
    assert identity_loss(logits, labels, synthetic, config).item() == pytest.approx(
        ((a + b / 2) / 1.5).item(), abs=1e-6
    )


def test_the_center_loss_is_the_mean_squared_distance_to_the_own_center():
    loss = CenterLoss(3, 2)
    loss.centers.data = torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    real = torch.zeros(2, dtype=torch.bool)
    value = loss(torch.tensor([[3.0, 4.0], [1.0, 2.0]]), torch.tensor([0, 1]), real, 1.0)
    assert value.item() == pytest.approx((25 + 1) / 2)


# --- schedule


def test_the_learning_rate_follows_bots_table():
    config = ScheduleConfig()
    factors = {epoch: rate_factor(config, epoch) for epoch in (1, 5, 9, 10, 39, 40, 69, 70, 120)}
    expected = {1: 0.109, 5: 0.505, 9: 0.901, 10: 1, 39: 1, 40: 0.1, 69: 0.1, 70: 0.01, 120: 0.01}
    assert factors == pytest.approx(expected)


def test_a_stretched_schedule_passes_through_every_epoch_once():
    config = ScheduleConfig(epochs=120, steps=600)
    epochs = [stretched_epoch(config, step, 600) for step in range(600)]
    assert np.bincount(epochs).tolist() == [0] + [5] * 120


def test_a_cosine_ends_near_zero_and_keeps_the_warm_up():
    config = ScheduleConfig(decay="cosine")
    assert rate_factor(config, 1) == pytest.approx(0.109)
    assert rate_factor(config, 11) == pytest.approx(1)
    assert 0 < rate_factor(config, 120) < 0.001


# --- sampler


def training_labels(images, synthetic=0):
    labels = np.repeat(np.arange(len(images)), images)
    extra = np.repeat(np.arange(len(images)), synthetic)
    return np.concatenate([labels, extra]), np.arange(len(labels) + len(extra)) >= len(labels)


def test_a_batch_has_p_people_and_k_images_of_each():
    labels, synthetic = training_labels([1, 3, 4, 9, 12, 5, 8, 2])
    sampler = IdentitySampler(labels, synthetic, BatchConfig(identities=4, images=4), seed=0)
    for positions in sampler.epoch(0):
        groups = labels[positions].reshape(4, 4)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == 4


def test_an_epoch_is_repeatable_and_epochs_differ():
    labels, synthetic = training_labels([6] * 8)
    sampler = IdentitySampler(labels, synthetic, BatchConfig(identities=4, images=4), seed=3)
    np.testing.assert_array_equal(np.concatenate(sampler.epoch(2)), np.concatenate(sampler.epoch(2)))
    assert not np.array_equal(np.concatenate(sampler.epoch(2)), np.concatenate(sampler.epoch(3)))


def test_no_real_image_comes_twice_in_an_epoch_unless_its_person_has_too_few():
    labels, synthetic = training_labels([8, 8, 8, 8])
    sampler = IdentitySampler(labels, synthetic, BatchConfig(identities=4, images=4), seed=0)
    positions = np.concatenate(sampler.epoch(0))
    assert sorted(positions) == list(range(32))


def test_each_group_holds_its_quota_of_synthetic_images():
    labels, synthetic = training_labels([6, 6, 6, 1], synthetic=5)
    sampler = IdentitySampler(labels, synthetic, BatchConfig(identities=4, images=4, synthetic=1), seed=0)
    for positions in sampler.epoch(0):
        assert (synthetic[positions].reshape(4, 4).sum(1) == 1).all()


def test_a_person_without_synthetic_images_is_filled_with_real_ones():
    labels, synthetic = np.array([0] * 6 + [1] * 6 + [0] * 3), np.array([False] * 12 + [True] * 3)
    sampler = IdentitySampler(labels, synthetic, BatchConfig(identities=2, images=4, synthetic=1), seed=0)
    for positions in sampler.epoch(0):
        counts = dict(
            zip(labels[positions].reshape(2, 4)[:, 0], synthetic[positions].reshape(2, 4).sum(1), strict=True)
        )
        assert counts == {0: 1, 1: 0}


def test_a_person_with_one_real_image_can_be_filled_with_synthetic_ones():
    labels, synthetic = training_labels([1, 8], synthetic=5)
    config = BatchConfig(identities=2, images=4, synthetic=1, fill_with_synthetic=True)
    positions = IdentitySampler(labels, synthetic, config, seed=0).epoch(0)[0]
    lonely = positions[labels[positions] == 0]
    assert len(set(lonely)) == 4 and synthetic[lonely].sum() == 3


def test_pooled_images_are_drawn_without_regard_to_their_origin():
    labels, synthetic = training_labels([4, 4], synthetic=4)
    config = BatchConfig(identities=2, images=4, synthetic=None)
    positions = np.concatenate(IdentitySampler(labels, synthetic, config, seed=0).epoch(0))
    assert sorted(positions) == list(range(16))


def test_fewer_people_than_p_make_smaller_batches():
    labels, synthetic = training_labels([4, 4, 4])
    sampler = IdentitySampler(labels, synthetic, BatchConfig(identities=16, images=4), seed=0)
    assert sampler.identities == 3 and len(sampler.epoch(0)[0]) == 12


def test_a_quota_that_leaves_no_real_image_is_refused():
    with pytest.raises(ValueError, match="leaves none of the K = 4 images"):
        BatchConfig(images=4, synthetic=4)


# --- data


def image_set(pids, seed=0, prefix="r"):
    pixels = torch.randint(0, 256, (len(pids), 3, 8, 4), generator=generator(seed), dtype=torch.uint8)
    return ImageSet(
        keys=[f"{prefix}{i}" for i in range(len(pids))],
        pixels=pixels,
        pids=np.array(pids),
        camids=np.ones(len(pids), dtype=int),
    )


def test_real_and_synthetic_images_share_one_label_map():
    joined = join_training_sets(image_set([7, 3, 7, -1, 0]), [image_set([7, 3], prefix="s")])
    assert joined.pids == [3, 7]
    assert joined.labels.tolist() == [1, 0, 1, 1, 0]
    assert joined.is_synthetic.tolist() == [False, False, False, True, True]


def test_a_synthetic_stranger_is_refused():
    with pytest.raises(InputError, match="pid 9, who has no real image"):
        join_training_sets(image_set([7, 3]), [image_set([9], prefix="s")])


def test_flips_and_crops_show_parts_of_the_padded_image():
    images = torch.arange(1, 33, dtype=torch.uint8).view(1, 1, 8, 4).expand(64, 3, 8, 4)
    out = flip_and_crop(images, AugmentationConfig(padding=2, flip=0.5), generator())
    padded = functional.pad(images[0, 0], [2] * 4)
    windows = {padded[y : y + 8, x : x + 4].numpy().tobytes() for y in range(5) for x in range(5)}
    windows |= {padded[y : y + 8, x : x + 4].flip(1).numpy().tobytes() for y in range(5) for x in range(5)}
    shown = {image[0].numpy().tobytes() for image in out}
    assert shown <= windows and len(shown) > 20


def test_no_augmentation_is_normalization_alone():
    pixels = image_set([1] * 4).pixels
    config = AugmentationConfig(flip=0, padding=0, erasing=0)
    torch.testing.assert_close(augment(pixels, config, generator()), normalize(pixels))
    white = normalize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    np.testing.assert_allclose(white, [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-6)


def test_erasing_fills_one_box_of_the_allowed_area():
    images = torch.full((400, 3, 64, 32), 9.0)
    out = erase(images, AugmentationConfig(), generator())
    erased = (out[:, 0] != 9.0).flatten(1).sum(1) / (64 * 32)
    hit = erased > 0
    assert 0.4 < hit.float().mean() < 0.6
    assert erased[hit].min() > 0.015 and erased.max() < 0.42
    for mask in (out[:, 0] != 9.0)[hit][:20]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()
        assert rows.sum() < 64 and columns.sum() < 32
    np.testing.assert_allclose(out[out != 9.0].unique(), [0.406, 0.456, 0.485], rtol=1e-6)


# --- model


def test_the_last_stage_keeps_its_size_without_dilation():
    backbone = seeded_backbone(TINY, 0)
    assert {module.stride for module in backbone.layer4.modules() if isinstance(module, torch.nn.Conv2d)} == {(1, 1)}
    assert {module.dilation for module in backbone.layer4.modules() if isinstance(module, torch.nn.Conv2d)} == {(1, 1)}
    resnet = seeded_backbone(TINY.model_copy(update={"backbone": "resnet50", "height": 64, "width": 32}), 0)
    assert resnet.forward_features(torch.zeros(1, 3, 64, 32)).shape == (1, 2048, 4, 2)


@pytest.mark.parametrize("stem_relu", [False, True])
def test_a_resnets_first_activation_is_absent_as_in_bots_code_unless_asked_for(stem_relu):
    config = NetworkConfig(backbone="resnet18.tv_in1k", weights="none", height=64, width=32, last_stride=2)
    backbone = seeded_backbone(config.model_copy(update={"stem_relu": True} if stem_relu else {}), 0).eval()
    reference = torchvision.models.resnet18(weights=None).eval()
    if not stem_relu:
        reference.relu = torch.nn.Identity()  # that of the stem; the blocks have their own
    reference.fc = torch.nn.Identity()
    reference.load_state_dict(backbone.state_dict())
    images = torch.randn(2, 3, 64, 32, generator=generator())
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference(images))


def test_other_networks_keep_their_first_activation():
    assert not isinstance(seeded_backbone(TINY, 0).act1, torch.nn.Identity)


def test_a_run_from_before_the_setting_is_read_with_the_activation_it_was_trained_with(tmp_path):
    config = NetworkConfig(backbone="resnet18.tv_in1k", weights="none", height=64, width=32, stem_relu=True)
    save_network(assemble_network(seeded_backbone(config, 0), config, 3, 0), tmp_path / "model.safetensors")
    before = config.model_dump(mode="json", exclude={"stem_relu"})
    for written, expected in ((before, torch.nn.ReLU), (before | {"stem_relu": False}, torch.nn.Identity)):
        finish(tmp_path, "train-reid", config={"network": written})
        network, _ = evaluate.load_network(tmp_path)
        assert isinstance(network.backbone.act1, expected)


def test_bot_starts_from_torchvisions_first_weights():
    weights = timm.get_pretrained_cfg(NetworkConfig().backbone)
    assert weights.url == torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url


def test_weights_depend_on_the_seed_alone_and_the_global_generator_is_untouched():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two = (assemble_network(seeded_backbone(TINY, 1), TINY, classes, 1) for classes in (3, 9))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.backbone.parameters(), two.backbone.parameters(), strict=True))


def test_the_neck_has_no_shift_and_the_test_feature_comes_after_it():
    network = assemble_network(seeded_backbone(TINY, 0), TINY, 5, 0).eval()
    assert not network.neck.bias.requires_grad and network.classifier.bias is None
    images = torch.randn(2, 3, 32, 16, generator=generator())
    features, logits = network(images)
    torch.testing.assert_close(network.embed(images), network.neck(features))
    assert logits.shape == (2, 5)


def test_osnet_of_torchreid_gives_features_in_training_too():
    config = TINY.model_copy(update={"backbone": "torchreid:osnet_x0_25", "height": 64, "width": 32})
    network = assemble_network(seeded_backbone(config, 0), config, 5, 0)
    features, logits = network.train()(torch.randn(2, 3, 64, 32, generator=generator()))
    assert features.shape == (2, 512) and logits.shape == (2, 5)


def test_backbone_weights_come_from_a_file_and_a_wrong_one_is_refused(tmp_path):
    backbone = seeded_backbone(TINY, 3)
    save_file({**backbone.state_dict(), "fc.weight": torch.zeros(2, 2)}, tmp_path / "good.safetensors")
    config = NetworkConfig.model_validate_json(
        json.dumps(TINY.model_dump(mode="json") | {"weights": str(tmp_path / "good.safetensors")})
    )
    loaded = seeded_backbone(config, 9)
    torch.testing.assert_close(loaded.conv1[0].weight, backbone.conv1[0].weight)
    save_file({"conv1.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="another architecture"):
        seeded_backbone(config.model_copy(update={"weights": tmp_path / "other.safetensors"}), 0)
    (tmp_path / "torn.safetensors").write_bytes(b"\x08")
    with pytest.raises(WeightsError, match=r"torn\.safetensors is corrupt"):
        seeded_backbone(config.model_copy(update={"weights": tmp_path / "torn.safetensors"}), 0)


def test_weights_that_cannot_be_had_are_an_error_and_never_random(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"--network\.weights none to train from scratch"):
        seeded_backbone(TINY.model_copy(update={"backbone": "resnet18.a2_in1k", "weights": "hub"}), 0)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(InputError, match="'resnet5O' is unknown to timm"):
        seeded_backbone(TINY.model_copy(update={"backbone": "resnet5O"}), 0)


def test_one_optimizer_step_equals_an_independent_implementation_of_every_trick():
    """torchreid's triplet and smoothed cross-entropy; center loss, Adam and SGD written out."""
    from torchreid.reid.losses import CrossEntropyLoss, TripletLoss

    config = TrainReidConfig(
        shards=".",
        test_shards=".",
        network=TINY,
        batch=BatchConfig(identities=3, images=3),
        augmentation=AugmentationConfig(flip=0, padding=0, erasing=0),
        schedule=ScheduleConfig(steps=4),
        device="cpu",
    )
    pids = np.repeat(np.arange(1, 5), 4)
    data = TrainingSet(images=image_set(pids), labels=pids - 1, is_synthetic=np.zeros(16, bool), pids=[1, 2, 3, 4])
    trainer = Trainer(config, assemble_network(seeded_backbone(TINY, 0), TINY, 4, 0), data, Processes(1, "cpu"))
    network, centers = copy.deepcopy(trainer.network), trainer.center_loss.centers.detach().clone()
    positions = trainer.sampler.epoch(0)[0]
    rate = trainer._set_rate(1)
    assert rate == pytest.approx(3.5e-4 * 0.109)
    trainer.train_step(positions)

    images = normalize(data.images.pixels[positions])
    labels = torch.from_numpy(data.labels[positions])
    centers.requires_grad_(True)
    features, logits = network(images)
    loss = CrossEntropyLoss(num_classes=4, eps=0.1, use_gpu=False)(logits, labels)
    loss = loss + TripletLoss(margin=0.3)(features, labels)
    loss = loss + 5e-4 * ((features - centers[labels]) ** 2).sum(dim=1).mean()
    loss.backward()
    after = dict(trainer.network.named_parameters())
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            assert name == "neck.bias"  # frozen
            continue
        gradient = parameter.grad + 5e-4 * parameter.detach()  # coupled weight decay
        first, second = 0.1 * gradient / (1 - 0.9), 0.001 * gradient**2 / (1 - 0.999)
        expected = parameter.detach() - rate * first / (second.sqrt() + 1e-8)
        # Where a gradient is all but zero, Adam's first step is its sign, which rounding decides.
        clear = gradient.abs() > 1e-6
        torch.testing.assert_close(after[name].detach()[clear], expected[clear], rtol=0, atol=2e-6, msg=name)
    moved = centers.detach() - 0.5 * centers.grad / 5e-4
    torch.testing.assert_close(trainer.center_loss.centers.detach(), moved, rtol=1e-4, atol=1e-4)


def test_the_backbone_may_wait_and_learn_at_a_rate_of_its_own():
    schedule = ScheduleConfig(steps=4, warmup_epochs=0, backbone_rate=0.1, frozen_epochs=2)
    config = TrainReidConfig(shards=".", test_shards=".", network=TINY, schedule=schedule, device="cpu")
    pids = np.repeat(np.arange(1, 5), 4)
    data = TrainingSet(images=image_set(pids), labels=pids - 1, is_synthetic=np.zeros(16, bool), pids=[1, 2, 3, 4])
    network = assemble_network(seeded_backbone(TINY, 0), TINY, 4, 0)
    trainer = Trainer(config, network, data, Processes(1, "cpu"))
    backbone, head = trainer.optimizer.param_groups
    assert {id(p) for p in backbone["params"]} == {id(p) for p in network.backbone.parameters()}
    assert [id(p) for p in head["params"]] == [id(p) for p in network.head_parameters() if p.requires_grad]
    for epoch, expected in ((2, 0.0), (3, 3.5e-5)):
        assert trainer._set_rate(epoch) == head["lr"] == pytest.approx(3.5e-4)
        assert backbone["lr"] == pytest.approx(expected)


def test_every_epoch_of_bots_schedule_has_the_cited_rate():
    """solver/lr_scheduler.py with BASE_LR 3.5e-4, STEPS (40, 70), WARMUP_ITERS 10, from its formula."""
    for epoch in range(1, 121):
        warm = 0.01 * (1 - epoch / 10) + epoch / 10 if epoch < 10 else 1.0
        assert rate_factor(ScheduleConfig(), epoch) == pytest.approx(warm * 0.1 ** sum(epoch >= m for m in (40, 70)))


def test_images_of_one_group_come_from_as_many_cameras_as_there_are():
    labels, is_synthetic = training_labels([6, 6])
    camids = np.array([1, 1, 1, 1, 2, 3] * 2)
    spread = IdentitySampler(
        labels, is_synthetic, BatchConfig(identities=2, images=3, synthetic=0, cameras="spread"), 0, camids
    )
    for number in range(5):
        groups = np.concatenate(spread.epoch(number)).reshape(-1, 3)
        for person in (0, 1):
            own = [set(camids[group]) for group in groups if labels[group[0]] == person]
            assert {1, 2, 3} in own and {1} in own  # the first group has all three cameras, the rest is camera 1


def test_a_synthetic_set_of_another_subset_is_refused_and_one_without_provenance_is_not(tmp_path, caplog):
    table = pd.DataFrame({"key": ["s"], "source_keys": [["a", "b"]], "target_pose_key": ["c"]})
    refuse_leak(tmp_path, table, {"a", "b", "c", "d"})
    with pytest.raises(InputError, match="1 images outside the subset"):
        refuse_leak(tmp_path, table, {"a", "b"})
    assert not caplog.records
    refuse_leak(tmp_path, table[["key"]], {"a"})
    assert "cannot be checked" in caplog.text
