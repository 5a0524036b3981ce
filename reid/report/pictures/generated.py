"""The report's section on the generator: skeletons, rows of generated images, single cases, counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reid.report.material import Material
from reid.report.pictures.cases import cases, extremes, identity_checks, rejected, score_notes
from reid.report.pictures.embed import Picture, SourceImages, embed_file, overlay_pictures, read_json
from reid.report.pictures.sets import GeneratedSet, first_draws

ROWS_PER_SET = 3
SHEET_HEIGHT = 900


def pictures_section(material: Material) -> dict[str, Any]:
    """Skeletons, generated rows, cases, contact sheets, counts, ranked lists."""
    config = material.config
    images = material.images
    overlays, overlays_missing = [], "Skeleton overlays need the image index and the poses (fields ‘images’, ‘poses’)."
    if images is not None and config.poses is not None:
        overlays = overlay_pictures(images, config.poses)
        overlays_missing = "No training image has a skeleton with at least nine joints."
    shown, checks = first_draws(material.sets), identity_checks(material.runs)
    showcases: list[dict[str, Any]] = [
        {"title": s.title, "note": s.note, "rows": showcase_rows(s.directory)} | case_groups(s, checks, images)
        for s in shown
    ]
    counts = [set_counts(s, checks.get(s.directory.resolve(), [])) for s in material.sets]
    return {
        "overlays": overlays,
        "overlays_missing": overlays_missing,
        "showcases": showcases,
        "shown_draws": sorted({s.draw for s in shown}) if len(shown) < len(material.sets) else [],
        "has_truth": any(row["has_truth"] for s in showcases for row in s["rows"]),
        "contact_sheets": contact_sheets(shown),
        "counts": counts,
        "checked": any(row["checked"] for row in counts),
        "several_draws": len({s.draw for s in material.sets}) > 1,
    }


def contact_sheets(sets: Sequence[GeneratedSet]) -> list[dict[str, Any]]:
    """Canvases of each set, spread evenly over it."""
    return [
        {"title": s.title, "picture": embed_file(s.directory / "contact_sheet.png", s.title, most_height=SHEET_HEIGHT)}
        for s in sets
        if (s.directory / "contact_sheet.png").is_file()
    ]


def case_groups(
    item: GeneratedSet, checks: dict[Path, list[pd.DataFrame]], images: SourceImages | None
) -> dict[str, Any]:
    """Best and worst by pose score, and rejected pictures of a set."""
    best, worst = extremes(item.table)
    refused = rejected(item.table, checks.get(item.directory.resolve(), []))
    found = cases(item.directory, item.table, [score_notes(best), score_notes(worst), refused], images)
    scores = item.table["pose_score"].dropna()
    return {
        "best": found[0],
        "worst": found[1],
        "rejected": found[2],
        "any_rejected": bool(refused),
        "mean_score": f"{100 * scores.mean():.0f} %" if len(scores) else "",
    }


def set_counts(item: GeneratedSet, checks: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """How many images per set has, how many were flagged and why, and which share an identity check kept."""
    status, scores = item.table["status"], item.table["pose_score"].dropna()
    reasons = status[status != "ok"].value_counts().sort_index()
    made, flagged = len(status), int(reasons.sum())
    kept = [float(check["kept"].mean()) for check in checks if len(check)]
    return {
        "title": f"{item.fraction} %",
        "draw": item.draw,
        "made": f"{made:,}",
        "used": f"{made - flagged:,}",
        "share": f"{100 * (made - flagged) / max(1, made):.1f} %",
        "flagged": f"{flagged:,}",
        "identities": f"{item.table['pid'].nunique():,}",
        "score": f"{100 * scores.mean():.1f} %" if len(scores) else "—",
        "checked": f"{100 * np.mean(kept):.1f} %" if kept else "",
        "reasons": ", ".join(f"{name}: {count}" for name, count in reasons.items()) or "—",
    }


def showcase_rows(directory: Path, most: int = ROWS_PER_SET) -> list[dict[str, Any]]:
    """Rows of source(s), target poses and generated images from a set's ``showcase.json``."""
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
