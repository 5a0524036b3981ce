"""The denoising UNet: diffusers' own class, with cross-view attention after each cross-attention transformer."""

from __future__ import annotations

import inspect
from typing import Any

from diffusers import ModelMixin, UNet2DConditionModel  # noqa: F401 (diffusers looks here for the class's base)
from torch.nn.functional import pad

from datasets.runtime.errors import WeightsError
from imagpose.modeling.cross_view_attention import CrossViewTransformer2DModel

CVA_KEY = ".cva."


class IMAGPoseUNet(UNet2DConditionModel):
    """UNet2DConditionModel whose spatial transformers are each followed by CVA; all of SD's weight names stay.

    Pose, mask and masked latents are plain input channels, so the forward arguments are the stock ones.
    """

    def __init__(self, *args: Any, cross_view_attention: bool = True, **kwargs: Any) -> None:
        """As UNet2DConditionModel's; `cross_view_attention` off gives the stock network (ablations B0, B2, B4)."""
        super().__init__(*args, **kwargs)
        self.register_to_config(cross_view_attention=cross_view_attention)
        if not cross_view_attention:
            return
        for block in [*self.down_blocks, self.mid_block, *self.up_blocks]:
            attentions = getattr(block, "attentions", [])
            for i, attention in enumerate(attentions):
                attentions[i] = CrossViewTransformer2DModel(**attention.config)

    @classmethod
    def from_unet2d(
        cls, unet: UNet2DConditionModel, in_channels: int, *, cross_view_attention: bool = True
    ) -> IMAGPoseUNet:
        """Build from a stock Stable Diffusion UNet, whose output is preserved.

        The first convolution keeps its weights and gets zero columns for the new channels (the official code throws
        it away by ``ignore_mismatched_sizes``); CVA starts as the identity.

        Raises:
            WeightsError: the weights are not those of the architecture in the config.
        """
        new = cls.from_config(unet.config, in_channels=in_channels, cross_view_attention=cross_view_attention)
        state = unet.state_dict()
        weight = state["conv_in.weight"]
        state["conv_in.weight"] = pad(weight, (0, 0, 0, 0, 0, in_channels - weight.shape[1]))
        missing, unexpected = new.load_state_dict(state, strict=False)
        unknown = [key for key in missing if CVA_KEY not in key] + list(unexpected)
        if unknown:
            raise WeightsError(
                f"not the weights of this UNet: {', '.join(unknown[:3])}; give a complete SD UNet folder"
            )
        return new


def _signature_with_switch() -> inspect.Signature:
    """The stock signature plus our switch: diffusers reads from it which config entries belong to the class."""
    stock = inspect.signature(UNet2DConditionModel.__init__)
    switch = inspect.Parameter("cross_view_attention", inspect.Parameter.KEYWORD_ONLY, default=True, annotation=bool)
    return stock.replace(parameters=[*stock.parameters.values(), switch])


# A function takes any attribute, and `inspect` looks for this one.
IMAGPoseUNet.__init__.__signature__ = _signature_with_switch()  # pyrefly: ignore[missing-attribute]
