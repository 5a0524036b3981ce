"""``python -m imagpose evaluate``: a generator on the published test pairs, in the paper's four scenarios.

All pairs count, nothing is selected: where a canvas gives several pictures of a pair (T1), the seed draws one before
any is made. Pictures are written as PNG and measured as written. The unit of resuming is a file of pictures; its scores
lie beside it. Two rows bound what can be expected: the target as the VAE gives it back (no generator on this VAE can do
better), and the source as it is (what a copy would score).
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from datasets.poses.pairs import Pair, read_pairs
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError
from datasets.runtime.progress import Progress
from datasets.shards.tars import read_samples, write_tar
from datasets.sources.pictures import decode_picture
from imagpose.canvas.layout import CanvasRequest, Size, SourceImage
from imagpose.config import EvaluateGeneratorConfig
from imagpose.config.fields import Mode
from imagpose.evaluation.data import HeldOutImages, fitted, stacked
from imagpose.evaluation.meter import Meter
from imagpose.evaluation.pair_canvases import PairCanvas, canvases_of, draw_pairs
from imagpose.evaluation.table import BOUNDS, write_results
from imagpose.metrics.lpips import LPIPS_COLUMNS, check_sides
from imagpose.pictures.contact_sheet import SheetRow, save_contact_sheet, skeleton_picture
from imagpose.sampling.checks import check_sampler
from imagpose.sampling.generate import view_size_of
from imagpose.sampling.pipeline import IMAGPosePipeline, load_pipeline

logger = logging.getLogger(__name__)

PAIRS_AT_ONCE = 256
"""Pairs of a bound's file of scores."""


def make_evaluation(config: EvaluateGeneratorConfig, directory: Path) -> dict[str, Any]:
    """Make and measure the pictures of every scenario; returns the table's rows.

    Raises:
        InputError: pairs, weights or a generator that do not fit, before any picture is made.
    """
    images, pairs, meter = prepare(config, view_size_of(config.generator))
    Evaluation(config, images, pairs, meter, directory).run()
    return write_results(config, images, pairs, meter.absent, meter.unknown_weights, directory)


def prepare(config: EvaluateGeneratorConfig, view: Size) -> tuple[HeldOutImages, list[Pair], Meter]:
    """What an evaluation needs besides its generator, which may be untrained yet; its views are `view` (height, width).

    Raises:
        InputError: pairs, weights or sizes that do not fit.
    """
    compared = (config.height, config.width) if config.height and config.width else view
    given = read_pairs(config.pairs) if config.pairs else None
    meter = Meter(config)
    for backbone, column in LPIPS_COLUMNS.items():
        if column in meter.perceptual:
            check_sides(backbone, compared)
    images = HeldOutImages(config.shards, view, compared)
    if config.fid_reference == "train" and meter.features and not images.shows_training_people():
        way_out = "add them, or pass --fid-reference targets"
        meter.drop_distance_of_alexnet(f"the shards hold no training images of people; {way_out}")
        if meter.features:
            raise InputError(f"{config.shards} holds no training images of people for FID; {way_out}")
    pairs = draw_pairs(given if given is not None else images.all_pairs(), config.limit, config.seed)
    if len(pairs) < 2:
        raise InputError(f"{len(pairs)} pairs to measure; at least two images of a person with a skeleton are needed")
    images.check(pairs)
    return images, pairs, meter


class Evaluation:
    """All work of one evaluation; finished files are left alone."""

    def __init__(
        self,
        config: EvaluateGeneratorConfig,
        images: HeldOutImages,
        pairs: Sequence[Pair],
        meter: Meter,
        directory: Path,
    ) -> None:
        self.config, self.images, self.pairs, self.meter = config, images, pairs, meter
        self.pictures, self.scored, self.directory = directory / "pictures", directory / "scores", directory
        self.pipeline: IMAGPosePipeline = load_pipeline(config.generator, meter.device, precision=config.precision)
        check_sampler(config.sampler, config.steps, config.guidance, self.pipeline.scheduler)
        for folder in (self.pictures, self.scored):
            folder.mkdir(exist_ok=True)

    def run(self) -> None:
        """Every scenario, the bounds, and the reference of FID."""
        for mode in self.config.modes:
            self._scenario(mode)
        for name in BOUNDS:
            self._bound(name)
        if self.meter.features:
            self._reference()

    def _scenario(self, mode: Mode) -> None:
        canvases = canvases_of(mode, self.pairs, self.images.members, self.config.seed)
        size = self.config.canvases_per_shard
        parts = [canvases[i : i + size] for i in range(0, len(canvases), size)]
        names = [f"{file_name(mode)}-{number:05d}" for number in range(len(parts))]
        done = sum(
            len(part) for part, name in zip(parts, names, strict=True) if (self.pictures / f"{name}.tar").is_file()
        )
        progress = Progress(logger, f"evaluate {mode}", len(canvases), "canvases", done=done)
        for part, name in zip(parts, names, strict=True):
            tar = self.pictures / f"{name}.tar"
            if not tar.is_file():
                self._make(part, tar, progress)
            if not (self.scored / f"{name}.parquet").is_file():
                numbers, made = read_pictures(tar)
                self._score(name, numbers, stacked([fitted(image, self.images.compared) for image in made]))
        if self.config.sheet_rows:
            self._sheet(mode, canvases, names)

    def _make(self, canvases: Sequence[PairCanvas], tar: Path, progress: Progress) -> None:
        """Pictures of some canvases into one tar, ``PAIR.png`` each; seconds on the clock and of the CPU beside it."""
        clock, cpu, members = 0.0, 0.0, []
        for start in range(0, len(canvases), self.config.batch_size):
            batch = canvases[start : start + self.config.batch_size]
            requests = [self._request(canvas) for canvas in batch]
            before = (time.perf_counter(), time.process_time())
            output = self.pipeline(
                requests,
                sampler=self.config.sampler,
                num_inference_steps=self.config.steps,
                guidance_scale=self.config.guidance,
                unconditional=self.config.unconditional,
            )
            clock, cpu = clock + time.perf_counter() - before[0], cpu + time.process_time() - before[1]
            for canvas, made in zip(batch, output.images, strict=True):
                members += [(f"{n:06d}.png", _png(picture)) for (_, n), picture in zip(canvas.kept, made, strict=True)]
            progress.update(len(batch))
        requested = sum(3 if canvas.mode == "IMAGPose*" else 1 for canvas in canvases)
        seconds = {"seconds": clock, "cpu_seconds": cpu, "canvases": len(canvases), "images": requested}
        write_text_atomically(tar.with_suffix(".json"), json.dumps(seconds) + "\n")
        temporary = tar.with_name(f".{tar.name}.tmp")
        write_tar(temporary, iter(members))
        temporary.replace(tar)

    def _request(self, canvas: PairCanvas) -> CanvasRequest:
        return CanvasRequest(
            sources=[
                SourceImage(image=self.images.in_view(key), keypoints=self.images.keypoints(key))
                for key in canvas.sources
            ],
            poses=[self.images.keypoints(key) for key in canvas.poses],
            seed=canvas.seed,
            mode=canvas.mode,
            keep=[slot for slot, _ in canvas.kept],
        )

    def _bound(self, name: str) -> None:
        """Scores of what needs no sampling."""
        for number, start in enumerate(range(0, len(self.pairs), PAIRS_AT_ONCE)):
            label = f"{name}-{number:05d}"
            if (self.scored / f"{label}.parquet").is_file():
                continue
            numbers = list(range(start, min(start + PAIRS_AT_ONCE, len(self.pairs))))
            if name == "copy":
                made = self.images.in_comparison([self.pairs[i][0] for i in numbers])
            else:
                made = self._through_vae([self.pairs[i][1] for i in numbers])
            self._score(label, numbers, made)

    def _through_vae(self, keys: Sequence[str]) -> Tensor:
        pictures = []
        for start in range(0, len(keys), self.config.batch_size):
            sources = [
                SourceImage(image=self.images.in_view(key)) for key in keys[start : start + self.config.batch_size]
            ]
            latents = self.pipeline.encode_latents([source.image for source in sources])
            pictures += [Image.fromarray(picture) for picture in self.pipeline.decode_views(latents)]
        return stacked([fitted(picture, self.images.compared) for picture in pictures])

    def _score(self, label: str, numbers: Sequence[int], made: Tensor) -> None:
        """Scores of pictures `made` of some pairs; the table is written last, so that its being there means done."""
        chosen = [self.pairs[i] for i in numbers]
        real = self.images.in_comparison([target for _, target in chosen])
        parts = [self.meter.scores(a, b) for a, b in zip(made.split(64), real.split(64), strict=True)]
        frame = pd.DataFrame(
            {
                "pair": numbers,
                "source": [source for source, _ in chosen],
                "target": [target for _, target in chosen],
                "pid": [self.images.pid(target) for _, target in chosen],
                **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
            }
        )
        self.meter.save_features(made, self.scored / label)
        temporary = self.scored / f".{label}.parquet.tmp"
        frame.to_parquet(temporary, index=False)
        temporary.replace(self.scored / f"{label}.parquet")

    def _reference(self) -> None:
        """Features of what FID compares with: the training images, a file for each shard, or the pairs' targets."""
        if self.config.fid_reference == "targets":
            targets = sorted({target for _, target in self.pairs})
            self.meter.save_features(self.images.in_comparison(targets), self.scored / "reference-targets")
            return
        for tar in self.images.training_shards():
            path = self.scored / f"reference-{tar.stem}"
            if not all(path.with_name(f"{path.name}.{name}.npy").is_file() for name in self.meter.features):
                pictures = list(self.images.training_pictures(tar))
                if pictures:
                    self.meter.save_features(torch.cat(pictures), path)

    def _sheet(self, mode: str, canvases: Sequence[PairCanvas], names: Sequence[str]) -> None:
        """Sources | target poses | pictures | the targets, for some canvases of a scenario, evenly chosen."""
        count = min(self.config.sheet_rows, len(canvases))
        chosen = [canvases[i] for i in np.linspace(0, len(canvases) - 1, count).round().astype(int)]
        wanted = {number for canvas in chosen for _, number in canvas.kept}
        made = {}
        for name in names:
            numbers, pictures = read_pictures(self.pictures / f"{name}.tar")
            made |= {n: np.asarray(picture) for n, picture in zip(numbers, pictures, strict=True) if n in wanted}
        rows = [
            SheetRow(
                sources=[np.asarray(self.images.in_view(key)) for key in canvas.sources],
                skeletons=[
                    skeleton_picture(self.images.keypoints(self.pairs[n][1]), self.images.view) for _, n in canvas.kept
                ],
                generated=[made[n] for _, n in canvas.kept],
                truth=[np.asarray(self.images.in_view(self.pairs[n][1])) for _, n in canvas.kept],
            )
            for canvas in chosen
        ]
        save_contact_sheet(rows, self.directory / f"contact_sheet-{file_name(mode)}.png")


def read_pictures(tar: Path) -> tuple[list[int], list[Image.Image]]:
    """Pair numbers and RGB pictures of a file that `evaluate` wrote."""
    samples = [(int(key), decode_picture(members["png"])) for key, members in read_samples(tar)]
    return [number for number, _ in samples], [picture for _, picture in samples]


def file_name(mode: str) -> str:
    """A scenario's name without the star."""
    return mode.replace("*", "-star")


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
