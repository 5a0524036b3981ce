"""The denoising UNet: diffusers' own class, with cross-view attention after each cross-attention transformer.

Or without a joint canvas, for comparison: M1 of the paper's Table 7 has the four views' noise along the batch.
"""

from __future__ import annotations

import inspect
from typing import Any

from diffusers import ModelMixin, UNet2DConditionModel  # noqa: F401 (diffusers looks here for the class's base)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor
from torch.nn.functional import pad

from datasets.runtime.errors import WeightsError
from imagpose.canvas.view_grid import VIEWS, join_views, split_views
from imagpose.modeling.cross_view_attention import CrossViewTransformer2DModel

CVA_KEY = ".cva."


class IMAGPoseUNet(UNet2DConditionModel):
    """UNet2DConditionModel whose spatial transformers are each followed by CVA; all of SD's weight names stay.

    Pose, mask and masked latents are plain input channels, so the forward arguments are the stock ones.
    """

    def __init__(self, *args: Any, cross_view_attention: bool = True, joint_canvas: bool = True, **kwargs: Any) -> None:
        """As UNet2DConditionModel's, with two switches.

        `cross_view_attention` off gives the stock network (ablations B0, B2, B4); with `joint_canvas` off as well, it
        denoises each view of a canvas by itself (M1).
        """
        super().__init__(*args, **kwargs)
        self.register_to_config(cross_view_attention=cross_view_attention, joint_canvas=joint_canvas)
        if not cross_view_attention:
            return
        for block in [*self.down_blocks, self.mid_block, *self.up_blocks]:
            attentions = getattr(block, "attentions", [])
            for i, attention in enumerate(attentions):
                attentions[i] = CrossViewTransformer2DModel(**attention.config)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        *args: Any,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """As UNet2DConditionModel's, of a canvas (B, C, 2h, 2w)."""
        if self.config.joint_canvas:
            return super().forward(sample, timestep, encoder_hidden_states, *args, return_dict=return_dict, **kwargs)
        times = timestep.repeat_interleave(VIEWS) if isinstance(timestep, Tensor) and timestep.ndim else timestep
        views, context = self.rows(sample), self.rows(encoder_hidden_states)
        output = join_views(super().forward(views, times, context, *args, return_dict=False, **kwargs)[0])
        return UNet2DConditionOutput(sample=output) if return_dict else (output,)

    def rows(self, given: Tensor) -> Tensor:
        """Maps (B, C, 2h, 2w) or tokens (B, N, D) as the layers get them: as they are, or a row for each view."""
        if self.config.joint_canvas:
            return given
        return split_views(given) if given.ndim == 4 else given.repeat_interleave(VIEWS, 0)

    @classmethod
    def from_unet2d(
        cls,
        unet: UNet2DConditionModel,
        in_channels: int,
        *,
        cross_view_attention: bool = True,
        joint_canvas: bool = True,
    ) -> IMAGPoseUNet:
        """Build from a stock Stable Diffusion UNet, whose output is preserved.

        The first convolution keeps its weights and gets zero columns for the new channels (the official code throws
        it away by ``ignore_mismatched_sizes``); CVA starts as the identity.

        Raises:
            WeightsError: the weights are not those of the architecture in the config.
        """
        columns = unet.conv_in.weight
        columns = pad(columns, (0, 0, 0, 0, 0, in_channels - columns.shape[1]))
        return cls.continued(unet, columns, cross_view_attention=cross_view_attention, joint_canvas=joint_canvas)

    @classmethod
    def continued(
        cls, unet: UNet2DConditionModel, columns: Tensor, *, cross_view_attention: bool, joint_canvas: bool
    ) -> IMAGPoseUNet:
        """Build from a UNet that lacks parts; where CVA is among them, it starts as the identity.

        Args:
            unet: a stock one, or one of ours.
            columns: weights of the first convolution, (D, channels, 3, 3), in place of its own.
            cross_view_attention, joint_canvas: the new one's switches.

        Raises:
            WeightsError: the weights are not those of the architecture in the config.
        """
        switches = {"cross_view_attention": cross_view_attention, "joint_canvas": joint_canvas}
        new = cls.from_config(unet.config, in_channels=columns.shape[1], **switches)
        state = unet.state_dict() | {"conv_in.weight": columns}
        missing, unexpected = new.load_state_dict(state, strict=False)
        unknown = [key for key in missing if CVA_KEY not in key] + list(unexpected)
        if unknown:
            raise WeightsError(
                f"not the weights of this UNet: {', '.join(unknown[:3])}; give a complete SD UNet folder"
            )
        return new


def _signature_with_switches() -> inspect.Signature:
    """The stock signature plus our switches: diffusers reads from it which config entries belong to the class."""
    stock = inspect.signature(UNet2DConditionModel.__init__)
    switches = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=True, annotation=bool)
        for name in ("cross_view_attention", "joint_canvas")
    ]
    return stock.replace(parameters=[*stock.parameters.values(), *switches])


# A function takes any attribute, and `inspect` looks for this one.
IMAGPoseUNet.__init__.__signature__ = _signature_with_switches()  # pyrefly: ignore[missing-attribute]
