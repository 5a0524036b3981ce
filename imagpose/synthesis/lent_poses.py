"""Target poses of another data set's people: skeletons alone, with where they come from.

A skeleton tells nobody's identity, but a bank may hold the poses that test identities took in the very images they are
tested on. So a bank that shares an image with the data set (its test splits included) is refused, and the set's
manifest records what the bank is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from datasets.poses.bank import PoseBank, read_pose_bank
from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of
from datasets.shards.encoded import EncodedImages
from imagpose.config import SynthesizeConfig
from imagpose.synthesis.seen import data_set_of


@dataclass(frozen=True)
class LentPoses:
    """A bank that may be used, and what the manifest says of it."""

    bank: PoseBank
    provenance: dict[str, Any]

    def by_key(self) -> dict[str, np.ndarray]:
        """(18, 3) keypoints in view pixels, by key."""
        return dict(zip(self.bank.keys, self.bank.keypoints, strict=True))

    def records(self) -> pd.DataFrame:
        """Columns key, keypoints, as `imagpose.synthesis.plan.make_plan` wants them."""
        return pd.DataFrame({"key": self.bank.keys, "keypoints": list(self.bank.keypoints)})


def lend_poses(config: SynthesizeConfig, images: EncodedImages) -> LentPoses | None:
    """The config's bank; None where the subset's own poses are used.

    Raises:
        InputError: the bank shares an image with the data set, or that cannot be told because its index is gone.
    """
    if config.pose_bank is None:
        return None
    bank, own = read_pose_bank(config.pose_bank, images.view_size), data_set_of(config.encoded)
    if own is None:
        raise InputError(
            f"the index that {config.encoded} was made from is gone, so whether pose_bank {config.pose_bank} shares "
            "images with it cannot be told; index and encode the data set again"
        )
    if shared := bank.contents & own.contents:
        raise InputError(
            f"pose_bank {config.pose_bank} holds {len(shared)} images of the data set itself, test images perhaps "
            "among them; give skeletons of other images, or leave it out for the subset's own poses"
        )
    index = manifest_of(bank.index, "index")
    return LentPoses(
        bank,
        {
            "poses": len(bank.keys),
            "shared_images": 0,
            "data_set": str(index["config"]["layout"]),
            "index_sha256": index["content_sha256"],
        },
    )
