"""The regeneration, stage by stage. Free of Prefect: `run` makes the artifacts of a list of configs of one stage.

images -> index -> poses -> subsets -> shards -> encoded -> generator (a subset) -> synthetic set (a subset)
                                         |                                              |
                                         +----> re-ID runs (fraction x draw x arm x seed) <+ -> table -> report
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets.miniature.config import MiniatureConfig
from datasets.poses.backends import POSE_BACKENDS
from datasets.poses.config import ExtractPosesConfig, ImportPosesConfig
from datasets.shards.config import EncodeConfig, WriteShardsConfig
from datasets.sources.config import IndexConfig, SelectSubsetsConfig
from flows.config import ON_OTHERS, RegenerateConfig, complete
from flows.overrides import regenerate_command
from flows.process.commands import PROJECT
from flows.reid_arms import OF_RECONSTRUCTIONS, OF_SYNTHETIC, ReidInputs, Run, Unit, train_arms
from flows.warm_start import starting_point
from imagpose.config import (
    SynthesizeConfig,
    SynthesizeSettings,
    TrainGeneratorConfig,
    TrainImageEncoderConfig,
    TrainVaeConfig,
)
from reid.config import BenchmarkConfig, ReportConfig

logger = logging.getLogger(__name__)

EVERYTHING = 100


@dataclass(frozen=True)
class Images:
    """Indexed images of one population."""

    index: Path
    poses: Path
    shards: Path
    """Image shards of the training split."""


@dataclass(frozen=True)
class Models:
    """Where the generators of the subsets start from."""

    vae: Path
    image_encoder: Path
    generator: Path | None
    others: Path | None = None
    """Training shards of the people whom the base was trained on here."""


@dataclass(frozen=True)
class Regeneration:
    """The artifacts of a finished regeneration."""

    report: Path
    benchmark: Path
    runs: list[Path]
    synthetic: dict[Unit, Path]
    generators: dict[Unit, Path] = field(default_factory=dict)


def regenerate_with(config: RegenerateConfig, run: Run) -> Regeneration:
    """All stages in order.

    Args:
        config: the settings, checked by `flows.preflight.check`.
        run: makes what is missing of several artifacts of one stage; returns their folders in order.
    """
    root, csv = find_images(config, run)
    images = prepare_images(config, root, csv, run)
    (subsets,) = run(
        [
            complete(
                SelectSubsetsConfig, config.subsets, images=images.index, fractions=config.fractions, draws=config.draws
            )
        ]
    )
    (test_shards,) = run([_shards(config, images.index, images.poses, ["query", "gallery"])])
    models = pretrain(config, csv, root, run)
    encoded = encode(config, images.shards, models, run)
    generators = train_generators(config, encoded, subsets, models, run)
    synthetic = synthesize(config, encoded, subsets, generators, run)
    reconstructions = reconstruct(config, encoded, subsets, generators, run)
    inputs = ReidInputs(images.shards, test_shards, subsets, synthetic, reconstructions, models.others)
    runs = train_arms(config, inputs, units(config), run)
    (benchmark,) = run([complete(BenchmarkConfig, config.benchmark, runs=runs)])
    (report,) = run([_report(config, images, benchmark, runs, generators, synthetic, models)])
    return Regeneration(report, benchmark, runs, synthetic, generators)


def find_images(config: RegenerateConfig, run: Run) -> tuple[Path, list[Path]]:
    """The data set's folder and its keypoint files: the user's, or a rendered one."""
    if config.root is not None:
        return config.root.absolute(), [path.absolute() for path in config.poses]
    assert config.miniature is not None  # flows.preflight
    (folder,) = run([complete(MiniatureConfig, config.miniature, workers=config.workers)])
    return folder, keypoint_files(config, folder)


def keypoint_files(config: RegenerateConfig, miniature: Path) -> list[Path]:
    """The keypoint CSVs of a rendered data set; none where a network is to find the skeletons."""
    if config.extract_poses is not None:
        return []
    return sorted(miniature.rglob("*-annotation-*.csv"))  # DeepFashion's has files of pairs beside them


def prepare_images(
    config: RegenerateConfig, root: Path, csv: list[Path], run: Run, *, outside_slice: bool = False
) -> Images:
    """Index, poses and training shards of one population."""
    (index,) = run(
        [
            IndexConfig(
                root=root,
                layout=config.layout,
                identities=config.identities,
                outside_slice=outside_slice,
                workers=config.workers,
            )
        ]
    )
    (poses,) = run([_poses(config, index, csv)])
    (shards,) = run([_shards(config, index, poses, ["train"])])
    return Images(index, poses, shards)


def _poses(config: RegenerateConfig, index: Path, csv: list[Path]) -> ImportPosesConfig | ExtractPosesConfig:
    """Skeletons from files where there are some, else from the network that the config names."""
    if csv:
        coordinates = "image" if config.root is None else config.coordinates  # rendered people come in their own pixels
        return ImportPosesConfig(images=index, csv=csv, coordinates=coordinates)
    settings = config.extract_poses
    assert settings is not None  # flows.preflight
    settings = settings.model_copy(update={"weights": settings.weights and settings.weights.absolute()})
    return complete(ExtractPosesConfig, settings, images=index, device=config.device, workers=config.workers)


def _shards(config: RegenerateConfig, index: Path, poses: Path, splits: list[str]) -> WriteShardsConfig:
    return complete(WriteShardsConfig, config.shards, images=index, poses=poses, splits=splits)


def pretrain(config: RegenerateConfig, csv: list[Path], root: Path, run: Run) -> Models:
    """VAE, image encoder and base generator: as given, or first trained on other people."""
    vae, image_encoder, generator = (
        path and path.absolute() for path in (config.vae, config.image_encoder, config.generator)
    )
    others = _other_people(config, csv, root, run)
    if others is None:
        assert vae is not None and image_encoder is not None  # flows.preflight
        return Models(vae, image_encoder, generator)
    first = config.pretrain
    if first.vae is not None:
        (vae,) = run([complete(TrainVaeConfig, first.vae, shards=others.shards, init_from=vae, device=config.device)])
    if first.image_encoder is not None:
        (image_encoder,) = run(
            [
                complete(
                    TrainImageEncoderConfig,
                    first.image_encoder,
                    shards=others.shards,
                    init_from=image_encoder,
                    device=config.device,
                )
            ]
        )
    models = Models(vae, image_encoder, generator)
    if first.generator is not None:
        encoded = encode(config, others.shards, models, run)
        (generator,) = run(
            [
                complete(
                    TrainGeneratorConfig, first.generator, encoded=encoded, init_from=generator, device=config.device
                )
            ]
        )
    return Models(vae, image_encoder, generator, others.shards)


def _other_people(config: RegenerateConfig, csv: list[Path], root: Path, run: Run) -> Images | None:
    """The population that pretraining may see, or None where there is none (or nothing to pretrain)."""
    first = config.pretrain
    if first is None or not (first.trains_models() or set(ON_OTHERS) & set(config.arms)):
        return None
    if first.population is not None:
        (folder,) = run([complete(MiniatureConfig, first.population, workers=config.workers)])
        layout = first.population.layout
        rendered = config.model_copy(update={"root": None, "identities": None, "layout": layout})
        return prepare_images(rendered, folder, keypoint_files(config, folder), run)
    if config.identities is None:
        logger.warning("no people outside the slice: the generator starts from the given models without pretraining")
        return None
    return prepare_images(config, root, csv, run, outside_slice=True)


def encode(config: RegenerateConfig, shards: Path, models: Models, run: Run) -> Path:
    """Frozen features of the images in `shards`."""
    (encoded,) = run(
        [
            complete(
                EncodeConfig,
                config.encode,
                shards=shards,
                vae=models.vae,
                image_encoder=models.image_encoder,
                device=config.device,
            )
        ]
    )
    return encoded


def units(config: RegenerateConfig) -> list[Unit]:
    """The subsets, largest last."""
    return [(fraction, draw) for fraction in config.fractions for draw in range(config.draws)]


def train_generators(
    config: RegenerateConfig, encoded: Path, subsets: Path, models: Models, run: Run
) -> dict[Unit, Path]:
    """The generator of each subset; under the papers' protocol one that has seen the full training split."""
    wanted = [unit for unit in units(config) if unit[0] < EVERYTHING] if _needs_synthesis(config) else []
    common = {"encoded": encoded, "init_from": models.generator, "device": config.device}
    parts = [{"subset": subsets, "fraction": fraction, "draw": draw} for fraction, draw in wanted]
    if config.protocol == "paper":
        parts = [{}] if wanted else []
    trainings = [complete(TrainGeneratorConfig, config.train, **part, **common) for part in parts]
    if config.continue_training == "warm-start":
        trainings = [starting_point(training, config.store.absolute()) for training in trainings]
    folders = run(trainings) * (len(wanted) if config.protocol == "paper" else 1)
    return dict(zip(wanted, folders, strict=True))


def _needs_synthesis(config: RegenerateConfig) -> bool:
    return bool({*OF_SYNTHETIC, OF_RECONSTRUCTIONS} & set(config.arms))


def synthesize(
    config: RegenerateConfig, encoded: Path, subsets: Path, generators: Mapping[Unit, Path], run: Run
) -> dict[Unit, Path]:
    """The synthetic images of each subset, where an arm trains on them."""
    if not set(OF_SYNTHETIC) & set(config.arms):
        return {}
    return _synthesize(config, config.synthesize, encoded, subsets, generators, run)


def reconstruct(
    config: RegenerateConfig, encoded: Path, subsets: Path, generators: Mapping[Unit, Path], run: Run
) -> dict[Unit, Path]:
    """As many images as `synthesize` makes, each in its source's own pose, where that control is asked for."""
    if OF_RECONSTRUCTIONS not in config.arms:
        return {}
    settings = config.synthesize.model_copy(update={"pose_policy": "reconstruction"})
    return _synthesize(config, settings, encoded, subsets, generators, run)


def _synthesize(
    config: RegenerateConfig,
    settings: SynthesizeSettings,
    encoded: Path,
    subsets: Path,
    generators: Mapping[Unit, Path],
    run: Run,
) -> dict[Unit, Path]:
    weights = settings.pose_weights
    settings = settings.model_copy(update={"pose_weights": weights and weights.absolute()})
    folders = run(
        [
            complete(
                SynthesizeConfig,
                settings,
                generator=generator,
                encoded=encoded,
                subset=subsets,
                fraction=fraction,
                draw=draw,
                device=config.device,
            )
            for (fraction, draw), generator in generators.items()
        ]
    )
    return dict(zip(generators, folders, strict=True))


def _report(
    config: RegenerateConfig,
    images: Images,
    benchmark: Path,
    runs: list[Path],
    generators: Mapping[Unit, Path],
    synthetic: Mapping[Unit, Path],
    models: Models,
) -> ReportConfig:
    return ReportConfig(
        benchmark=benchmark,
        runs=runs,
        generators=_distinct(generators.values()),
        synthetic=list(synthetic.values()),
        images=images.index,
        poses=images.poses,
        model_cards=model_cards(config, models),
        preset=config.preset,
        resolved=config.resolved(),
        commands=[regenerate_command(config)],
    )


def _distinct(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))


def model_cards(config: RegenerateConfig, models: Models) -> list[Path]:
    """The cards of built-in models in use, or gone on from: what they have seen belongs in the report."""
    built_in = PROJECT / "imagpose" / "builtin"
    paths = (models.vae, models.image_encoder, models.generator, config.vae, config.image_encoder, config.generator)
    used = any(path is not None and path.absolute().is_relative_to(built_in) for path in paths)
    cards = sorted(built_in.rglob("README.md")) if used else []
    extraction = config.extract_poses.backend if config.extract_poses is not None and not config.poses else None
    backends = dict.fromkeys(name for name in (extraction, config.synthesize.pose_backend) if name is not None)
    built_in_weights = (POSE_BACKENDS[name].weights for name in backends)
    return [*cards, *(weights.parent / "README.md" for weights in built_in_weights if weights is not None)]
