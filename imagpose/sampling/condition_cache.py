"""What does not change from one sampler step to the next, computed once.

Three savings, each an identity and not an approximation:

* keys and values of the cross-attention depend on the source only;
* the null condition is zero tokens, and keys and values have no bias, so cross-attention of the unconditional half is
  the constant output bias: nothing to compute;
* the first convolution is linear, so mask, masked latents and pose contribute a constant map; and where both halves of
  the guided batch get the same noisy latents and conditions, they share one result.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import conv2d, scaled_dot_product_attention

from imagpose.modeling.denoiser import IMAGPose


class CachedCrossAttention:
    """Attention processor with fixed keys and values; rows past the conditional half get the null condition's result.

    Takes the place of a `BasicTransformerBlock.attn2` processor for one sampling run.
    """

    def __init__(self, attention: Attention, context: Tensor) -> None:
        """Project `context`, (B, N, D) tokens of the conditional half."""
        if attention.to_k.bias is not None or attention.to_v.bias is not None:
            raise ValueError("keys or values have a bias: the null condition's attention is no constant")
        self.key = self._heads(attention, attention.to_k(context))
        self.value = self._heads(attention, attention.to_v(context))

    @staticmethod
    def _heads(attention: Attention, features: Tensor) -> Tensor:
        return features.unflatten(2, (attention.heads, -1)).transpose(1, 2)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """(B or 2B, cells, channels) -> the same shape; conditional rows first."""
        rows = len(self.key)
        query = self._heads(attn, attn.to_q(hidden_states[:rows]))
        mixed = scaled_dot_product_attention(query, self.key, self.value, scale=attn.scale)
        output = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        if len(hidden_states) == rows:
            return output
        null = attn.to_out[0](output.new_zeros(attn.to_out[0].in_features))
        return torch.cat([output, null.expand(len(hidden_states) - rows, output.shape[1], -1)])


class SplitFirstConvolution(nn.Module):
    """`conv_in` of noisy latents alone: the other channels' share is a constant map."""

    def __init__(self, convolution: nn.Conv2d, conditions: Tensor, latent_channels: int) -> None:
        super().__init__()
        weight, stride, padding = convolution.weight, convolution.stride, convolution.padding
        self.stride, self.padding = stride, padding
        self.register_buffer("weight", weight[:, :latent_channels], persistent=False)
        constant = conv2d(conditions, weight[:, latent_channels:], convolution.bias, stride, padding)
        self.register_buffer("constant", constant, persistent=False)

    def forward(self, noisy_latents: Tensor) -> Tensor:
        """(B or 2B, C, 2h, 2w) -> (B or 2B, width, 2h, 2w); with B conditions the second half repeats the first."""
        rows = len(self.constant)
        output = conv2d(noisy_latents[:rows], self.weight, None, self.stride, self.padding) + self.constant
        return output if len(noisy_latents) == rows else torch.cat([output, output])


@contextmanager
def cached_conditions(model: IMAGPose, conditions: Tensor, context: Tensor) -> Generator[None, None, None]:
    """Within the block, `model.unet` takes noisy latents only and ignores `encoder_hidden_states`.

    Args:
        model: in evaluation mode; changed in place and restored at the end.
        conditions: (B, 1 + C + P, 2h, 2w) from `condition_channels`; or (2B, ...) where the two halves of a guided
            batch see different ones.
        context: (B, N + M, D) tokens of the conditional half, which stands first in a guided batch.
    """
    unet = model.unet
    conditions, context = unet.rows(conditions), unet.rows(context)
    attentions = [m for name, m in unet.named_modules() if name.endswith("attn2") and ".cva." not in name]
    processors = [attention.processor for attention in attentions]
    convolution = unet.conv_in
    try:
        for attention in attentions:
            attention.set_processor(CachedCrossAttention(attention, context))
        unet.conv_in = SplitFirstConvolution(convolution, conditions, model.latent_channels)
        yield
    finally:
        unet.conv_in = convolution
        for attention, processor in zip(attentions, processors, strict=True):
            attention.set_processor(processor)
