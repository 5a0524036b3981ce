"""Settings of the store's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from datasets.runtime.config import Config


class StoreConfig(Config):
    """List a store's artifacts: size, age, who needs them."""

    store: Path = Path("runs/store")
    """The store's root."""


class PruneStoreConfig(StoreConfig):
    """Remove what no kept result needs. Without ``--remove`` nothing is touched, only listed."""

    keep_runs: int = Field(4, ge=1)
    """Of each preset (and each set of other settings), so many different results are kept, newest first, with all that
    they were made from."""
    older_than: float = Field(14.0, ge=0)
    """Days. Whatever was made or used later than that is kept too, and so is what it was made from."""
    keep: list[str] = []
    """``STAGE/KEY`` of artifacts made by hand that stay whatever their age, with what they were made from."""
    remove: bool = False
    """Remove it; else it is only listed."""


class ForgetConfig(StoreConfig):
    """Name every artifact that has seen a person or an image, for example after a consent was withdrawn.

    Delete the pictures from the data set first: the next regeneration would read them again.
    """

    pid: list[int] = []
    """Identities."""
    key: list[str] = []
    """Keys of images, as in the index (file names without '.jpg')."""
    root: str | None = None
    """Only the data set whose folder or file has this name or path, where several have the same identities."""
    remove: bool = False
    """Remove these artifacts; else they are only named."""

    @model_validator(mode="after")
    def _someone(self) -> Self:
        if not self.pid and not self.key:
            raise ValueError("nobody to forget: give --pid or --key")
        return self
