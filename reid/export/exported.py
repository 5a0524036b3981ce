"""An exported network, run by onnxruntime. Nothing here needs PyTorch."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from datasets.runtime.errors import InputError, WeightsError
from datasets.runtime.manifests import manifest_of
from reid.config import ExportConfig

MODEL = "model.onnx"
INPUT, OUTPUT = "images", "features"
FACTS = "reid"
"""Key of the ONNX metadata under which all facts of the network stand as JSON."""
PACKAGES = ("onnx", "onnxruntime")


def optional(name: str) -> ModuleType:
    """A library of the extra 'export'.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise InputError(
            f"{name} is not installed; run 'pip install {' '.join(PACKAGES)}' (extra 'export' of this project)"
        ) from None


class ExportedNetwork:
    """A finished export, on the CPU.

    Args:
        folder: the artifact of `reid export`.

    Raises:
        InputError: onnxruntime is not installed.
        ArtifactError: `folder` is no export.
        WeightsError: its file cannot be loaded.
    """

    def __init__(self, folder: Path) -> None:
        onnxruntime = optional("onnxruntime")
        manifest_of(folder, ExportConfig.stage)
        path = Path(folder) / MODEL
        try:
            self.session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            facts = json.loads(self.session.get_modelmeta().custom_metadata_map[FACTS])
            self.size: tuple[int, int] = (int(facts["input"]["height"]), int(facts["input"]["width"]))
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            raise WeightsError(f"{path} cannot be loaded ({error}); delete the folder and export again") from None

    def __call__(self, pixels_u8: np.ndarray) -> np.ndarray:
        """Test features (B, D) float32 of (B, 3, H, W) uint8 RGB images."""
        return self.session.run([OUTPUT], {INPUT: pixels_u8})[0]
