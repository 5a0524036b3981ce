"""One re-ID run: network, augmentation, batches, losses, schedule.

The defaults of `TrainReidSettings` are the Bag of Tricks (Luo et al. 2019, https://arxiv.org/abs/1903.07071) as its
code runs (michuanhaohao/reid-strong-baseline, ``configs/softmax_triplet_with_center.yml``; code wins over prose).
`tiny_recipe` is the small one of the demo and of slices on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from datasets.runtime.config import (
    Artifact,
    Config,
    Device,
    Percent,
    Precision,
    Probability,
    Role,
    Seed,
    SourceFile,
    SourceTree,
    StageConfig,
)
from reid.config.fields import NfcConfig, RerankConfig
from reid.training.backbones import check_backbone

MOST_PIXELS = 8192
"""Of an input's sides and its padding."""


class NetworkConfig(Config):
    """The network that turns an image into a feature."""

    backbone: Annotated[str, AfterValidator(check_backbone)] = "resnet50.tv_in1k"
    """Any timm model by name, or 'torchreid:NAME' (for example 'torchreid:osnet_x0_25'), or LIBRARY:NAME of a library
    from outside (`reid.training.backbones`). BoT: ResNet-50 from torchvision's first ImageNet weights, tag 'tv_in1k';
    without a tag timm takes its own ('resnet50': 'a1_in1k')."""
    weights: Literal["none", "hub", "package"] | SourceFile = "hub"
    """ImageNet weights of the backbone: 'hub' (timm's, downloaded or cached), 'package' (an installed Python package's:
    `reid.training.pretrained`), a file (safetensors, or a PyTorch state dict), or 'none' (from scratch). BoT: ImageNet.
    Weights that cannot be had are an error, never replaced by random ones. Images are normalized as they want it."""
    last_stride: int = Field(1, ge=1, le=2)
    """Stride of the last stage; 1 doubles the last feature map. BoT trick 4 (`MODEL.LAST_STRIDE`)."""
    frozen_stages: int = Field(0, ge=0)
    """How many of the backbone's first stages (timm's ``feature_info``, the stem included) keep their weights and
    statistics. What pretrained first layers see is the same for all images of people, and most of a step's time is
    spent there; 0 in BoT."""
    height: int = Field(256, ge=16, le=MOST_PIXELS)
    """Input height in pixels (`INPUT.SIZE_TRAIN`)."""
    width: int = Field(128, ge=8, le=MOST_PIXELS)
    """Input width in pixels."""
    stem_relu: bool = False
    """Whether resnet18 to resnet152 have the ReLU before their first pooling. BoT's code has it commented out
    (`modeling/backbones/resnet.py`). Every other network keeps its own, as BoT's IBN and SE networks do."""
    bnneck: bool = True
    """Triplet and center loss before, identity loss and test feature after a batch normalization. BoT trick 5."""


class AugmentationConfig(Config):
    """What happens to a training image, in BoT's order: flip, pad and crop, normalize, erase."""

    renamed: ClassVar[Mapping[str, str]] = {"colour_jitter": "color_jitter"}

    flip: Probability = 0.5
    """Chance of a left-right flip (`INPUT.PROB`)."""
    padding: int = Field(10, ge=0, le=MOST_PIXELS)
    """Black pixels on each side before the random crop back to size (`INPUT.PADDING`); of the network's input."""
    erasing: Probability = 0.5
    """Chance of random erasing (`INPUT.RE_PROB`). BoT trick 2."""
    erasing_area: tuple[Probability, Probability] = (0.02, 0.4)
    """Least and greatest share of the image that is erased (`data/transforms/transforms.py`)."""
    erasing_aspect: float = Field(0.3, gt=0, le=1)
    """Least height/width ratio of the erased box; drawn uniformly up to its inverse, as BoT does (not log-uniform)."""
    erasing_fill: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Value written, in *normalized* units: BoT's code fills `PIXEL_MEAN` after Normalize (its issue #121)."""
    color_jitter: float = Field(0.0, ge=0, le=1)
    """Strength of brightness and contrast jitter; 0 in BoT, a cheap-augmentation control here."""


class BatchConfig(Config):
    """P identities x K images, as triplets need them."""

    identities: int = Field(16, ge=2)
    """P, different identities in a batch (`SOLVER.IMS_PER_BATCH` / `DATALOADER.NUM_INSTANCE`)."""
    images: int = Field(4, ge=2)
    """K, images of each (`DATALOADER.NUM_INSTANCE`); an identity with fewer is drawn with replacement."""
    synthetic: int | None = Field(1, ge=0)
    """How many of the K are synthetic when there are synthetic sets (3 real + 1 synthetic by default);
    none given ('null'): real and synthetic images of an identity are one pool."""
    fill_with_synthetic: bool = False
    """Fill up an identity that has too few real images with its synthetic ones before repeating real ones."""
    cameras: Literal["any", "spread"] = "any"
    """'any': K images of an identity at random, as BoT; 'spread': of as many cameras as it has, real and synthetic."""

    @model_validator(mode="after")
    def _keeps_a_real_image(self) -> Self:
        if self.synthetic is not None and self.synthetic >= self.images:
            raise ValueError(
                f"batch.synthetic {self.synthetic} leaves none of the K = {self.images} images of an identity real"
            )
        return self


class LossConfig(Config):
    """Identity loss + triplet loss + center loss."""

    renamed: ClassVar[Mapping[str, str]] = {
        "centre_weight": "center_weight",
        "centre_learning_rate": "center_learning_rate",
    }

    label_smoothing: Probability = 0.1
    """Of the cross-entropy (`layers/triplet_loss.py:CrossEntropyLabelSmooth`). BoT trick 3."""
    triplet_weight: float = Field(1.0, ge=0)
    """Weight of the batch-hard triplet loss; 0 turns it off."""
    triplet_margin: float = Field(0.3, gt=0)
    """Hard margin on Euclidean distances of un-normalized features before the neck (`SOLVER.MARGIN`)."""
    center_weight: float = Field(5e-4, ge=0)
    """Weight of the center loss (`SOLVER.CENTER_LOSS_WEIGHT`); 0 turns it off. BoT trick 6."""
    center_learning_rate: float = Field(0.5, gt=0)
    """SGD rate of the centers (`SOLVER.CENTER_LR`); their gradient is freed from `center_weight`."""
    synthetic_weight: float = Field(1.0, ge=0)
    """Weight of a synthetic image in the identity and center losses; a real one counts 1."""
    synthetic_label_smoothing: Probability | None = None
    """Label smoothing of synthetic images; as real ones if not given."""
    synthetic_triplet: bool = True
    """Whether synthetic images take part in the triplet loss."""


class ScheduleConfig(Config):
    """Adam with warm-up and decay, counted in epochs that may be stretched over a fixed number of steps."""

    epochs: int = Field(120, ge=1)
    """Length of the schedule (`SOLVER.MAX_EPOCHS`). An epoch is one pass of the sampler over the real images."""
    steps: int | None = Field(None, ge=1)
    """Optimization steps in all, over which the epochs of the schedule are stretched, so that every subset gets equally
    many; if not given, the native number (fewer images, fewer steps: 5,880 at 20 %, 21,960 at 100 % of Market-1501).
    Synthetic images never change the number: an epoch is counted as if all K images of an identity were real."""
    times: float = Field(1.0, gt=0)
    """How many times as many steps (given or native) are taken; the schedule is stretched over them."""
    learning_rate: float = Field(3.5e-4, gt=0)
    """Adam rate after warm-up (`SOLVER.BASE_LR`)."""
    weight_decay: float = Field(5e-4, ge=0)
    """Adam's coupled L2 term, on all weights (`SOLVER.WEIGHT_DECAY`)."""
    backbone_rate: float = Field(1.0, gt=0)
    """What the backbone's rate is of the head's (neck and classifier); 1 in BoT."""
    frozen_epochs: int = Field(0, ge=0)
    """First epochs in which only neck and classifier learn; 0 in BoT, 10 in its follow-up FastReID."""
    warmup_epochs: int = Field(10, ge=0)
    """Linear warm-up (`SOLVER.WARMUP_ITERS`, which counts epochs). BoT trick 1."""
    warmup_factor: float = Field(0.01, gt=0, le=1)
    """Where the warm-up begins (`SOLVER.WARMUP_FACTOR`); epoch 1 runs at 0.109 of the rate, as in BoT's code."""
    decay: Literal["steps", "cosine"] = "steps"
    """'steps': times `decay_factor` at each milestone (BoT); 'cosine': to zero at the end."""
    milestones: tuple[int, ...] = (40, 70)
    """Epochs (from 1) from which the rate is lower (`SOLVER.STEPS`)."""
    decay_factor: float = Field(0.1, gt=0, le=1)
    """`SOLVER.GAMMA`."""


class TrainReidSettings(Config):
    """The recipe of a re-ID network: network, augmentation, batch, losses, schedule."""

    synthetic_images: int | None = Field(None, ge=1)
    """Use only so many synthetic images, those of identities with the fewest images (then: one camera) first."""
    synthetic_camera: Literal["source", "pose", "own"] = "source"
    """Whose camera a synthetic image counts as, for `batch.cameras`: its source's (whose background it shows), its
    pose image's, or a camera of its own."""
    network: NetworkConfig = NetworkConfig()
    """Backbone, input size, neck."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Flip, crop, erase."""
    batch: BatchConfig = BatchConfig()
    """P x K."""
    loss: LossConfig = LossConfig()
    """Identity, triplet and center loss."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Length and learning rate."""
    precision: Precision | Literal["auto"] = "fp32"
    """Of the network's forward and backward pass: 'fp32'; 'bf16' through autocast; 'auto': bf16 where it is faster: on
    GPUs that have it and, for networks without depthwise convolutions, on CPUs with AMX."""
    rerank: RerankConfig | None = None
    """Also test with k-reciprocal re-ranking; its figures stand beside the headline's and never replace them."""
    nfc: NfcConfig | None = None
    """Also test with neighbor feature centralization, and with both; in columns of their own as well."""
    max_rank: int = Field(10, ge=1)
    """Gallery images per query in `ranked.parquet`."""
    checkpoint_seconds: Annotated[float, Role.RUNTIME] = Field(60.0, gt=0)
    """How often a checkpoint is written, from which an interrupted run resumes."""
    compile: Annotated[bool | None, Role.RUNTIME] = None
    """torch.compile the network. Not given: on a CPU with a C++ compiler for networks with depthwise convolutions that
    are trained for 500 steps or more, where it halves the time of a step."""
    channels_last: Annotated[bool, Role.RUNTIME] = True
    """Lay images and weights out channels-last, where convolutions are faster (or as fast) on CPUs and GPUs."""


class TrainReidConfig(TrainReidSettings, StageConfig):
    """One re-ID run: train on a subset (with or without synthetic images), test on query and gallery."""

    renamed: ClassVar[Mapping[str, str]] = {"start_from": "init_from"}

    stage: ClassVar[str] = "train-reid"
    package: ClassVar[str] = "reid"
    command: ClassVar[str | None] = "train"

    shards: SourceTree
    """Image shards (`datasets write-shards`) with the training split, or a folder
    (`datasets.sources.folders.image_folders`)."""
    test_shards: SourceTree
    """Image shards or a folder that holds the query and gallery splits; may be the same one."""
    subsets: Artifact | None = None
    """`datasets select-subsets`: which training images `fraction` and `draw` allow; all images if not given."""
    fraction: Percent = 100
    """Percent of the real training images."""
    draw: int = Field(0, ge=0, lt=2**31)
    """Which draw of the subset."""
    synthetic: list[SourceTree] = []
    """Sets of generated images to train on as well, under the same labels: `imagpose synthesize`, or any folder of
    images that tells their identities (`datasets/sources/folders/image_folders.py`)."""
    identity_check: list[Artifact] = []
    """`reid check-identity` of each synthetic set, in the same order; only images that it kept are used."""
    protocol: Literal["leak-free", "paper"] = "leak-free"
    """What the generator had seen; a label that the table carries."""
    arm: str = Field("real", pattern=r"^[\w+.-]+$")
    """Name of the run's arm in the table, for example one of `ARMS`."""
    seed: Seed = 0
    """Network initialization, sampling and augmentation."""
    init_from: Artifact | None = None
    """A finished run whose network this one is initialized from (arms real-then-synthetic and real-pretrained)."""
    processes: int = Field(1, ge=1)
    """Processes (GPUs) that a batch is spread over, under torchrun (`reid/training/distributed.py`)."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""
    workers: Annotated[int, Role.RUNTIME] = Field(2, ge=1)
    """Threads that decode images (once: they are kept in memory at the network's size)."""

    @model_validator(mode="after")
    def _subset_is_named(self) -> Self:
        if self.subsets is None and self.fraction != 100:
            raise ValueError(f"fraction {self.fraction} needs 'subsets', the list that says which images these are")
        return self

    @model_validator(mode="after")
    def _each_set_once(self) -> Self:
        if twice := [folder for i, folder in enumerate(self.synthetic) if folder in self.synthetic[:i]]:
            raise ValueError(f"'synthetic' names {twice[0]} twice; its images would count double")
        return self

    @model_validator(mode="after")
    def _a_check_for_each_set(self) -> Self:
        if self.identity_check and len(self.identity_check) != len(self.synthetic):
            raise ValueError(
                f"{len(self.identity_check)} identity checks for {len(self.synthetic)} synthetic sets: give one each"
            )
        return self


def tiny_recipe(steps: int = 200, *, height: int = 64, width: int = 32) -> dict[str, Any]:
    """Fields of `TrainReidSettings` for seconds on two CPU cores: a small ResNet from scratch, BoT's losses, few steps.

    Use as ``TrainReidSettings(**tiny_recipe())``. What differs from BoT: the size; no ImageNet weights; a higher rate
    and a cosine (the milestones are too coarse for so few steps); no random erasing, which at one or two images a
    person makes the real-only arm worse (measured, docs/benchmark.md) and would inflate any gain.
    """
    return {
        "network": NetworkConfig(backbone="test_resnet.r160_in1k", weights="none", height=height, width=width),
        "augmentation": AugmentationConfig(padding=max(2, height // 26), erasing=0.0),
        "batch": BatchConfig(identities=12, images=4),
        "schedule": ScheduleConfig(steps=steps, learning_rate=6e-3, decay="cosine"),
    }


def lite_recipe(*, height: int = 128, width: int = 64) -> dict[str, Any]:
    """Fields of `TrainReidSettings` for an ImageNet-pretrained network that two CPU cores can train on Market-1501.

    EfficientNet-Lite0 (3.4 M parameters) from an installed package, BoT's losses without the center loss, a cosine, no
    random erasing, which pays only in longer trainings than these. What was tried on held-out training identities to
    choose it stands in docs/benchmark.md.
    """
    return {
        "network": NetworkConfig(
            backbone="tf_efficientnet_lite0", weights="package", height=height, width=width, frozen_stages=3
        ),
        "augmentation": AugmentationConfig(padding=10 * height // 256, erasing=0.0),
        "loss": LossConfig(center_weight=0.0),
        "schedule": ScheduleConfig(epochs=30, warmup_epochs=2, learning_rate=1.4e-3, decay="cosine"),
    }


def cheap_augmentation(config: AugmentationConfig) -> AugmentationConfig:
    """What costs nothing: color jitter, random erasing at BoT's rate and crops from twice the padding."""
    return config.model_copy(
        update={"color_jitter": 0.3, "erasing": max(config.erasing, 0.5), "padding": 2 * config.padding}
    )


def run_name(config: TrainReidConfig) -> str:
    """A short human name of a run, for logs and progress: ``leak-free 20 % draw 0 seed 0 real``."""
    return f"{config.protocol} {config.fraction} % draw {config.draw} seed {config.seed} {config.arm}"
