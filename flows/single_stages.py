"""A flow for each heavy stage, for whoever runs them one by one: in the Prefect UI each shows its config as a form.

They do what `flows.regenerate` does for that stage, with the same command, into the same store.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from datasets.poses.config import ExtractPosesConfig, ImportPosesConfig
from datasets.runtime.config import StageConfig
from datasets.runtime.errors import InputError
from datasets.runtime.remote.addresses import local_only_problem
from datasets.shards.config import EncodeConfig, WriteShardsConfig
from flows.regenerate import make_artifacts
from flows.stages import Resources, stage_name
from imagpose.config import SynthesizeConfig, TrainGeneratorConfig
from reid.config import BenchmarkConfig, TrainReidConfig

STORE = Path("runs/store")


def _make(configs: list[StageConfig], store: Path, gpus: int = 1) -> list[str]:
    if (problem := local_only_problem(store)) is not None:
        raise InputError(f"store: {problem}, where runs keep logs and locks; its stage's own command publishes there")
    resources = Resources(gpus=gpus)
    return make_artifacts(stage_name(configs[0]), configs, store, resources)["folders"]


@flow(name="import-poses", result_serializer="json")
def import_poses(config: ImportPosesConfig, store: Path = STORE) -> str:
    """Skeletons of an index's images from published files; returns the artifact's folder."""
    return _make([config], store)[0]


@flow(name="extract-poses", result_serializer="json")
def extract_poses(config: ExtractPosesConfig, store: Path = STORE) -> str:
    """Skeletons of an index's images, found by a network; returns the artifact's folder."""
    return _make([config], store)[0]


@flow(name="write-shards", result_serializer="json")
def write_shards(config: WriteShardsConfig, store: Path = STORE) -> str:
    """WebDataset tars of an index and its poses; returns the artifact's folder."""
    return _make([config], store)[0]


@flow(name="encode", result_serializer="json")
def encode(config: EncodeConfig, store: Path = STORE) -> str:
    """Frozen features of all images of some shards; returns the artifact's folder."""
    return _make([config], store)[0]


@flow(name="train-imagpose", result_serializer="json")
def train_imagpose(config: TrainGeneratorConfig, gpus: int = 1, store: Path = STORE) -> str:
    """The IMAGPose denoiser, on one GPU or several; returns the generator's folder."""
    return _make([config], store, gpus)[0]


@flow(name="synthesize", result_serializer="json")
def synthesize(config: SynthesizeConfig, store: Path = STORE) -> str:
    """Synthetic images for one subset; returns the artifact's folder."""
    return _make([config], store)[0]


@flow(name="benchmark-reid", result_serializer="json")
def benchmark_reid(runs: list[TrainReidConfig], baseline: str = "real", store: Path = STORE) -> str:
    """Re-ID runs and their table; returns the benchmark's folder."""
    folders = _make(list(runs), store)
    return _make([BenchmarkConfig(runs=[Path(folder) for folder in folders], baseline=baseline)], store)[0]
