"""FLC, feature-level conditioning (paper, section 3.2): what the cross-attention sees of the source image."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import pad


class FeatureConditioning(ModelMixin, ConfigMixin):
    """Image-encoder tokens (high level) and tokens of the source's VAE latents (low level), one after the other.

    The null condition is exact zeros, after projection, in training as in sampling: the attention layers' keys and
    values have no bias, so nothing of the source is left.
    """

    @register_to_config
    def __init__(
        self,
        dim: int = 768,
        image_token_dim: int = 768,
        latent_channels: int = 4,
        patch: int = 16,
        texture: bool = True,
    ) -> None:
        """Tokens of width `dim` from tokens of width `image_token_dim` and `patch` x `patch` cells of latents."""
        super().__init__()
        self.projection = nn.Identity() if image_token_dim == dim else nn.Linear(image_token_dim, dim)
        self.tokenizer = nn.Conv2d(latent_channels, dim, patch, stride=patch) if texture else None
        # The null condition. Where neither of the two has weights (B0, B1 and B3 with equal widths) it is saved, too:
        # diffusers writes no file for a model without tensors, and finds no device for one.
        self.register_buffer("null", torch.zeros(()), persistent=not list(self.parameters()))

    def forward(
        self,
        image_tokens: Tensor,
        source_latents: Tensor,
        keep_image: Tensor | None = None,
        keep_texture: Tensor | None = None,
    ) -> Tensor:
        """Tokens for the cross-attention.

        Args:
            image_tokens: (B, N, D) of the image encoder.
            source_latents: (B, C, h, w), scaled; padded with zeros to a multiple of the patch, never cut.
            keep_image, keep_texture: (B,) bool; False puts zeros in that half. None keeps all.

        Returns:
            (B, N + M, dim), M patches.
        """
        tokens = self._kept(self.projection(image_tokens), keep_image)
        if self.tokenizer is None:
            return tokens
        texture = self._texture_tokens(self.tokenizer, source_latents)
        return torch.cat([tokens, self._kept(texture, keep_texture)], dim=1)

    def _texture_tokens(self, tokenizer: nn.Module, latents: Tensor) -> Tensor:
        patch = self.config.patch
        padding = (0, -latents.shape[3] % patch, 0, -latents.shape[2] % patch)
        return tokenizer(pad(latents, padding)).flatten(2).transpose(1, 2)

    def _kept(self, tokens: Tensor, keep: Tensor | None) -> Tensor:
        # where(), not a product: a dropped NaN or infinity must become zero too
        return tokens if keep is None else torch.where(keep[:, None, None], tokens, self.null.to(tokens.dtype))
