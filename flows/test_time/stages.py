"""The stages of test time: pictures of the test images by a generator, and each network tested with them.

Nothing is trained here: a network's evaluation is an artifact of its own, so another treatment is another evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from datasets.poses.config import ExtractPosesConfig, ExtractPosesSettings
from datasets.shards.config import WriteShardsConfig, WriteShardsSettings
from flows.config import RegenerateConfig, complete
from flows.reid_arms import WHOLE_SET, RunCell, Unit, of_whole_set
from flows.stages import MakeArtifacts
from flows.test_time.settings import DRAWN, VIEWS, AtTestTimeSettings
from imagpose.config import DrawingSettings, DrawPosesConfig
from reid.arms import ARMS, arm_of
from reid.config import CentralizeConfig, EvaluateReidConfig


@dataclass(frozen=True, kw_only=True)
class Drawer:
    """What a generator draws, and the training images that may lend the standard poses."""

    encoded: Path
    """Encoded query and gallery images."""
    training: Path
    """Encoded training images."""
    subset: Path | None = None
    fraction: int | None = None
    draw: int = 0


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all stages of test time have in common."""

    protocol: Literal["leak-free", "paper"]
    device: str
    workers: int

    @classmethod
    def of(cls, config: RegenerateConfig) -> Surroundings:
        """Those of a regeneration."""
        return cls(protocol=config.protocol, device=config.device, workers=config.workers)


def needs_generator(config: RegenerateConfig, unit: Unit) -> bool:
    """Whether an arm trains on what a subset's generator makes, or test images are drawn for a network of it."""
    if unit[0] < WHOLE_SET and any(ARMS[arm].needs_generator for arm in config.arms):
        return True
    if config.test_time is None or not config.test_time.draws():
        return False
    tested = config.test_time.arms or [*config.arms, *config.synthetic]
    whole = [arm for arm in tested if of_whole_set(config, arm) and not arm_of(arm).needs_generator]
    return bool(tested if unit[0] < WHOLE_SET else whole)


def draws(config: RegenerateConfig) -> bool:
    """Whether anything is generated: arms of real images alone need neither models nor features."""
    return any(needs_generator(config, (fraction, 0)) for fraction in config.fractions)


def draws_for_training(config: RegenerateConfig) -> bool:
    """Whether an arm trains on what the subsets' generators make."""
    subsets = any(fraction < WHOLE_SET for fraction in config.fractions)
    return subsets and any(ARMS[arm].needs_generator for arm in config.arms)


def sees_others(config: RegenerateConfig) -> bool:
    """Whether the people of `pretrain` are used: by a model that is trained, a re-ID network, or as a pose bank."""
    first = config.pretrain
    if first is None:
        return False
    lends = config.pose_bank is None and any(ARMS[arm].trains_on == "foreign poses" for arm in config.arms)
    return lends or (draws(config) and first.trains_models()) or any(ARMS[arm].needs_others for arm in config.arms)


def with_all_skeletons(
    network: ExtractPosesSettings,
    packing: WriteShardsSettings,
    poses: Path,
    images: Path,
    around: Surroundings,
    make: MakeArtifacts,
) -> Path:
    """Shards of the test images with the skeletons that published files lack.

    Args:
        network: finds them.
        poses: what the files have.
        images: the index of both.
    """
    splits = ["query", "gallery"]
    network = network.model_copy(update={"weights": network.weights and network.weights.absolute()})
    inputs = {"images": images, "splits": splits}
    resources = {"device": around.device, "workers": around.workers}
    (found,) = make([complete(ExtractPosesConfig, network, published=poses, **inputs, **resources)])
    (shards,) = make([complete(WriteShardsConfig, packing, poses=found, **inputs)])
    return shards


def draw_pictures(
    config: RegenerateConfig,
    generators: Mapping[Unit, Path],
    subsets: Mapping[Unit, Path],
    drawer: Drawer,
    make: MakeArtifacts,
) -> dict[Unit, dict[str, Path]]:
    """For each subset, by treatment, its generator's pictures of the test images in standard poses of that subset.

    They are drawn as the training images are, by the settings of `synthesize`.

    Args:
        subsets: which images each subset holds.
        drawer: what is drawn, whatever the subset.
    """
    settings = config.test_time
    assert settings is not None  # the pipeline asks for nothing then
    wanted = {}
    for unit, generator in generators.items():
        of_subset = replace(drawer, subset=subsets[unit], fraction=unit[0], draw=unit[1])
        stages = drawings(settings, config.synthesize, generator, of_subset, Surroundings.of(config))
        wanted |= {(unit, name): stage for name, stage in stages.items()}
    found: dict[Unit, dict[str, Path]] = {}
    for (unit, name), folder in zip(wanted, make(list(wanted.values())), strict=True):
        found.setdefault(unit, {})[name] = folder
    return found


def evaluate_networks(
    config: RegenerateConfig,
    networks: Mapping[RunCell, Path],
    test_shards: Path,
    drawn: Mapping[Unit, Mapping[str, Path]],
    make: MakeArtifacts,
) -> list[Path]:
    """Each network of the arms that are requested, tested with every combination; none where that was not requested."""
    settings = config.test_time
    if settings is None:
        return []
    around = Surroundings.of(config)
    return make(
        [
            evaluation(settings, run, test_shards, drawn.get(unit, {}), around)
            for (unit, arm, _seed), run in networks.items()
            if settings.arms is None or arm in settings.arms
        ]
    )


def drawings(
    settings: AtTestTimeSettings, drawing: DrawingSettings, generator: Path, drawer: Drawer, around: Surroundings
) -> dict[str, DrawPosesConfig]:
    """By treatment, the sets of pictures that it needs; their poses are not scored, as nothing is left out by that."""
    fields = {name: getattr(drawing, name) for name in DrawingSettings.model_fields}
    fields |= {"pose_backend": None, "pose_weights": None}
    return {
        name: DrawPosesConfig(
            **fields,
            generator=generator,
            encoded=drawer.encoded,
            training=drawer.training,
            subset=drawer.subset,
            fraction=drawer.fraction,
            draw=drawer.draw,
            splits=settings.drawn_splits,
            pose_policy=DRAWN[name],
            poses=settings.poses,
            protocol=around.protocol,
            device=around.device,
        )
        for name in settings.treatments
        if name in DRAWN
    }


def evaluation(
    settings: AtTestTimeSettings, run: Path, test_shards: Path, drawn: Mapping[str, Path], around: Surroundings
) -> EvaluateReidConfig:
    """One network tested with every combination.

    Args:
        drawn: the sets of pictures, by treatment.
    """
    entries = []
    for name in settings.treatments:
        if name in DRAWN:
            entries.append(CentralizeConfig(name=name, images=drawn[name], weight=settings.weight))
        elif name in VIEWS:
            entries.append(CentralizeConfig(name=name, control=VIEWS[name]))
    return EvaluateReidConfig(
        run=run,
        test_shards=test_shards,
        centralize=entries,
        nfc=settings.nfc if "nfc" in settings.treatments else None,
        rerank=settings.rerank if "reranked" in settings.treatments else None,
        protocol=around.protocol,
        device=around.device,
        workers=around.workers,
    )
