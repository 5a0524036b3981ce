"""``python -m flows test-time --run RUN``: all that is tried at test time for one trained network, without Prefect.

The run's manifest says on which images it was trained and tested; a generator draws the test images, and the network
is evaluated with every combination. The same stages and store as a regeneration's, so what is complete is found.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from datasets.poses.config import ImportPosesConfig
from datasets.runtime.config import Device, Location, Role, StageConfig
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import is_complete, local_path, manifest_of
from datasets.runtime.remote.copies import is_file
from datasets.shards.config import EncodeConfig, EncodeSettings, WriteShardsConfig, WriteShardsSettings
from flows.config import complete, merged
from flows.stages import Resources, run_stages, stage_name
from flows.test_time.settings import AtTestTimeSettings
from flows.test_time.stages import Drawer, Surroundings, drawings, evaluation, with_all_skeletons
from imagpose.config import BUILT_IN, DrawingSettings
from reid.config import BenchmarkConfig, TrainReidConfig

logger = logging.getLogger(__name__)


ENCODE = EncodeSettings(flipped=False)
DRAWING = DrawingSettings(sampler="ddim", steps=6, guidance=1.5)
"""What the built-in generator does best (docs/tiny-models.md)."""


class OneNetworkConfig(AtTestTimeSettings):
    """What test time adds to one trained network: a table with intervals paired by query, and seconds."""

    run: Location
    """The network: a finished run of `reid train`."""
    generator: Location = BUILT_IN
    """Folder of the generator that draws: the train stage's artifact (its VAE and image encoder lie in it), or the
    built-in one, which has seen rendered people only."""
    test_shards: Location | None = None
    """Image shards with skeletons of the query and gallery splits; not given: those that the run was tested on."""
    training: Location | None = None
    """Image shards with the skeletons of training images that the standard poses are chosen from; not given: those that
    the run was trained on (of its subset alone)."""
    encode: EncodeSettings = ENCODE
    """At which sizes the generator sees images."""
    drawing: DrawingSettings = DRAWING
    """By which sampler pictures are drawn; the default is what the built-in generator does best."""
    protocol: Literal["leak-free", "paper"] = "leak-free"
    """'leak-free' refuses a generator that has seen test identities."""
    resamples: int = Field(2000, ge=100)
    """Bootstrap resamples of the test identities."""
    store: Annotated[Path, Role.RUNTIME] = Path("runs/store")
    """Where artifacts are kept and found again."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""
    workers: Annotated[int, Role.RUNTIME] = Field(2, ge=1)
    """Processes that draw side by side on a CPU, and threads that decode images."""

    @model_validator(mode="before")
    @classmethod
    def _over_our_defaults(cls, given: Any) -> Any:
        """Of `encode` and `drawing` a field that is given overrides ours, not all of them the stages' own."""
        if not isinstance(given, Mapping):
            return given  # which the class itself refuses
        return merged({"encode": ENCODE.model_dump(), "drawing": DRAWING.model_dump()}, given)

    @model_validator(mode="after")
    def _generator_is_whole(self) -> Self:
        for part in ("vae", "image_encoder"):
            if self.draws() and not is_file(self.generator / part / "config.json"):
                raise ValueError(
                    f"generator {self.generator} has no {part}/config.json; give a folder that 'imagpose train' made"
                )
        return self


class _Network:
    """One network's way through the stages."""

    def __init__(self, config: OneNetworkConfig) -> None:
        self.config, self.run = config, config.run.absolute()
        self.recorded = manifest_of(self.run, TrainReidConfig.stage)["config"]
        self.around = Surroundings(protocol=config.protocol, device=config.device, workers=config.workers)

    def shards(self, name: str, given: Path | None) -> Path:
        """Image shards: those given, or those that the run's manifest names.

        Raises:
            InputError: they are gone, or are a folder without skeletons.
        """
        path = (given or local_path(str(self.recorded[name]))).absolute()
        if not is_complete(path) and (given is not None or self.config.draws() or not path.is_dir()):
            flag = "test-shards" if name == "test_shards" else "training"
            raise InputError(
                f"{path} is no finished 'datasets write-shards'; give one with skeletons by --{flag} FOLDER"
            )
        return path

    def shards_to_draw(self, shards: Path) -> Path:
        """Test images with the skeletons that published files lack, where these are drawn in their own poses."""
        network, recorded = self.config.completes_poses(), manifest_of(shards, WriteShardsConfig.stage)["config"]
        if network is None:
            return shards
        images, published = (local_path(str(recorded[name])) for name in ("images", "poses"))
        if not (is_complete(images) and is_complete(published)):
            logger.warning("%s or %s is gone: images without a skeleton are not drawn again", images, published)
            return shards
        if manifest_of(published)["stage"] != ImportPosesConfig.stage:
            return shards
        packing = WriteShardsSettings(images_per_shard=recorded["images_per_shard"])
        return with_all_skeletons(network, packing, published, images, self.around, self.make)

    def drawer(self, test_shards: Path) -> Drawer:
        """What is drawn for this network, and in poses of which images."""
        training = self.shards("shards", self.config.training)  # missing ones are refused before any work
        test_shards = self.shards_to_draw(test_shards)
        encoded = self.make([self.encoding(shards) for shards in (test_shards, training)])
        of_subset: dict[str, Any] = {}
        if self.recorded.get("subsets") and self.config.training is None:
            of_subset["subset"] = local_path(self.recorded["subsets"])
            of_subset |= {name: self.recorded[name] for name in ("fraction", "draw")}
        return Drawer(encoded=encoded[0], training=encoded[1], **of_subset)

    def encoding(self, shards: Path) -> EncodeConfig:
        """Features of images for the generator, by its own frozen models."""
        generator = self.config.generator.absolute()
        models = {"vae": generator / "vae", "image_encoder": generator / "image_encoder"}
        return complete(EncodeConfig, self.config.encode, shards=shards, device=self.config.device, **models)

    def make(self, configs: Sequence[StageConfig]) -> list[Path]:
        """The artifacts of one stage, made where they are missing."""
        if not configs:
            return []
        found = run_stages(configs, self.config.store, resources=Resources(workers=self.config.workers))
        logger.info("%s: %s", stage_name(configs[0]), found)
        return found.folders

    def table(self) -> Path:
        """Draw, evaluate and compare; returns the table's artifact."""
        config, test_shards = self.config, self.shards("test_shards", self.config.test_shards)
        wanted = {}
        if config.draws():
            generator = config.generator.absolute()
            wanted = drawings(config, config.drawing, generator, self.drawer(test_shards), self.around)
        drawn = dict(zip(wanted, self.make(list(wanted.values())), strict=True))
        evaluated = self.make([evaluation(config, self.run, test_shards, drawn, self.around)])
        arm = str(self.recorded["arm"])
        table = BenchmarkConfig(
            runs=[self.run], evaluations=evaluated, baseline=arm, controls=[], resamples=config.resamples
        )
        return self.make([table])[0]


def treat_network(config: OneNetworkConfig) -> str:
    """Make what is missing; returns the table and where it lies.

    Raises:
        InputError: the run or its images are not there, or the generator leaks.
        CommandError: a stage failed.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    folder = _Network(config).table()
    return f"\n{(folder / 'test_time.txt').read_text(encoding='utf-8').rstrip()}\n\ntables: {folder / 'results.md'}"
