"""The regeneration, stage by stage, free of Prefect.

images -> index -> poses -> subsets -> shards -> encoded -> generator (a subset) -> synthetic set (a subset)
                                         |                                              |
                                         +----> re-ID runs (fraction x draw x arm x seed) <+ -> table -> report
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from datasets.miniature.config import MiniatureConfig, MiniatureSettings
from datasets.poses.config import ExtractPosesConfig, ImportPosesConfig
from datasets.runtime.config import StageConfig
from datasets.runtime.manifests import manifest_of
from datasets.shards.config import EncodeConfig, WriteShardsConfig
from datasets.sources.config import IndexConfig, SelectSubsetsConfig
from flows.config import RegenerateConfig, complete
from flows.material import Images, Material, Models, Population, RegenerationResult, of_data_set
from flows.reid_arms import WHOLE_SET, ReidInputs, Unit, train_arms
from flows.runs.history import of_series
from flows.runs.model_cards import model_cards
from flows.runs.overrides import regenerate_command, variant
from flows.stages import MakeArtifacts
from flows.test_time.stages import (
    Drawer,
    Surroundings,
    draw_pictures,
    draws,
    evaluate_networks,
    needs_generator,
    sees_others,
    with_all_skeletons,
)
from flows.warm_start import starting_point
from imagpose.config import (
    DistillConfig,
    SynthesizeConfig,
    SynthesizeSettings,
    TrainGeneratorConfig,
    TrainImageEncoderConfig,
    TrainVaeConfig,
)
from reid.arms import ARMS
from reid.config import BenchmarkConfig, HistoryEntry, ReportConfig
from reid.history.table import HISTORY, entry_before, read_history

logger = logging.getLogger(__name__)

OTHER_PEOPLE, TEST, POSE_BANK = "other people", "test images", "pose bank"
"""Purposes that tell stages apart that are made more than once."""
POSE_POLICIES: Mapping[str, Mapping[str, str]] = {
    "synthetic": {},
    "reconstructions": {"pose_policy": "reconstruction"},
    "foreign poses": {},
    "rare poses": {"pose_policy": "rare-viewpoint"},
}
"""What an arm may train on that the subset's generator makes (`reid.arms.Arm.trains_on`), and in which poses."""


class Regeneration:
    """A regeneration: each method makes the artifacts of one step and returns where they lie.

    Args:
        config: the settings, checked by `flows.preflight.check`.
        make_artifacts: makes what is missing of several artifacts of one stage; returns their folders in order.
    """

    def __init__(self, config: RegenerateConfig, make_artifacts: MakeArtifacts) -> None:
        self.config = config
        self.purpose = ""
        """What the artifacts in hand are for, where several steps make such: for example of the other people."""
        self._make_artifacts = make_artifacts

    def make(self) -> RegenerationResult:
        """All steps in order."""
        material = self.make_material()
        networks = train_arms(self.config, material.inputs, self.units(), self._make_artifacts)
        test_shards, drawn = material.inputs.test_shards, self.draw_test_images(material)
        evaluations = evaluate_networks(self.config, networks, test_shards, drawn, self._make_artifacts)
        runs, settings = list(networks.values()), self.config.benchmark
        benchmark = self._make(complete(BenchmarkConfig, settings, runs=runs, evaluations=evaluations))
        report = self.write_report(benchmark, runs, material)
        return RegenerationResult(
            report, benchmark, runs, material.synthetic(), material.generators, material.images.index
        )

    def make_material(self) -> Material:
        """Everything that the re-ID runs are made from."""
        people = self.find_people()
        images = self.prepare_images(people)
        subsets = self.select_subsets(images)
        with self._for(TEST):
            test_shards = self.write_shards(images.index, images.poses, ["query", "gallery"])
        with self._for(OTHER_PEOPLE):
            models = self.pretrain(people)
        encoded, generators, generated = None, {}, {}
        if draws(self.config):
            encoded = self.encode(images.shards, models)
            generators = self.train_generators(encoded, subsets, models)
            generated = self.synthesize(encoded, subsets, generators, self.find_pose_bank(models))
        others = None if models.others is None else models.others.shards
        inputs = ReidInputs(images.shards, test_shards, subsets, generated, others)
        return Material(images, encoded, models, generators, inputs)

    def _make(self, config: StageConfig) -> Path:
        (folder,) = self._make_artifacts([config])
        return folder

    @contextmanager
    def _for(self, purpose: str) -> Generator[None]:
        """Say inside the block what the artifacts are for."""
        self.purpose = purpose
        try:
            yield
        finally:
            self.purpose = ""

    def units(self) -> list[Unit]:
        """The subsets, largest last."""
        return [(fraction, draw) for fraction in self.config.fractions for draw in range(self.config.draws)]

    def find_people(self) -> Population:
        """The user's data set, or a rendered one."""
        config = self.config
        if config.root is None:
            assert config.miniature is not None  # flows.preflight
            return self.render(config.miniature, config.identities)
        poses = [path.absolute() for path in config.poses]
        return Population(config.root.absolute(), config.layout, poses, config.coordinates, config.identities)

    def render(self, settings: MiniatureSettings, identities: int | None = None) -> Population:
        """A rendered population, with its own keypoint files unless a network is to find the skeletons."""
        folder = self._make(complete(MiniatureConfig, settings, workers=self.config.workers))
        by_network = self.config.extract_poses is not None
        keypoints = [] if by_network else sorted(folder.rglob("*-annotation-*.csv"))  # files of pairs lie beside them
        return Population(folder, settings.layout, keypoints, identities=identities)

    def prepare_images(self, people: Population, *, others: bool = False) -> Images:
        """Index, poses and training shards of one population; of `others` nobody is held out for testing."""
        index, poses = self.find_skeletons(people, others=others)
        return Images(index, poses, self.write_shards(index, poses, ["train"]))

    def find_skeletons(self, people: Population, *, others: bool = False) -> tuple[Path, Path]:
        """Index and poses of one population."""
        settings = self.config.index
        if others:
            settings = settings.model_copy(update={"validation_identities": None})
        index = self._make(
            complete(
                IndexConfig,
                settings,
                root=people.root,
                layout=people.layout,
                identities=people.identities,
                outside_slice=people.outside_slice,
                workers=self.config.workers,
            )
        )
        return index, self.find_poses(index, people)

    def find_poses(self, index: Path, people: Population) -> Path:
        """Skeletons from files where there are some, else from the network that the config names."""
        if people.keypoints:
            return self._make(ImportPosesConfig(images=index, csv=people.keypoints, coordinates=people.coordinates))
        settings = self.config.extract_poses
        assert settings is not None  # flows.preflight
        settings = settings.model_copy(update={"weights": settings.weights and settings.weights.absolute()})
        resources = {"device": self.config.device, "workers": self.config.workers}
        return self._make(complete(ExtractPosesConfig, settings, images=index, **resources))

    def select_subsets(self, images: Images) -> dict[Unit, Path]:
        """Which images belong to each fraction of each draw.

        One artifact for each, so that another fraction or draw leaves all that was made from the present ones valid.
        """
        units = self.units()
        lists = [
            complete(
                SelectSubsetsConfig, self.config.subsets, images=images.index, fractions=[fraction], draws=draw + 1
            )
            for fraction, draw in units
        ]
        return dict(zip(units, self._make_artifacts(lists), strict=True))

    def write_shards(self, index: Path, poses: Path, splits: list[str]) -> Path:
        """Image shards of some splits."""
        return self._make(complete(WriteShardsConfig, self.config.shards, images=index, poses=poses, splits=splits))

    def pretrain(self, people: Population) -> Models:
        """VAE, image encoder and base generator as given, or trained on other people; none where nothing is drawn."""
        others, first, device = self._other_people(people), self.config.pretrain, {"device": self.config.device}
        if not draws(self.config):
            return Models(others=others)
        given = (self.config.vae, self.config.image_encoder, self.config.generator)
        vae, image_encoder, generator = (path and path.absolute() for path in given)
        if others is None or first is None:
            assert vae is not None and image_encoder is not None  # flows.preflight
            return Models(vae, image_encoder, generator)
        shards = others.shards
        if first.vae is not None:
            vae = self._make(complete(TrainVaeConfig, first.vae, shards=shards, init_from=vae, **device))
        if first.image_encoder is not None:
            inputs = {"shards": shards, "init_from": image_encoder}
            image_encoder = self._make(complete(TrainImageEncoderConfig, first.image_encoder, **inputs, **device))
        assert vae is not None and image_encoder is not None  # flows.preflight
        if first.generator is not None:
            encoded = self.encode(shards, Models(vae, image_encoder, generator))
            inputs = {"encoded": encoded, "init_from": generator}
            generator = self._make(complete(TrainGeneratorConfig, first.generator, **inputs, **device))
        return Models(vae, image_encoder, generator, others)

    def _other_people(self, people: Population) -> Images | None:
        """The population that pretraining may see, or None where there is none (or nothing to pretrain)."""
        first = self.config.pretrain
        if first is None or not sees_others(self.config):
            return None
        if first.people is not None:
            return self.prepare_images(of_data_set(first.people), others=True)
        if first.population is not None:
            return self.prepare_images(self.render(first.population), others=True)
        if self.config.identities is None:
            logger.warning("no people outside the slice: the generator starts from the given models as they are")
            return None
        return self.prepare_images(replace(people, outside_slice=True), others=True)

    def find_pose_bank(self, models: Models) -> Path | None:
        """Skeletons of another data set's people, where an arm's images take their poses from it."""
        if not self._train_on("foreign poses"):
            return None
        bank = self.config.pose_bank
        if bank is None:
            assert models.others is not None  # flows.settings
            return models.others.poses
        with self._for(POSE_BANK):
            population = self.render(bank.population) if bank.population is not None else of_data_set(bank.people)
            return self.find_skeletons(population, others=True)[1]

    def encode(self, shards: Path, models: Models, *, flipped: bool | None = None) -> Path:
        """Frozen features of the images in `shards`; whether `flipped` ones too, by default as the config says."""
        settings = self.config.encode
        if flipped is not None:
            settings = settings.model_copy(update={"flipped": flipped})
        inputs = {"shards": shards, "vae": models.vae, "image_encoder": models.image_encoder}
        return self._make(complete(EncodeConfig, settings, device=self.config.device, **inputs))

    def draw_test_images(self, material: Material) -> dict[Unit, dict[str, Path]]:
        """For each subset, by treatment, its generator's pictures of the test images, where they are requested."""
        if self.config.test_time is None or not self.config.test_time.draws():
            return {}
        with self._for(TEST):
            of_tests = self.encode(self._shards_to_draw(material), material.models, flipped=False)
            assert material.encoded is not None  # something is drawn
            bank, subsets = Drawer(encoded=of_tests, training=material.encoded), material.inputs.subsets
            return draw_pictures(self.config, material.generators, subsets, bank, self._make_artifacts)

    def _shards_to_draw(self, material: Material) -> Path:
        """The test images with the skeletons that published files lack, where these are drawn in their own poses."""
        images, network = material.images, self.config.completes_poses()
        if network is None:
            return material.inputs.test_shards
        around, packing = Surroundings.of(self.config), self.config.shards
        return with_all_skeletons(network, packing, images.poses, images.index, around, self._make_artifacts)

    def train_generators(self, encoded: Path, subsets: Mapping[Unit, Path], models: Models) -> dict[Unit, Path]:
        """The generator of each subset, or its student; under the papers' protocol one of the full training split."""
        config = self.config
        units = [unit for unit in self.units() if needs_generator(config, unit)]
        common = {"encoded": encoded, "init_from": models.generator, "device": config.device}
        if config.protocol == "paper":
            parts = [{}] if units else []
        else:
            parts = [{"subset": subsets[unit], "fraction": unit[0], "draw": unit[1]} for unit in units]
        trainings = [complete(TrainGeneratorConfig, config.train, **part, **common) for part in parts]
        if config.continue_training == "warm-start":
            trainings = [starting_point(training, config.store.absolute()) for training in trainings]
        folders = self._make_artifacts(trainings)
        if config.distill is not None:
            inputs = {"encoded": encoded, "device": config.device}
            taught = zip(parts, folders, strict=True)
            folders = self._make_artifacts(
                [complete(DistillConfig, config.distill, teacher=folder, **part, **inputs) for part, folder in taught]
            )
        return dict(zip(units, folders * (len(units) // max(1, len(folders))), strict=True))

    def _train_on(self, kind: str) -> bool:
        """Whether an arm trains on these images (`reid.arms.Arm.trains_on`)."""
        return any(ARMS[arm].trains_on == kind for arm in self.config.arms)

    def synthesize(
        self, encoded: Path, subsets: Mapping[Unit, Path], generators: Mapping[Unit, Path], bank: Path | None
    ) -> dict[str, dict[Unit, Path]]:
        """The generators' images of each subset, by what an arm trains on (`POSE_POLICIES`): equally many of each."""
        found = {}
        for kind, policy in POSE_POLICIES.items():
            if self._train_on(kind):
                settings = self.config.synthesize.model_copy(update=dict(policy))
                lent = bank if kind == "foreign poses" else None
                with self._for("" if kind == "synthetic" else kind):
                    found[kind] = self._synthesize(settings, encoded, subsets, generators, lent)
        return found

    def _synthesize(
        self,
        settings: SynthesizeSettings,
        encoded: Path,
        subsets: Mapping[Unit, Path],
        generators: Mapping[Unit, Path],
        bank: Path | None,
    ) -> dict[Unit, Path]:
        weights = settings.pose_weights
        settings = settings.model_copy(update={"pose_weights": weights and weights.absolute()})
        common = {"encoded": encoded, "pose_bank": bank, "device": self.config.device}
        units = [unit for unit in generators if unit[0] < WHOLE_SET]
        parts = [{"subset": subsets[unit], "fraction": unit[0], "draw": unit[1]} for unit in units]
        configs = [
            complete(SynthesizeConfig, settings, generator=generators[unit], **part, **common)
            for unit, part in zip(units, parts, strict=True)
        ]
        return dict(zip(units, self._make_artifacts(configs), strict=True))

    def write_report(self, benchmark: Path, runs: list[Path], material: Material) -> Path:
        """The report about all of it."""
        return self._make(
            ReportConfig(
                benchmark=benchmark,
                runs=runs,
                generators=list(dict.fromkeys(material.generators.values())),
                synthetic=list(material.synthetic().values()),
                images=material.images.index,
                poses=material.images.poses,
                model_cards=model_cards(self.config, material.models.used()),
                preset=self.config.preset,
                resolved=self.config.resolved(),
                commands=[regenerate_command(self.config)],
                before=self._before(benchmark),
            )
        )

    def _before(self, benchmark: Path) -> HistoryEntry | None:
        """The regeneration of the same settings that the report compares this one with."""
        entries = of_series(read_history(self.config.output_folder().absolute() / HISTORY), self.config)
        return entry_before(entries, manifest_of(benchmark)["content_sha256"], variant(self.config))
