"""The stage ``compare-poses``: two pose files of the same images side by side.

The first one is the measure. PCK at a radius is the share of its joints that the second one has within that radius; a
joint that the second one lacks counts as wrong. Images that only one of the two looked at do not count. Radii are
percent of the image's height, or pixels.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.poses.config import ComparePosesConfig
from datasets.poses.sheets import Entry, index_of, read_picture, save_sheet
from datasets.poses.skeleton import FLIP_PAIRS, JOINT_COUNT, JOINTS, present_joints
from datasets.poses.table import read_poses
from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError
from datasets.runtime.reading.names import code_span
from datasets.runtime.remote.addresses import spelled
from datasets.sources.index import open_images, read_index

logger = logging.getLogger(__name__)

LOOKED_AT = ("ok", "no-person")
ALL = "all"
OTHER_SIDE = np.arange(JOINT_COUNT)
"""For each joint the one of the body's other side, or itself."""
for _right, _left in FLIP_PAIRS:
    OTHER_SIDE[[_right, _left]] = _left, _right


def make_comparison(config: ComparePosesConfig, directory: Path) -> dict[str, object]:
    """Write images.parquet, joints.parquet, comparison.md, comparison.png and overlays.png; returns the main figures.

    Raises:
        InputError: the two have no image in common that both looked at.
    """
    index = config.images or index_of(config.first)
    rows = paired_rows(config, read_index(index))
    both = rows[rows["status_first"].isin(LOOKED_AT) & rows["status_second"].isin(LOOKED_AT)].reset_index(drop=True)
    if both.empty:
        raise InputError(
            f"{config.first} and {config.second} have looked at no image in common (of {len(rows)} in splits "
            f"{', '.join(config.splits)}, roles {', '.join(config.roles)}); are they of the same data set?"
        )
    first, second = (np.stack(both[f"keypoints_{side}"]) for side in ("first", "second"))
    heights = both["height"].to_numpy(np.float64)
    joints = joint_table(first, second, heights, config)
    images = image_table(both, first, second, heights, config)
    joints.to_parquet(directory / "joints.parquet", index=False)
    images.to_parquet(directory / "images.parquet", index=False)
    write_text_atomically(directory / "comparison.md", comparison_text(rows, joints, config))
    draw_chart(first, second, heights, joints, directory / "comparison.png", config)
    _write_overlays(images, both, index, directory, config)
    total = joints.set_index("joint").loc[ALL]
    return {
        "images": len(rows),
        "compared": len(both),
        **{name: round(float(total[name]), 3) for name in joints.columns if name not in ("joint", "first", "second")},
    }


def paired_rows(config: ComparePosesConfig, images: pd.DataFrame) -> pd.DataFrame:
    """One row for every image of the index that both files have: key, path, height, keypoints and statuses of both."""
    chosen = images["split"].isin(config.splits) & images["role"].isin(config.roles)
    wanted = images.loc[chosen, ["key", "path", "split", "height"]]
    sides = [
        read_poses(poses)[["key", "keypoints", "status"]].rename(
            columns={"keypoints": f"keypoints_{side}", "status": f"status_{side}"}
        )
        for side, poses in (("first", config.first), ("second", config.second))
    ]
    return wanted.merge(sides[0], on="key").merge(sides[1], on="key")


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pixels between joints that both have, (N, 18); NaN where one lacks it."""
    there = present_joints(first) & present_joints(second)
    apart = np.linalg.norm(first[..., :2].astype(np.float64) - second[..., :2], axis=-1)
    return np.where(there, apart, np.nan)


def joint_table(first: np.ndarray, second: np.ndarray, heights: np.ndarray, config: ComparePosesConfig) -> pd.DataFrame:
    """A row per joint, and one for all of them; shares in percent, errors in pixels and percent of the height."""
    apart = distances(first, second)
    percent = 100 * apart / heights[:, None]
    in_first, in_second = present_joints(first), present_joints(second)
    swapped = _swapped(first, second, percent, heights, config.radii_percent[0])
    rows = []
    for name, joint in [*zip(JOINTS, range(JOINT_COUNT), strict=True), (ALL, slice(None))]:
        one, two, swap = (part[:, joint].ravel() for part in (in_first, in_second, swapped))
        error, share = (part[:, joint].ravel() for part in (apart, percent))
        row: dict[str, object] = {"joint": name, "first": int(one.sum()), "second": int(two.sum())}
        for radius in config.radii_percent:
            row[f"pck_{radius:g}_percent"] = _share(share <= radius, one)
        for radius in config.radii_px:
            row[f"pck_{radius:g}_px"] = _share(error <= radius, one)
        row["missing_percent"] = _share(~two, one)
        row["extra_percent"] = _share(two, ~one)
        row["swapped_percent"] = _share(swap, one)
        found = error[np.isfinite(error)]
        row["median_error_px"], row["mean_error_px"] = (
            (float(np.median(found)), float(found.mean())) if len(found) else (np.nan, np.nan)
        )
        row["p95_error_px"] = float(np.percentile(found, 95)) if len(found) else np.nan
        row["mean_error_percent"] = float(share[np.isfinite(share)].mean()) if len(found) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def _swapped(
    first: np.ndarray, second: np.ndarray, percent: np.ndarray, heights: np.ndarray, radius: float
) -> np.ndarray:
    """Joints of the first that only the second one's joint of the other side is near, (N, 18) bool."""
    with np.errstate(invalid="ignore"):
        return (100 * distances(first, second[:, OTHER_SIDE]) / heights[:, None] <= radius) & ~(percent <= radius)


def _share(hits: np.ndarray, of: np.ndarray) -> float:
    """Percent of the places `of` that are hits; NaN of none."""
    return 100 * float(hits[of].mean()) if of.any() else np.nan


def image_table(
    both: pd.DataFrame, first: np.ndarray, second: np.ndarray, heights: np.ndarray, config: ComparePosesConfig
) -> pd.DataFrame:
    """A row per compared image: statuses, numbers of joints, errors and PCK at the first radius."""
    apart = distances(first, second)
    in_first, in_second = present_joints(first), present_joints(second)
    radius = config.radii_percent[0]
    close = 100 * apart / heights[:, None] <= radius
    count = np.isfinite(apart).sum(1)
    joints = in_first.sum(1)
    return both[["key", "path", "split", "status_first", "status_second"]].assign(
        joints_first=joints,
        joints_second=in_second.sum(1),
        missing=(in_first & ~in_second).sum(1),
        extra=(in_second & ~in_first).sum(1),
        mean_error_px=np.where(count, np.nansum(apart, 1) / np.maximum(count, 1), np.nan),
        max_error_px=np.where(count, np.nan_to_num(apart).max(1), np.nan),
        **{f"pck_{radius:g}_percent": np.where(joints, 100 * close.sum(1) / np.maximum(joints, 1), np.nan)},
    )


def comparison_text(rows: pd.DataFrame, joints: pd.DataFrame, config: ComparePosesConfig) -> str:
    """The comparison as Markdown."""
    statuses = pd.crosstab(rows["status_first"], rows["status_second"])
    titles = {
        "joint": "joint",
        "first": "in first",
        "second": "in second",
        "missing_percent": "missing %",
        "extra_percent": "extra %",
        "swapped_percent": "swapped %",
        "median_error_px": "median px",
        "mean_error_px": "mean px",
        "p95_error_px": "95 % px",
        "mean_error_percent": "mean % of height",
    }
    titles |= {f"pck_{radius:g}_percent": f"PCK {radius:g} %" for radius in config.radii_percent}
    titles |= {f"pck_{radius:g}_px": f"PCK {radius:g} px" for radius in config.radii_px}
    return "\n".join(
        [
            "# Two pose files compared",
            "",
            f"- first (the measure): {code_span(spelled(config.first))}",
            f"- second: {code_span(spelled(config.second))}",
            f"- splits: {', '.join(config.splits)}; roles: {', '.join(config.roles)}",
            "",
            "PCK: share of the first one's joints that the second one has within the radius (percent of the image's",
            "height, or pixels); one that it lacks counts as wrong. Missing: share of the first one's joints that the",
            "second one lacks. Extra: share of the joints that the first one lacks and the second one has. Swapped:",
            "share of the first one's joints near which the second one has only the joint of the body's other side.",
            "Errors are over joints that both have.",
            "",
            *markdown_table(joints.rename(columns=titles)[[titles[name] for name in joints.columns]]),
            "",
            "## Images by status (rows: first, columns: second)",
            "",
            *markdown_table(statuses.reset_index().rename(columns={"status_first": ""})),
            "",
        ]
    )


def markdown_table(frame: pd.DataFrame) -> list[str]:
    """Lines of a Markdown table; fractions with one decimal, nothing for NaN."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.1f}"
        return f"{value:,}" if isinstance(value, (int, np.integer)) else str(value)

    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * len(frame.columns)]
    return lines + ["| " + " | ".join(map(cell, row)) + " |" for row in frame.itertuples(index=False, name=None)]


def draw_chart(
    first: np.ndarray,
    second: np.ndarray,
    heights: np.ndarray,
    joints: pd.DataFrame,
    file: Path,
    config: ComparePosesConfig,
) -> None:
    """PCK over the radius for all joints, and per joint at the first radius."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    radii = np.linspace(0, 15, 61)
    percent = (100 * distances(first, second) / heights[:, None])[present_joints(first)]
    curve = [100 * float((percent <= radius).mean()) if percent.size else np.nan for radius in radii]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot(radii, curve, color="#20639b")
    left.set(xlabel="radius, % of image height", ylabel="PCK, %", xlim=(0, 15), ylim=(0, 100), title="all joints")
    left.grid(alpha=0.3)
    column = f"pck_{config.radii_percent[0]:g}_percent"
    single = joints[joints["joint"] != ALL]
    names = single["joint"].str.replace("_", " ")
    right.barh(names, single[column].fillna(0), color="#20639b", label="PCK")
    right.barh(names, single["extra_percent"].fillna(0), height=0.3, color="#ed9b40", label="extra joints")
    right.set(xlim=(0, 100), xlabel="%", title=f"PCK within {config.radii_percent[0]:g} % of the height, by joint")
    right.invert_yaxis()
    figure.legend(loc="outside lower right", ncols=2, fontsize=8)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _write_overlays(
    images: pd.DataFrame, both: pd.DataFrame, index: Path, directory: Path, config: ComparePosesConfig
) -> None:
    """Image, first and second skeleton of random images, then of those furthest apart."""
    if not config.sheet_images:
        return
    order = np.random.default_rng(config.seed).permutation(len(images))
    random = np.sort(order[: -(-config.sheet_images // 2)])
    column = f"pck_{config.radii_percent[0]:g}_percent"
    worst = images.sort_values(
        [column, "mean_error_px", "key"], ascending=[True, False, True], na_position="last"
    ).index
    numbers = [*random, *worst[: config.sheet_images // 2]]
    with open_images(index, config.root) as source:
        entries = [
            Entry(
                image=read_picture(source, images.at[number, "path"]),
                skeletons=[both.at[number, "keypoints_first"], both.at[number, "keypoints_second"]],
                caption=f"{images.at[number, 'key'][:24]} {images.at[number, column]:.0f} %".replace("nan %", "-"),
            )
            for number in numbers
        ]
    save_sheet(entries, directory / "overlays.png", columns=4)
