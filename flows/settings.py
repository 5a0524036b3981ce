"""What a regeneration does: each stage's settings, as the stage declares them, and what they have in common.

`flows.presets` gives these fields names and values, `flows.config` reads them together with a preset.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic.config import JsonDict

from datasets.miniature.config import MiniatureSettings
from datasets.poses.config import Coordinates, ExtractPosesSettings
from datasets.runtime.config import Config, Location, Percent, Role, Seed
from datasets.shards.config import EncodeSettings, WriteShardsSettings
from datasets.shards.image_encoders import folder_of
from datasets.sources.config import IndexSettings, SelectSubsetsSettings
from datasets.sources.layouts import LAYOUTS
from flows.test_time.settings import NetworksAtTestTimeSettings
from imagpose.config import (
    DistillSettings,
    SynthesizeSettings,
    TrainGeneratorSettings,
    TrainImageEncoderSettings,
    TrainVaeSettings,
)
from imagpose.config.samplers import SAMPLERS
from reid.arms import ARMS
from reid.config import BenchmarkSettings, CheckIdentitySettings, TrainReidSettings

DISTINCT: JsonDict = {"uniqueItems": True}
"""In the schema that Prefect checks a submission against, so that no run is made of one that repeats a value."""
ArmName = Annotated[str, Field(pattern=r"^[\w+.-]+$")]


class OtherPeopleSettings(Config):
    """A data set of other people, whose training split is seen by what is pretrained."""

    root: Annotated[Location | None, Role.RUNTIME] = None
    """The unpacked data set, its zip, or (layout 'table') a CSV/Parquet with path,pid,camid,split. Must be given."""
    layout: Annotated[str, LAYOUTS] = "table"
    """How folders and names of `root` tell identity, camera and split."""
    poses: Annotated[list[Location], Role.RUNTIME] = []
    """Published keypoint files of these images; none given: `extract_poses` of the regeneration finds the skeletons."""
    coordinates: Coordinates = "image"
    """What the coordinates in `poses` are pixels of."""


class PretrainConfig(Config):
    """What is trained first on *other* people, so that nothing of it can leak into the benchmark.

    The people are those of another data set (`people`), a rendered population, or those outside the slice
    (``identities`` of the regeneration).
    """

    people: OtherPeopleSettings | None = None
    """Another data set's people."""
    population: MiniatureSettings | None = None
    """Render these people. Neither these nor `people` given: the data set's identities outside the slice."""
    vae: TrainVaeSettings | None = None
    """Train the VAE, from `vae` of the regeneration where that is given; not at all if this is not given."""
    image_encoder: TrainImageEncoderSettings | None = None
    """Train the image encoder, from `image_encoder` where that is given; not at all if this is not given."""
    generator: TrainGeneratorSettings | None = None
    """Train the base generator, from `generator` where that is given; not at all if this is not given."""
    reid_steps: int | None = Field(None, ge=1)
    """Steps of the re-ID training on these people, from which the arms 'real-pretrained' and 'pretrained+synthetic'
    continue; not given: the recipe's own (`reid.schedule`)."""
    reid_rate: float = Field(0.1, gt=0, le=1)
    """Learning rate of the arms that continue from it, as a share of the recipe's, which is meant for a network from
    scratch: at the full rate they forget those people (docs/benchmark.md)."""

    @model_validator(mode="after")
    def _one_kind_of_people(self) -> Self:
        if self.people is not None and self.population is not None:
            raise ValueError("pretrain.people and pretrain.population: give one of the two")
        return self

    def trains_models(self) -> bool:
        """Whether a model of the generator is trained, and not only a re-ID network."""
        return any(model is not None for model in (self.vae, self.image_encoder, self.generator))


class PoseBankSettings(Config):
    """Whose skeletons arm 'real+foreign-poses' takes the poses of its generated images from."""

    people: OtherPeopleSettings | None = None
    """Another data set's training people."""
    population: MiniatureSettings | None = None
    """Render these people."""

    @model_validator(mode="after")
    def _one_kind_of_people(self) -> Self:
        if (self.people is None) == (self.population is None):
            raise ValueError("pose_bank: give either pose_bank.people or pose_bank.population")
        return self


class RegenerateSettings(Config):
    """From a data set to the table that says what synthesis gains, with every stage's settings."""

    preset: str = "none"
    """Whose values the fields take that are not given; 'none': the fields' own defaults."""
    root: Annotated[Location | None, Role.RUNTIME] = None
    """The unpacked data set, or its official zip; may be an address (s3://...); not given: `miniature` is rendered."""
    layout: Annotated[str, LAYOUTS] = "market1501"
    """How folders and names of `root` tell identity, camera and split."""
    poses: Annotated[list[Location], Role.RUNTIME] = []
    """Published keypoint files (``name:keypoints_y:keypoints_x``) of the images in `root`; used instead of
    `extract_poses`."""
    coordinates: Coordinates = "image"
    """What the coordinates in `poses` are pixels of: the images in `root`, or one of DeepFashion's published frames."""
    identities: int | None = Field(None, ge=3)
    """Only so many training and test identities; the generator may then be pretrained on the others."""
    fractions: list[Percent] = Field([20, 40, 60, 80], json_schema_extra=DISTINCT)
    """Percent of the training images that the subsets hold."""
    draws: int = Field(1, ge=1)
    """Independent draws of the subsets; the unit that intervals are computed from."""
    seeds: list[Seed] = Field([0], min_length=1, json_schema_extra=DISTINCT)
    """Seeds of the re-ID runs on each subset."""
    arms: list[Annotated[str, ARMS]] = Field(["real", "real+synthetic"], min_length=1, json_schema_extra=DISTINCT)
    """What the re-ID networks are trained on (docs/benchmark.md explains each)."""
    arms_of_whole_set: list[Annotated[str, ARMS]] | None = None
    """Which of the arms are run on fraction 100; not given: all that need no synthetic images, which nothing makes for
    the full training split."""
    long: float | None = Field(None, ge=1)
    """How many times the steps of arm 'real' all other arms take in all, so that they are compared at equal steps. Not
    given: 2 where 'real-long' or 'real-then-synthetic' is among the arms, else 1 (equal to 'real')."""
    synthetic: Annotated[dict[ArmName, Path], Role.RUNTIME] = {}
    """Images of other generators as further arms, ``NAME=PATH``: a set of `imagpose synthesize`, or a folder of images
    that tells their identities (`datasets.sources.folders.image_folders`). ``{fraction}``, ``{draw}`` in a path stand
    for the subset's."""
    protocol: Literal["leak-free", "paper"] = "leak-free"
    """'leak-free': the generator sees the subset only; 'paper': it is trained on the full training split."""

    continue_training: Literal["scratch", "warm-start"] = "scratch"
    """Where generators start when the data have changed: 'scratch': where the first ones did; 'warm-start': from the
    newest generator of the same settings, if all images that it has seen are among those of the new one."""

    vae: Path | None = None
    """Folder of the AutoencoderKL; not given: `pretrain.vae` makes one from nothing."""
    image_encoder: Annotated[Path, BeforeValidator(folder_of)] | None = None
    """Folder of the Dinov2Model or CLIPVisionModel, or a name of the paper's Table 3 (dinov2-large) that then lies in
    ``weights``; not given: `pretrain.image_encoder` makes one from nothing."""
    generator: Path | None = None
    """Generator, or Stable Diffusion pipeline, that training starts from; not given: from nothing."""

    miniature: MiniatureSettings | None = None
    """The rendered data set that stands in for `root`."""
    pretrain: PretrainConfig | None = None
    """What is trained beforehand on other people."""
    pose_bank: PoseBankSettings | None = None
    """Whose poses arm 'real+foreign-poses' uses; not given: those of the people in `pretrain`."""
    extract_poses: ExtractPosesSettings | None = None
    """The network that finds the skeletons; not given: `poses`, or the keypoints of the rendered people."""
    index: IndexSettings = IndexSettings()
    """How the slice of `identities` is drawn, and how many files of `root` may be unusable."""
    subsets: SelectSubsetsSettings = SelectSubsetsSettings()
    """Which images the subsets take."""
    shards: WriteShardsSettings = WriteShardsSettings()
    """Image shards."""
    encode: EncodeSettings = EncodeSettings()
    """Frozen features."""
    train: TrainGeneratorSettings = TrainGeneratorSettings()
    """The generator of each subset."""
    distill: DistillSettings | None = None
    """A few-step student of each generator, which makes the images in its place (`synthesize.sampler` lcm, 4 steps,
    guidance 1); not given: none."""
    synthesize: SynthesizeSettings = SynthesizeSettings()
    """The synthetic images of each subset."""
    reid: TrainReidSettings = TrainReidSettings()
    """The re-ID networks."""
    check_identity: CheckIdentitySettings = CheckIdentitySettings()
    """Which synthetic images arm 'real+checked' keeps."""
    test_time: NetworksAtTestTimeSettings | None = None
    """What every trained network is tested with besides, without training it again ('{}': all of it); not given:
    nothing."""
    benchmark: BenchmarkSettings = BenchmarkSettings()
    """The table."""

    store: Annotated[Path, Role.RUNTIME] = Path("runs/store")
    """Where artifacts are kept and found again."""
    output: Annotated[Path | None, Role.RUNTIME] = None
    """Folder that keeps the results, a folder for each run and 'latest'; runs/PRESET if not given."""
    device: Annotated[str, Role.RUNTIME] = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""
    gpus: Annotated[int, Role.RUNTIME] = Field(1, ge=1)
    """GPUs of this machine that generator training is spread over, by torchrun."""
    runs_per_gpu: Annotated[int, Role.RUNTIME] = Field(1, ge=1)
    """Trainings, syntheses and re-ID runs that share one GPU: a small network does not fill it by itself."""
    nodes: Annotated[int, Role.RUNTIME] = Field(1, ge=1)
    """Machines that generator training is spread over, `gpus` on each; each runs the command that the log shows."""
    rendezvous: Annotated[str, Role.RUNTIME] = Field("", pattern=r"^$|^[\w.-]+:\d+$")
    """HOST:PORT of one of these machines, where their processes meet; needed with more than one."""
    ray: Annotated[str | None, Role.RUNTIME] = None
    """Address of a Ray cluster ('auto', HOST:PORT) on whose nodes poses, encoding, generators, synthesis and re-ID runs
    are made side by side; this machine alone if not given."""
    grace_seconds: Annotated[float, Role.RUNTIME] = Field(8, gt=0, le=25)
    """Time that a cancelled command has for saving before it is killed. Prefect's worker waits for 30 s in all."""
    stage_hours: Annotated[float | None, Role.RUNTIME] = Field(None, gt=0)
    """Time after which a stage is stopped and fails (what it has done is kept); no limit if not given."""
    workers: Annotated[int, Role.RUNTIME] = Field(2, ge=1)
    """Processes or threads that render, check and decode images, and on a CPU train and sample small networks."""

    @field_validator("fractions", mode="before")
    @classmethod
    def _percentages(cls, fractions: Any) -> Any:
        rule = "fractions are distinct whole percentages from 1 to 100, for example 20,40,60,80"
        single = isinstance(fractions, str) or not isinstance(fractions, Sequence)
        given = [fractions] if single else fractions
        numbers = [float(value) if _is_number(value) else 0 for value in given]
        if not numbers or len(set(numbers)) != len(numbers) or any(n != int(n) or not 1 <= n <= 100 for n in numbers):
            raise ValueError(rule)
        return sorted(int(number) for number in numbers)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for arm in self.arms:
            if ARMS[arm].needs_real and "real" not in self.arms:
                raise ValueError(f"arm '{arm}' is initialized from arm 'real', which is not among the arms")
            if ARMS[arm].trains_on == "foreign" and arm not in self.synthetic:
                raise ValueError(f"arm '{arm}' trains on another generator's images: give them, --synthetic {arm}=PATH")
        self._check_lengths()
        self._check_other_people()
        self._check_student()
        if self.root is None and self.miniature is not None and self.miniature.layout != self.layout:
            raise ValueError(
                f"miniature.layout '{self.miniature.layout}' and layout '{self.layout}' must be the same: "
                f"give --layout {self.miniature.layout} too"
            )
        if self.benchmark.baseline not in (*self.arms, "real"):
            raise ValueError(
                f"benchmark.baseline '{self.benchmark.baseline}' is none of the arms {', '.join(self.arms)}; name one"
            )
        if unknown := sorted(self._compared() - {*ARMS, *self.synthetic}):
            raise ValueError(f"benchmark.comparisons: '{unknown[0]}' is no arm; known: {', '.join(ARMS)}")
        treated = (self.test_time.arms if self.test_time is not None else None) or []
        if absent := sorted(set(treated) - {*self.arms, *self.synthetic}):
            raise ValueError(f"test_time.arms: '{absent[0]}' is none of the arms {', '.join(self.arms)}; name one")
        if self.fractions == [100] and "real" not in self.arms:
            raise ValueError("fractions 100: nothing is synthesized for the full set, so arms must hold 'real'")
        if self.nodes > 1 and not self.rendezvous:
            raise ValueError(f"nodes {self.nodes} need a rendezvous: give HOST:PORT of one of them")
        return self

    def _compared(self) -> set[str]:
        return {name for item in self.benchmark.comparisons for name in (item.arm, item.over)}

    def _check_lengths(self) -> None:
        for name, values in (("arms", self.arms), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must be distinct")
        if taken := sorted(name for name in self.synthetic if name in ARMS and ARMS[name].trains_on != "foreign"):
            raise ValueError(
                f"synthetic {taken[0]}=...: '{taken[0]}' is an arm of ours; give the generator another name"
            )
        for arm in self.arms:
            if ARMS[arm].needs_length and self.steps_ratio() == 1:
                raise ValueError(f"long 1 makes arm '{arm}' as long as 'real'; give a larger one")

    def _check_other_people(self) -> None:
        known = self.has_others()
        if any(ARMS[arm].trains_on == "foreign poses" for arm in self.arms) and not (known or self.pose_bank):
            raise ValueError(
                "arm 'real+foreign-poses' needs another data set's skeletons: give pose_bank.people, "
                "pose_bank.population, or people to pretrain on (pretrain)"
            )
        if (asking := [arm for arm in self.arms if ARMS[arm].needs_others]) and not known:
            raise ValueError(
                f"arm '{asking[0]}' needs the people whom the generator's base has seen: give another data set "
                "(pretrain.people), a population (pretrain.population) or a slice (identities) to pretrain on"
            )

    def _check_student(self) -> None:
        settings = self.synthesize
        if SAMPLERS[settings.sampler].distilled != (self.distill is not None):
            raise ValueError(
                f"synthesize.sampler '{settings.sampler}' {'with' if self.distill else 'without'} distill: 'lcm' and "
                "distill go together (--synthesize.sampler lcm --synthesize.steps 4 --synthesize.guidance 1 "
                "--distill.steps 1000); leave both out, or give both"
            )
        if self.distill is not None and settings.guidance != 1:
            raise ValueError(
                f"synthesize.guidance {settings.guidance:g} with distill: a student's weights hold the guidance "
                "(distill.guidance); give --synthesize.guidance 1"
            )

    def has_others(self) -> bool:
        """Whether there are other people to pretrain on."""
        first = self.pretrain
        return first is not None and any((first.people, first.population, self.identities))

    def completes_poses(self) -> ExtractPosesSettings | None:
        """The network that looks at the test images that published files lack; None where that is not needed."""
        return self.test_time.completes_poses() if self.test_time is not None and self.poses else None

    def steps_ratio(self) -> float:
        """How many times the steps of arm 'real' the other arms take."""
        if self.long is not None:
            return self.long
        return 2.0 if any(ARMS[arm].needs_length for arm in self.arms) else 1.0


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False
