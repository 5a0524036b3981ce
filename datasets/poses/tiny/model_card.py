"""The model card of a trained pose network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets.poses.tiny.network import PoseNetworkConfig

CARD = """# openpose-tiny: skeletons of person crops

A convolutional network of OpenPose's kind (heat maps and part affinity fields, COCO-18) for {height}x{width} crops of
one person, trained by this project from random weights with `python -m datasets train-pose`: {steps:,} steps of
{batch_size} augmented crops, seed {seed}. `weights.safetensors` holds float16 weights, `config.json` the shape and
these facts.

| training crops | images | drawn | held-out: joints within 5 % of the height | found where the file has none |
|---|---|---|---|---|
{rows}

4 % of each set's identities are held out. The first share is over joints that the reference skeleton has, and a joint
that the network misses counts as wrong; the second is over joints that the reference lacks.

**Limits.** One person per crop, filling most of it; not for street scenes, hands, faces or measurements. It was trained
on OpenPose's detections, so it repeats OpenPose's mistakes, including exchanged left and right.

**Terms.** Trained on pictures of pedestrians who were not asked, under Market-1501's terms: non-commercial research
only. Do not use it to identify anyone.
"""


def model_card(facts: Mapping[str, Any], config: PoseNetworkConfig) -> str:
    """The card as Markdown.

    Args:
        facts: of the training, as in config.json.
    """
    rows = "\n".join(
        f"| {name} | {images:,} | {100 * share:.0f} % | {100 * quality['pck']:.1f} % | {100 * quality['extra']:.1f} % |"
        for name, images, share, quality in zip(
            facts["sets"], facts["images"], facts["shares"], facts["held_out"], strict=True
        )
    )
    return CARD.format(
        height=config.height,
        width=config.width,
        steps=facts["steps"],
        batch_size=facts["batch_size"],
        seed=facts["seed"],
        rows=rows,
    )
