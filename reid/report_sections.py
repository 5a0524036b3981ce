"""The report's sections that show curves and pictures: ranking, generator, training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reid.report_data import Run, per_query, points, read_log, synthetic_counts
from reid.report_figures import Chart, cmc_chart, identity_chart, loss_chart
from reid.report_pictures import (
    Picture,
    SourceImages,
    embed_bytes,
    embed_file,
    overlay_pictures,
    read_json,
    tar_images,
)
from reid.report_retrieval import retrieval_section

if TYPE_CHECKING:
    from reid.report import Material

logger = logging.getLogger(__name__)

MOST_RANK = 20
ROWS_PER_SET = 3
SHEET_HEIGHT = 900


@dataclass(frozen=True, kw_only=True)
class GeneratedSet:
    """A finished `imagpose synthesize` artifact."""

    directory: Path
    manifest: dict[str, Any]

    @property
    def fraction(self) -> int:
        """Percent of the real images it was made from."""
        return int(self.manifest["config"].get("fraction") or 100)

    @property
    def draw(self) -> int:
        """Which draw of the subset."""
        return int(self.manifest["config"].get("draw") or 0)

    @property
    def title(self) -> str:
        """For headings."""
        return f"{self.fraction} % of the real images" + (f", draw {self.draw}" if self.draw else "")

    @property
    def note(self) -> str:
        """What the generator has seen of these people."""
        seen = self.manifest.get("summary", {}).get("generator_fraction", self.fraction)
        return (
            "generator trained on this subset"
            if seen == self.fraction
            else (
                "generator trained on the full training split"
                if seen in (None, 100)
                else f"generator trained on {seen} %"
            )
        )


# --- who profits ------------------------------------------------------------------------------------------------------


def ranking_section(material: Material) -> dict[str, Any]:
    """CMC curves and per-identity gains by fraction, from the runs' per-query results."""
    cmc, identities = [], []
    for fraction, runs in material.runs_by_fraction.items():
        curves = {}
        for arm in material.arms.names:
            found = [cmc_curve(run) for run in runs if run.arm == arm]
            if found := [curve for curve in found if curve is not None]:
                curves[arm] = (np.mean(found, axis=0), material.arms.color(arm))
        if curves:
            cmc.append(cmc_chart(f"{fraction} % of the real images", curves, f"cmc-{fraction}"))
        if chart := _identity_chart(material, fraction, runs):
            identities.append(chart)
    return {"cmc_charts": cmc, "identity_charts": identities}


def cmc_curve(run: Run, longest: int = MOST_RANK) -> np.ndarray | None:
    """Share of the matched queries with a right answer among the first 1 ... `longest`."""
    first = per_query(run)["first_rank"].to_numpy()
    return (first[None, :] <= np.arange(1, longest + 1)[:, None]).mean(1) if len(first) else None


def identity_gains(before: Sequence[Run], after: Sequence[Run]) -> pd.Series:
    """Change of each test identity's mean AP, in points, over all runs of two arms."""
    means = [
        pd.concat([per_query(run) for run in runs]).groupby("pid")["ap"].mean() if runs else pd.Series(dtype=float)
        for runs in (before, after)
    ]
    return (100 * (means[1] - means[0])).dropna()


def _identity_chart(material: Material, fraction: int, runs: list[Run]) -> Chart | None:
    before = [run for run in runs if run.arm == material.baseline]
    after = [run for run in runs if run.arm == material.arm]
    gains = identity_gains(before, after)
    if gains.empty:
        return None
    shown = gains.round(1)
    up, down = int((shown > 0).sum()), int((shown < 0).sum())
    caption = f"{up} of {len(gains)} gain, {down} lose; the middle one {points(float(gains.median()))} points."
    return identity_chart(f"{fraction} % of the real images", gains.to_list(), f"identities-{fraction}", caption)


# --- pictures ---------------------------------------------------------------------------------------------------------


def pictures_section(material: Material) -> dict[str, Any]:
    """Skeletons, generated rows, contact sheets, counts, ranked lists."""
    config = material.config
    images = SourceImages(config.images) if config.images is not None else None
    overlays, overlays_missing = [], "Skeleton overlays need the image index and the poses (fields ‘images’, ‘poses’)."
    if images is not None and config.poses is not None:
        overlays = overlay_pictures(images, config.poses)
        overlays_missing = "No training image has a skeleton with at least nine joints."
    showcases = [{"title": s.title, "note": s.note, "rows": showcase_rows(s.directory)} for s in material.sets]
    sheets = [
        {"title": s.title, "picture": embed_file(s.directory / "contact_sheet.png", most_height=SHEET_HEIGHT)}
        for s in material.sets
        if (s.directory / "contact_sheet.png").is_file()
    ]
    counts = [synthetic_counts(s.directory, s.title) for s in material.sets]
    return {
        "overlays": overlays,
        "overlays_missing": overlays_missing,
        "showcases": showcases,
        "has_truth": any(row["has_truth"] for s in showcases for row in s["rows"]),
        "contact_sheets": sheets,
        "flagged": flagged_pictures(material.sets),
        "counts": counts,
        "flagged_count": sum(row["flagged"] != "0" for row in counts),
    } | retrieval_section(material, images)


def showcase_rows(directory: Path, most: int = ROWS_PER_SET) -> list[dict[str, Any]]:
    """Rows of source(s), asked poses and generated pictures from a set's ``showcase.json``."""
    value = read_json(Path(directory) / "showcase.json")
    rows = value.get("rows", []) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [_showcase_row(Path(directory), row) for row in rows[:most] if isinstance(row, dict)]


def _showcase_row(directory: Path, row: dict[str, Any]) -> dict[str, Any]:
    def pictures(name: str, *, photo: bool = True) -> list[Picture]:
        return [
            embed_file(_inside(directory, file), str(row.get("pid", "")), photo=photo) for file in row.get(name, [])
        ]

    generated, poses, truth = pictures("generated"), pictures("poses", photo=False), pictures("truth")
    pairs = [
        {"generated": picture, "pose": _at(poses, i), "truth": _at(truth, i)} for i, picture in enumerate(generated)
    ]
    return {"sources": pictures("sources"), "pairs": pairs, "has_poses": bool(poses), "has_truth": bool(truth)}


def _at(items: Sequence[Picture], i: int) -> Picture | None:
    return items[i] if i < len(items) else None


def _inside(directory: Path, name: object) -> Path:
    """A file below `directory`; one that leads outside becomes a name that does not exist."""
    path = (directory / str(name)).resolve()
    return path if path.is_relative_to(directory.resolve()) else directory / "outside"


def flagged_pictures(sets: Sequence[GeneratedSet], most: int = 10) -> list[dict[str, Any]]:
    """Generated images that were flagged and not trained on, some of each set, with the reason."""
    found = []
    share = max(1, most // max(1, len(sets)))
    for item in sets:
        table = pd.read_parquet(item.directory / "synthetic.parquet", columns=["key", "status"])
        reasons = table[table["status"] != "ok"].head(share).set_index("key")["status"].to_dict()
        for tar in sorted(item.directory.glob("synthetic-*.tar")) if reasons else ():
            for key, data in tar_images(tar, reasons):
                reason = f"{item.fraction} %: {reasons[key]}"
                found.append({"picture": embed_bytes(data, key), "reason": reason})
    return found


# --- training ---------------------------------------------------------------------------------------------------------


def training_section(material: Material) -> dict[str, Any]:
    """Losses of the generators (one chart, a line a fraction) and of the re-ID runs (a chart a fraction)."""
    curves, legend = {}, []
    folders = sorted(material.config.generators, key=lambda folder: _fraction_of(material, folder))
    for place, folder in enumerate(folders):
        log, name = read_log(folder), _generator_name(material, folder)
        if len(log):
            curves[name] = (log["step"], log["loss"], _GENERATOR_COLORS[place % len(_GENERATOR_COLORS)])
            legend.append({"name": name, "color": _GENERATOR_COLORS[place % len(_GENERATOR_COLORS)]})
    generator_charts = [loss_chart("Loss of the generators", curves, "generators")] if curves else []
    reid_charts = []
    for fraction, runs in material.runs_by_fraction.items():
        losses = {}
        for run in runs:
            log = read_log(run.directory, ("log.jsonl",))
            if len(log) and run.arm not in losses:  # one run an arm: the first draw and seed
                losses[run.arm] = (log["step"], log["loss"], material.arms.color(run.arm))
        if losses:
            reid_charts.append(loss_chart(f"Loss at {fraction} %", losses, f"reid-loss-{fraction}", small=True))
    return {"generator_charts": generator_charts, "generator_legend": legend, "reid_charts": reid_charts}


_GENERATOR_COLORS = (5, 1, 2, 4, 3, 6, 7, 0)


def _fraction_of(material: Material, folder: Path) -> tuple[int, int]:
    config = material.manifest(folder)["config"]
    return int(config.get("fraction") or 100), int(config.get("draw") or 0)


def _generator_name(material: Material, folder: Path) -> str:
    fraction, draw = _fraction_of(material, folder)
    return f"{fraction} %" + (f", draw {draw}" if draw else "")
