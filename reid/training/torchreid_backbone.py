"""torchreid's networks as backbones; a module of its own, as `reid.training.backbones` names it."""

from __future__ import annotations

from torch import Tensor, nn

from datasets.runtime.errors import InputError


class TorchreidBackbone(nn.Module):
    """A network of torchreid as a plain feature extractor."""

    def __init__(self, name: str) -> None:
        super().__init__()
        from torchreid.reid.models import build_model  # 3 s of imports (gdown, tensorboard), so only on request

        try:
            self.network = build_model(name, num_classes=1, loss="triplet", pretrained=False)
        except KeyError:
            raise InputError(f"torchreid has no network '{name}'; for example torchreid:osnet_x0_25") from None
        self.num_features = self.network.feature_dim
        self.network.classifier = nn.Identity()  # in training it returns (logits, feature)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        output = self.network(images)
        return output[1] if isinstance(output, tuple) else output
