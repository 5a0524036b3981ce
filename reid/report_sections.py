"""The report's sections that show curves and pictures: ranking, generator, retrieval, training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reid.report_data import Run, points, read_log, synthetic_counts
from reid.report_figures import Chart, cmc_chart, identity_chart, loss_chart
from reid.report_pictures import (
    Picture,
    SourceImages,
    embed_bytes,
    embed_file,
    overlay_pictures,
    ranked_pictures,
    read_json,
    tar_images,
)

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
    for fraction, runs in _by_fraction(material).items():
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


def _by_fraction(material: Material) -> dict[int, list[Run]]:
    """Runs of the headline's protocol by fraction."""
    groups: dict[int, list[Run]] = {}
    for run in material.runs:
        if run.protocol == material.protocol:
            groups.setdefault(run.fraction, []).append(run)
    return dict(sorted(groups.items()))


def per_query(run: Run) -> pd.DataFrame:
    """A run's matched queries: ``query, pid, first_rank, ap``; empty if the run has no such file."""
    path = run.directory / "per_query.parquet"
    if not path.is_file():
        return pd.DataFrame(columns=["query", "pid", "first_rank", "ap"])
    table = pd.read_parquet(path, columns=["query", "pid", "first_rank", "ap"])
    return table[table["first_rank"] > 0]


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


# --- retrieval --------------------------------------------------------------------------------------------------------


def retrieval_section(material: Material, images: SourceImages | None) -> dict[str, Any]:
    """The same queries ranked by the baseline and by the network that also saw synthetic images."""
    nothing = {"retrievals": [], "retrieval_lead": ""}
    if images is None:
        return nothing | {"retrieval_missing": "Ranked lists need the image index (field ‘images’)."}
    for fraction, runs in _by_fraction(material).items():
        pair = _run_pair(runs, material.baseline, material.arm)
        if pair is not None:
            lead = (
                f"Queries of the {fraction} % benchmark, ranked by both networks (draw {pair[0].draw}, seed "
                f"{pair[0].seed}). Chosen by rule, not by eye: the query that gains most average precision, "
                "the next of another person, the one in the middle, and the one that loses most."
            )
            found = retrievals(pair[0], pair[1], images, material)
            return {
                "retrievals": found,
                "retrieval_lead": lead,
                "retrieval_missing": "No query has a match in both runs.",
            }
    return nothing | {
        "retrieval_missing": "Ranked lists need a run of both arms at the same fraction, draw and seed (field ‘runs’)."
    }


def _run_pair(runs: Sequence[Run], baseline: str, arm: str | None) -> tuple[Run, Run] | None:
    """The first draw and seed for which both arms have ranked lists."""
    found = {(r.arm, r.draw, r.seed): r for r in runs if (r.directory / "ranked.parquet").is_file()}
    for run in runs:
        before, after = found.get((baseline, run.draw, run.seed)), found.get((arm, run.draw, run.seed))
        if before and after:
            return before, after
    return None


def retrievals(before: Run, after: Run, images: SourceImages, material: Material) -> list[dict[str, Any]]:
    """A few queries with both ranked lists: from the top, the middle and the bottom of the changes."""
    tables = [per_query(run).set_index("query") for run in (before, after)]
    ranked = [
        pd.read_parquet(run.directory / "ranked.parquet").sort_values(["query", "rank"]) for run in (before, after)
    ]
    change = (tables[1]["ap"] - tables[0]["ap"]).dropna().rename("change").reset_index()
    change["pid"] = change["query"].map(tables[0]["pid"])
    change = change.sort_values(["change", "query"], ascending=[False, True], ignore_index=True)
    shown = []
    for why, query in chosen_queries(change):
        lines = [
            _ranked_line(run, table, answers, query, images, material)
            for run, table, answers in zip((before, after), tables, ranked, strict=True)
        ]
        shown.append({"title": why, "query": images.picture(query), "lines": lines})
    return shown


def chosen_queries(change: pd.DataFrame) -> list[tuple[str, str]]:
    """Which queries to show, from ``query, pid, change`` sorted by falling change.

    The one that gains most, the next best of another person, the one in the middle, the one that loses most.
    """
    if change.empty:
        return []
    last, others = len(change) - 1, change.index[change["pid"] != change["pid"].iloc[0]]
    names = {last // 2: "In the middle", last: "At the bottom", 0: "At the top"}
    if len(others):
        names.setdefault(int(others[0]), "At the top, another person")
    if change["change"].iloc[-1] < 0:
        names[last] = "Loses most"
    if change["change"].iloc[0] > 0:
        names[0] = "Gains most"
    return [
        (f"{names[place]}: AP {points(100 * change['change'].iloc[place])} points", str(change["query"].iloc[place]))
        for place in sorted(names)
    ]


def _ranked_line(
    run: Run, table: pd.DataFrame, ranked: pd.DataFrame, query: str, images: SourceImages, material: Material
) -> dict[str, Any]:
    rows = ranked[ranked["query"] == query].head(10)
    return {
        "arm": run.arm,
        "color": material.arms.color(run.arm),
        "note": f"AP {100 * table.at[query, 'ap']:.0f} %, first right answer at rank {table.at[query, 'first_rank']}",
        "pictures": ranked_pictures(images, rows["gallery"], rows["right"]),
    }


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
    for fraction, runs in _by_fraction(material).items():
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
