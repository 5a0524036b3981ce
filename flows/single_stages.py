"""A flow for each heavy stage, for whoever runs them one by one: in the Prefect UI each shows its config as a form.

They do what `flows.regenerate` does for that stage, with the same command, into the same store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

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
Gpus = Annotated[int, Field(ge=1)]
Runs = Annotated[list[TrainReidConfig], Field(min_length=1)]


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
def train_imagpose(config: TrainGeneratorConfig, gpus: Gpus = 1, store: Path = STORE) -> str:
    """The IMAGPose denoiser, on one GPU or several; returns the generator's folder."""
    return _make([config], store, gpus)[0]


@flow(name="synthesize", result_serializer="json")
def synthesize(config: SynthesizeConfig, store: Path = STORE) -> str:
    """Synthetic images for one subset; returns the artifact's folder."""
    return _make([config], store)[0]


@flow(name="benchmark-reid", result_serializer="json")
def benchmark_reid(runs: Runs, baseline: str = "real", store: Path = STORE) -> str:
    """Re-ID runs and their table; returns the benchmark's folder.

    Args:
        runs: the trainings.
        baseline: the arm of one of them, which gains are counted from.

    Raises:
        InputError: none of them is of that arm; without an arm 'real' the table has no gains, and may.
    """
    arms = dict.fromkeys(run.arm for run in runs)
    if baseline not in (*arms, "real"):
        raise InputError(f"baseline '{baseline}' is none of the runs' arms {', '.join(arms)}; name one")
    folders = _make(list(runs), store)
    return _make([BenchmarkConfig(runs=[Path(folder) for folder in folders], baseline=baseline)], store)[0]
