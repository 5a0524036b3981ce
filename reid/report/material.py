"""Everything the report is made from, read once: the sections take what they need from here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from datasets.runtime.errors import InputError
from datasets.runtime.manifests import is_complete, manifest_of
from reid.config import ReportConfig
from reid.report.data import Arms, ReidRun, read_results, read_runs, with_ancestors
from reid.report.gains import Comparison, main_arm, read_gains
from reid.report.pictures.embed import SourceImages
from reid.report.pictures.sets import GeneratedSet


@dataclass
class Material:
    """Everything the report is made from, read once."""

    config: ReportConfig

    @cached_property
    def results(self) -> pd.DataFrame:
        """One row per run."""
        return read_results(self.config.benchmark)

    @cached_property
    def runs(self) -> list[ReidRun]:
        """The re-ID runs.

        Raises:
            InputError: one of them is none of the table's: its curves would stand beside other runs' figures.
        """
        runs, known = read_runs(self.config.runs), set(self.results["run"])
        if strangers := [run for run in runs if run.manifest["key"] not in known]:
            raise InputError(
                f"{strangers[0].directory} is none of the runs of the table {self.config.benchmark}; give those that "
                "the table was made from"
            )
        return runs

    @cached_property
    def runs_by_fraction(self) -> dict[int, list[ReidRun]]:
        """The runs of the headline's protocol."""
        groups: dict[int, list[ReidRun]] = {}
        for run in self.runs:
            if run.protocol == self.protocol:
                groups.setdefault(run.fraction, []).append(run)
        return dict(sorted(groups.items()))

    @cached_property
    def benchmark_config(self) -> dict[str, Any]:
        """Baseline, confidence, resamples."""
        return manifest_of(self.config.benchmark, "benchmark")["config"]

    @cached_property
    def baseline(self) -> str:
        """The arm that the benchmark counts gains from."""
        return self.benchmark_config.get("baseline", "real")

    @cached_property
    def protocol(self) -> str:
        """The protocol of the headline: leak-free where there is one."""
        return "leak-free" if "leak-free" in set(self.results["protocol"]) else str(self.results["protocol"].iloc[0])

    @cached_property
    def arm(self) -> str | None:
        """The arm of the headline."""
        return main_arm(self.results, self.baseline)

    @cached_property
    def arms(self) -> Arms:
        """Names and colors."""
        return Arms(list(self.results["arm"].unique()))

    @cached_property
    def comparison(self) -> Comparison:
        """The headline's arm and whom it is held against."""
        return Comparison(
            results=self.results,
            gains=read_gains(self.config.benchmark),
            protocol=self.protocol,
            arm=self.arm,
            baseline=self.baseline,
        )

    @cached_property
    def confidence(self) -> float:
        """Of all intervals, as a share."""
        return float(self.benchmark_config.get("confidence", 0.95))

    @cached_property
    def images(self) -> SourceImages | None:
        """The data set's pictures, where an index was handed in."""
        return SourceImages(self.config.images) if self.config.images is not None else None

    @cached_property
    def images_manifest(self) -> dict[str, Any] | None:
        """Manifest of the image index."""
        return manifest_of(self.config.images) if self.config.images is not None else None

    @property
    def rendered(self) -> bool:
        """Whether the data set was rendered by this project and not photographed."""
        root = (self.images_manifest or {}).get("config", {}).get("root")
        return bool(root) and is_complete(Path(root)) and manifest_of(Path(root))["stage"] == "miniature"

    @staticmethod
    @cache
    def manifest(folder: Path) -> dict[str, Any]:
        """Manifest of an artifact."""
        return manifest_of(folder)

    @cached_property
    def manifests(self) -> list[dict[str, Any]]:
        """Manifests of every artifact handed in and of what they were made from, by the time they were begun."""
        config = self.config
        single = [path for path in (config.images, config.poses) if path is not None]
        folders = [*config.stages, *single, *config.generators, *config.synthetic, *config.runs, config.benchmark]
        return with_ancestors(folders, Path(config.benchmark).resolve().parent.parent)

    @cached_property
    def sets(self) -> list[GeneratedSet]:
        """The generated sets, by fraction."""
        sets = [GeneratedSet(directory=Path(d), manifest=manifest_of(d, "synthesize")) for d in self.config.synthetic]
        return sorted(sets, key=lambda item: (item.fraction, item.draw, item.manifest["key"]))
