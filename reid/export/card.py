"""What a network was trained on and how good it was, as facts and as a page for whoever gets the file."""

from __future__ import annotations

from typing import Any

RUN_FACTS = ("arm", "protocol", "fraction", "draw", "seed", "images", "synthetic_images", "identities", "steps")
NETWORK_FACTS = ("backbone", "weights", "parameters")
FIGURES = ("rank1", "map", "minp", "queries", "gallery")


PAGE = """# A person re-identification network

`model.onnx` turns crops of people into features of {features} numbers; two images of one person have a large cosine.

- Input `{input}`: (batch, 3, {height}, {width}), uint8, RGB, 0 to 255. Resize crops to {width}x{height}
  (width x height) bilinearly, without keeping their proportions.
- The normalization (mean {mean}, deviation {std} of values in [0, 1]) is inside the graph.
- Output `{output}`: (batch, {features}), float32, not of length 1.

```python
import numpy as np
import onnxruntime
from PIL import Image

network = onnxruntime.InferenceSession("model.onnx")
image = Image.open("person.jpg").convert("RGB").resize(({width}, {height}), Image.Resampling.BILINEAR)
pixels = np.asarray(image).transpose(2, 0, 1)[None]
(feature,) = network.run(None, {{"{input}": pixels}})[0]
feature /= np.linalg.norm(feature)
```

Checked against PyTorch: features differ by {difference:g} at most (allowed: {tolerance:g}). The same facts stand in
`model.json` and in the file's own metadata (key `reid`).

| | | |
|---|---|---|
{rows}

Figures are shares in [0, 1] on the run's own test images. Networks that recognize people may be used only where the
law and the people allow it; the training data keep their own licenses.
"""


def card_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The facts of a run that belong to its network.

    Args:
        manifest: of the run.
    """
    summary = manifest["summary"]
    groups = {"training": RUN_FACTS, "network": NETWORK_FACTS, "test": FIGURES}
    card: dict[str, Any] = {
        group: {name: summary[name] for name in names if name in summary} for group, names in groups.items()
    }
    return {**card, "run_key": manifest["key"], "run_content_sha256": manifest["content_sha256"]}


def readme_of(facts: dict[str, Any]) -> str:
    """A page that says how the file is used and what it is."""
    given, made, card, checked = facts["input"], facts["output"], facts["card"], facts["checked"]
    groups = ("training", "network", "test")
    rows = [f"| {group} | {name} | {value} |" for group in groups for name, value in card[group].items()]
    return PAGE.format(
        input=given["name"],
        height=given["height"],
        width=given["width"],
        output=made["name"],
        features=made["shape"][1],
        mean=list(facts["normalization"]["mean"]),
        std=list(facts["normalization"]["std"]),
        difference=checked["difference"],
        tolerance=checked["tolerance"],
        rows="\n".join(rows),
    )
