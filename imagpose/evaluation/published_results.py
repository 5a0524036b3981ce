"""Figures of the paper, to stand beside ours.

Every figure was read in the text of IMAGPose (Shen and Tang, NeurIPS 2024, "IMAGPose: A Unified Conditional Framework
for Pose-Guided Person Generation"), in the table or section named by `source`. So the peers' rows are as IMAGPose
quotes them; they were not looked up in the peers' own papers. A cell that is not legible in the text at hand is None.

All of them were measured with the family's own metrics (docs/synthesis.md), so `ssim_table1` and `fid_table1` are what
to compare, and LPIPS only loosely: PCDMs, by IMAGPose's first author, passes [0, 1] to it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row of one of the paper's tables."""

    method: str
    data: str
    """Data set and size (height x width)."""
    ssim: float | None
    lpips: float | None
    fid: float | None
    source: str
    """Table or section of the paper."""


FASHION, FASHION_LARGE, MARKET = "DeepFashion 256x176", "DeepFashion 512x352", "Market-1501 128x64"
Scores = tuple[float | None, float | None, float | None]
"""SSIM, LPIPS, FID."""

_TABLE_1: dict[str, dict[str, Scores]] = {
    FASHION: {
        "Def-GAN": (0.6786, 0.2330, 18.457),
        "PATN": (None, None, 20.751),  # garbled in the text at hand
        "ADGAN": (0.6721, 0.2283, 14.458),
        "PISE": (0.6629, 0.2059, 13.610),
        "GFLA": (0.7074, 0.2341, 10.573),
        "DPTN": (0.7112, 0.1931, 11.387),
        "NTED": (0.7182, 0.1752, 8.6838),
        "CASD": (0.7248, 0.1936, 11.373),
        "PoCoLD": (0.7310, 0.1642, 8.0667),
        "PIDM": (0.7312, 0.1678, 6.3671),
        "CFLD": (0.7378, 0.1519, 6.8040),
        "PCDMs": (0.7444, 0.1365, 7.4734),
        "IMAGPose (T1)": (0.7561, 0.1284, 5.8738),
    },
    FASHION_LARGE: {
        "CocosNet2": (0.7236, 0.2265, 13.325),
        "NTED": (0.7376, 0.1980, 7.7821),
        "PIDM": (0.7419, 0.1768, 5.8365),
        "PoCoLD": (0.7430, 0.1920, 8.4163),
        "CFLD": (0.7478, 0.1819, 7.1490),
        "PCDMs": (0.7601, 0.1475, 7.5519),
        "IMAGPose (T1)": (0.7718, 0.1396, 5.6298),
    },
    MARKET: {
        "Def-GAN": (0.2683, 0.2994, 25.364),
        "PTN": (0.2821, 0.3196, 22.657),
        "GFLA": (0.2883, 0.2817, 19.751),
        "DPTN": (0.2854, 0.2711, 18.995),
        "PIDM": (0.3054, 0.2415, 14.451),
        "PCDMs": (0.3169, 0.2238, 13.897),
        "IMAGPose (T1)": (0.3282, 0.2104, 12.659),
    },
}

_TABLE_3: dict[str, dict[str, Scores]] = {
    "SD 1.5": {
        "CLIP-B/14": (0.7516, 0.1364, 6.1342),
        "CLIP-bigG/14": (0.7548, 0.1331, 5.9645),
        "CLIP-H/14": (0.7552, 0.1296, 6.0231),
        "DINOv2-B/14": (0.7541, 0.1343, 5.9286),
        "DINOv2-L/14": (0.7556, 0.1323, 5.9432),
        "DINOv2-G/14": (0.7561, 0.1284, 5.8738),
    },
    "SD 2.1": {
        "CLIP-B/14": (0.7562, 0.1350, 6.2736),
        "CLIP-bigG/14": (0.7535, 0.1281, 6.2239),
        "CLIP-H/14": (0.7542, 0.1266, 6.1239),
        "DINOv2-B/14": (0.7553, 0.1304, 5.9120),
        "DINOv2-L/14": (0.7579, 0.1276, 6.1315),
        "DINOv2-G/14": (0.7572, 0.1294, 5.8543),
    },
}
"""Base model and image encoder, of which the paper says "DeepFashion" and no size; its chosen pair has Table 1's
figures at 256x176. "CLIP-B/14" is the paper's word; no such weights were published."""


def _row(method: str, data: str, scores: Scores, source: str) -> PublishedRow:
    ssim, lpips, fid = scores
    return PublishedRow(method=method, data=data, ssim=ssim, lpips=lpips, fid=fid, source=source)


TABLE = (
    *(
        _row(method, data, scores, "Table 1")
        for data, methods in _TABLE_1.items()
        for method, scores in methods.items()
    ),
    _row("IMAGPose, three sources (T3)", FASHION, (0.7727, 0.1172, 5.3286), "section 4.1"),
    *(
        _row(f"IMAGPose on {base} with {encoder}", FASHION, scores, "Table 3")
        for base, encoders in _TABLE_3.items()
        for encoder, scores in encoders.items()
    ),
    _row("M1, noise along the batch", FASHION, (0.7145, 0.1743, 6.9406), "Table 7"),
)
