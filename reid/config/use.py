"""A trained network at work outside the benchmark: features of any images, a file for other programs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from datasets.runtime.config import Artifact, Device, Role, SourceTree, StageConfig


class EmbedConfig(StageConfig):
    """Features of any images as a Parquet file.

    Where the images tell identity, camera and split, it has the columns that `reid evaluate --features` reads.
    """

    stage: ClassVar[str] = "embed-reid"
    package: ClassVar[str] = "reid"
    command: ClassVar[str | None] = "embed"

    images: SourceTree
    """Shards, a folder with a table or in Market-1501's layout, or any folder of pictures (sub-folders included)."""
    run: Artifact | None = None
    """The finished run whose network is used; or give `exported`."""
    exported: Artifact | None = None
    """Instead of a run: its network as `reid export` wrote it (needs onnxruntime)."""
    batch_size: Annotated[int, Role.RUNTIME] = Field(128, ge=1)
    """Images at a time; no more are held in memory."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda'. An exported network runs on the CPU."""
    workers: Annotated[int, Role.RUNTIME] = Field(2, ge=1)
    """Threads that decode images."""

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        if (self.run is None) == (self.exported is None):
            raise ValueError("give either 'run' or 'exported', the network that makes the features")
        return self


class ExportConfig(StageConfig):
    """A run's network as ONNX, checked against PyTorch before it counts as written.

    It takes RGB images as bytes and normalizes them itself.
    """

    stage: ClassVar[str] = "export-reid"
    package: ClassVar[str] = "reid"
    command: ClassVar[str | None] = "export"

    run: Artifact
    """The finished run (`reid train`)."""
