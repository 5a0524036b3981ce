"""Figures of the papers, to stand beside ours.

IMAGPose's own rows were read in the paper; the peers' are quoted as their papers give them and were not looked up again
here (`checked`). All of them were measured with the family's own metrics (docs/synthesis.md), so `ssim_table1` and
`fid_table1` are what to compare, and LPIPS only loosely: PCDMs, by IMAGPose's first author, passes [0, 1] to it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row of a paper's table."""

    method: str
    data: str
    """Data set and size (height x width)."""
    ssim: float
    lpips: float
    fid: float
    checked: bool = False
    """Read in the paper itself for this project."""


TABLE = (
    PublishedRow(method="PIDM", data="DeepFashion 256x176", ssim=0.7312, lpips=0.1678, fid=6.3671),
    PublishedRow(method="CFLD", data="DeepFashion 256x176", ssim=0.7378, lpips=0.1519, fid=6.8043),
    PublishedRow(method="PCDMs", data="DeepFashion 256x176", ssim=0.7444, lpips=0.1365, fid=7.4734),
    PublishedRow(method="IMAGPose (T1)", data="DeepFashion 256x176", ssim=0.7561, lpips=0.1284, fid=5.8738),
    PublishedRow(
        method="IMAGPose, three sources (T3)",
        data="DeepFashion 256x176",
        ssim=0.7727,
        lpips=0.1172,
        fid=5.3286,
        checked=True,
    ),
    PublishedRow(
        method="M1, noise along the batch (Table 7)",
        data="DeepFashion 256x176",
        ssim=0.7145,
        lpips=0.1743,
        fid=6.9406,
        checked=True,
    ),
    PublishedRow(method="PIDM", data="Market-1501 128x64", ssim=0.3054, lpips=0.2415, fid=14.451),
    PublishedRow(method="PCDMs", data="Market-1501 128x64", ssim=0.3169, lpips=0.2238, fid=13.897),
)
