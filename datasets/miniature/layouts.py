"""Layouts that a rendered data set can be written in, one declared object for each. Light: settings name them."""

from __future__ import annotations

from dataclasses import dataclass

from datasets.runtime.registry import Registry


@dataclass(frozen=True, kw_only=True)
class RenderedLayout:
    """How a rendered set's files are named, and what lies beside them."""

    name: str
    """That of the layout in `datasets.sources.layouts` that reads the set."""
    planner: str
    """``module:function`` that plans the pictures of a config, files named (`datasets.miniature.plan.PlannedImage`)."""
    folders: tuple[str, ...]
    """Top-level folders of the pictures; made even when they stay empty."""
    pose_files: str
    """What the names of the keypoint files begin with."""
    lists: bool = False
    """Whether PATN's split lists and pair lists are written too."""


MARKET1501 = RenderedLayout(
    name="market1501",
    planner="datasets.miniature.plan:plan_market",
    folders=("bounding_box_train", "bounding_box_test", "query"),
    pose_files="market",
)
DEEPFASHION = RenderedLayout(
    name="deepfashion",
    planner="datasets.miniature.plan:plan_deepfashion",
    folders=("img",),
    pose_files="fasion",  # the published files' own spelling
    lists=True,
)

RENDERED_LAYOUTS: Registry[RenderedLayout] = Registry("layout of rendered sets", MARKET1501, DEEPFASHION)
