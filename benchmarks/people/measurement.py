"""A generator at work on rendered people: who is shown in which pose, the pictures, and every score of a picture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from benchmarks.people.identity_judge import Judge
from benchmarks.people.rendered_people import People
from datasets.poses.backends import open_backend
from datasets.runtime.config import Config, Precision, Role, Seed
from imagpose.canvas.layout import CanvasRequest, Mode, SourceImage
from imagpose.config.fields import Unconditional
from imagpose.config.samplers import SamplerName
from imagpose.evaluation.pair_canvases import Pair, canvases_of
from imagpose.metrics.lpips import Lpips
from imagpose.metrics.similarity import psnr, ssim, ssim_within
from imagpose.sampling.pipeline import IMAGPosePipeline
from imagpose.sampling.pose_check import find_skeletons, pose_score


class DrawingConfig(Config):
    """How a generator draws."""

    sampler: SamplerName = "ddim"
    """Solver; the default is the demo's, as are the next two."""
    steps: int = Field(6, ge=1)
    """Sampler steps."""
    guidance: float = Field(1.5, ge=0)
    """Classifier-free guidance scale; 1 is none and takes half the time."""
    unconditional: Unconditional = "pose"
    """What the unconditional half of guidance still sees."""
    seed: Seed = 0
    """Noise, which of T1's three pictures counts, rows of the sheet."""
    batch_size: Annotated[int, Role.RUNTIME] = Field(16, ge=1)
    """Canvases at a time."""
    precision: Precision = "fp32"
    """Arithmetic of the denoiser."""


@dataclass(frozen=True)
class _Drawn:
    """One picture by its name ``role/person/number``."""

    people: People
    person: int
    number: int

    @property
    def source(self) -> SourceImage:
        image = Image.fromarray(self.people.pictures[self.person, self.number])
        return SourceImage(image=image, keypoints=self.people.keypoints[self.person, self.number])


class Tasks:
    """Who is to be shown in which pose: each person's first source, and every target.

    Attributes:
        pairs: (source, target) by name, person by person.
        pids: (n,) the person of each pair.
        shown, truth: (n, H, W, 3) uint8, the pairs' source and target pictures.
        target_keypoints: (n, 18, 3) the targets' keypoints.
        cover: (n, H, W) bool, where the target's person is.
        turn: (n,) degrees between the person's directions in source and target.
    """

    def __init__(self, judge: Judge, limit: int | None) -> None:
        sources, targets = judge.sources, judge.targets
        people, count = targets.pictures.shape[:2]
        people = min(people, limit or people)
        self._drawn = {"source": sources, "target": targets}
        self.pairs: list[Pair] = [(f"source/{p}/0", f"target/{p}/{k}") for p in range(people) for k in range(count)]
        self.members = {
            f"source/{p}/0": [f"source/{p}/{k}" for k in range(sources.pictures.shape[1])] for p in range(people)
        }
        self.pids = np.repeat(np.arange(people), count)
        self.shown = np.repeat(sources.pictures[:people, 0], count, axis=0)
        self.truth, self.target_keypoints = _flat(targets.pictures[:people]), _flat(targets.keypoints[:people])
        self.cover = _flat(targets.covers[:people]) > 127
        turned = np.abs(_flat(targets.yaws[:people]) - np.repeat(sources.yaws[:people, 0], count)) % 360
        self.turn = np.minimum(turned, 360 - turned)

    def source(self, name: str) -> SourceImage:
        """A picture with its skeleton, by name."""
        role, person, number = name.split("/")
        return _Drawn(self._drawn[role], int(person), int(number)).source


def _flat(array: np.ndarray) -> np.ndarray:
    """(P, K, ...) to (P * K, ...)."""
    return array.reshape(-1, *array.shape[2:])


def generate(
    config: DrawingConfig, mode: Mode, pipeline: IMAGPosePipeline, tasks: Tasks
) -> tuple[np.ndarray, dict[str, float]]:
    """A picture for every pair, (n, H, W, 3) uint8, and what a picture cost."""
    canvases = canvases_of(mode, tasks.pairs, tasks.members, config.seed)
    requests = [
        CanvasRequest(
            sources=[tasks.source(name) for name in canvas.sources],
            poses=[tasks.source(name).keypoints for name in canvas.poses],
            seed=canvas.seed,
            mode=canvas.mode,
            keep=[slot for slot, _ in canvas.kept],
        )
        for canvas in canvases
    ]
    made = np.empty_like(tasks.truth)
    before = (time.perf_counter(), time.process_time())
    for start in range(0, len(requests), config.batch_size):
        output = pipeline(
            requests[start : start + config.batch_size],
            sampler=config.sampler,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance,
            unconditional=config.unconditional,
        )
        for canvas, pictures in zip(canvases[start : start + config.batch_size], output.images, strict=True):
            made[[number for _, number in canvas.kept]] = pictures
    spent = (time.perf_counter() - before[0], time.process_time() - before[1])
    return made, {"seconds": round(spent[0] / len(made), 4), "cpu_seconds": round(spent[1] / len(made), 4)}


class Meter:
    """Every measurement of one row of the table."""

    def __init__(self, judge: Judge, tasks: Tasks, lpips: Lpips | None, device: torch.device) -> None:
        self.judge, self.tasks, self.lpips, self.device = judge, tasks, lpips, device
        self.estimator = open_backend("openpose-tiny", None, device)

    def scores(self, row: str, pictures: np.ndarray) -> pd.DataFrame:
        """One line per pair."""
        tasks = self.tasks
        found = find_skeletons(self.estimator, list(pictures))
        answers = self.judge.answers(pictures)
        made, real = _tensor(pictures), _tensor(tasks.truth)
        columns = {
            "row": row,
            "pid": tasks.pids,
            "turn": tasks.turn,
            "pose": [
                pose_score(target_keypoints, skeleton)
                for target_keypoints, skeleton in zip(tasks.target_keypoints, found, strict=True)
            ],
            "identity": (answers == tasks.pids).astype(float),
            "answer": answers,
            "ssim": ssim(made, real).numpy(),
            "psnr": psnr(made, real).numpy(),
            "ssim_person": ssim_within(made, real, torch.from_numpy(tasks.cover)).numpy(),
        }
        if self.lpips is not None:
            parts = zip(made.split(64), real.split(64), strict=True)
            distances = [self.lpips.of_pictures(a.to(self.device), b.to(self.device)).cpu() for a, b in parts]
            columns["lpips"] = torch.cat(distances).numpy()
        return pd.DataFrame(columns).astype({"pose": float, "ssim": float, "psnr": float, "ssim_person": float})


def _tensor(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)
