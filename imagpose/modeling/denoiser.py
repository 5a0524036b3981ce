"""IMAGPose's trainable part: UNet, pose encoder and feature-level conditioning, and how their inputs are laid out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from datasets.runtime.errors import InputError
from imagpose.config import ModelConfig
from imagpose.modeling.feature_conditioning import FeatureConditioning
from imagpose.modeling.pose_encoder import PoseEncoder
from imagpose.modeling.unet import IMAGPoseUNet

COMPONENTS = ("unet", "pose_encoder", "feature_conditioning")
"""The trained parts, each a folder of a saved generator."""


class IMAGPose(nn.Module):
    """The denoiser. Input channels in order: noisy latents C, mask 1 (1 = visible), masked latents C, pose P.

    The order is Stable Diffusion inpainting's; the mask's meaning is the paper's (section 3.3), its inverse.
    """

    def __init__(
        self, unet: IMAGPoseUNet, pose_encoder: PoseEncoder, feature_conditioning: FeatureConditioning
    ) -> None:
        """Combine the parts; their sizes must match, as those of one saved generator do."""
        super().__init__()
        self.unet = unet
        self.pose_encoder = pose_encoder
        self.feature_conditioning = feature_conditioning

    @property
    def latent_channels(self) -> int:
        """Channels C of a view's latents."""
        return self.unet.config.out_channels

    @property
    def uses_masked_latents(self) -> bool:
        """Whether the visible views' latents are input channels (ILC)."""
        extra = self.unet.config.in_channels - self.pose_encoder.out_channels - 1
        return extra == 2 * self.latent_channels

    @property
    def parts(self) -> dict[str, bool]:
        """The switches of `ModelConfig` that it was made with."""
        return {
            "cross_view_attention": self.unet.config.cross_view_attention,
            "texture_tokens": self.feature_conditioning.config.texture,
            "masked_latents": self.uses_masked_latents,
            "joint_canvas": self.unet.config.joint_canvas,
        }

    def condition_channels(self, mask: Tensor, masked_latents: Tensor, skeletons: Tensor) -> Tensor:
        """The input channels that stay the same during sampling.

        Args:
            mask: (B, 1, 2h, 2w), 1 where a view is visible.
            masked_latents: (B, C, 2h, 2w), zeros where a view is masked.
            skeletons: (B, 3, 2H, 2W) in [0, 1].

        Returns:
            (B, 1 + C + P, 2h, 2w), or without C where ILC is off.
        """
        poses = self.pose_encoder(skeletons)
        parts = [mask, masked_latents, poses] if self.uses_masked_latents else [mask, poses]
        return torch.cat([part.to(poses.dtype) for part in parts], dim=1)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditions: Tensor, context: Tensor) -> Tensor:
        """The network's prediction (noise or velocity) for a canvas, (B, C, 2h, 2w).

        Args:
            noisy_latents: (B, C, 2h, 2w).
            timesteps: (B,) or a scalar.
            conditions: from `condition_channels`.
            context: (B, N + M, D) from `feature_conditioning`.
        """
        channels = torch.cat([noisy_latents.to(conditions.dtype), conditions], dim=1)
        return self.unet(channels, timesteps, encoder_hidden_states=context, return_dict=False)[0]

    def forward(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        masked_latents: Tensor,
        skeletons: Tensor,
        image_tokens: Tensor,
        source_latents: Tensor,
        keep_image: Tensor | None = None,
        keep_texture: Tensor | None = None,
    ) -> Tensor:
        """Everything at once, for training; shapes as in the parts' docstrings."""
        context = self.feature_conditioning(image_tokens, source_latents, keep_image, keep_texture)
        conditions = self.condition_channels(mask, masked_latents, skeletons)
        return self.predict(noisy_latents, timesteps, conditions, context)


def _input_channels(config: ModelConfig, latent_channels: int) -> int:
    masked = latent_channels if config.masked_latents else 0
    return latent_channels + 1 + masked + config.pose_channels[-1]


def _conditioning(config: ModelConfig, dim: int, image_token_dim: int, latent_channels: int) -> FeatureConditioning:
    return FeatureConditioning(
        dim=dim,
        image_token_dim=image_token_dim,
        latent_channels=latent_channels,
        patch=config.token_patch,
        texture=config.texture_tokens,
    )


def new_denoiser(config: ModelConfig, latent_channels: int, image_token_dim: int) -> IMAGPose:
    """A denoiser with random weights, for latents and image tokens of the given widths.

    The input columns of mask, masked latents and pose start at zero, as they do on top of Stable Diffusion.
    """
    down = ["CrossAttnDownBlock2D" if attended else "DownBlock2D" for attended in config.attention]
    up = ["CrossAttnUpBlock2D" if attended else "UpBlock2D" for attended in reversed(config.attention)]
    unet = IMAGPoseUNet(
        in_channels=_input_channels(config, latent_channels),
        out_channels=latent_channels,
        block_out_channels=tuple(config.channels),
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        layers_per_block=config.layers_per_block,
        attention_head_dim=tuple(max(1, width // config.head_width) for width in config.channels),  # number of heads
        cross_attention_dim=config.cross_attention_dim,
        norm_num_groups=config.norm_groups,
        cross_view_attention=config.cross_view_attention,
        joint_canvas=config.joint_canvas,
    )
    with torch.no_grad():
        unet.conv_in.weight[:, latent_channels:] = 0
    feature_conditioning = _conditioning(config, config.cross_attention_dim, image_token_dim, latent_channels)
    return IMAGPose(unet, PoseEncoder(tuple(config.pose_channels)), feature_conditioning)


def denoiser_from_unet2d(unet: UNet2DConditionModel, config: ModelConfig, image_token_dim: int) -> IMAGPose:
    """A denoiser that starts as a stock Stable Diffusion UNet; `config` gives the sizes of what is added."""
    channels, dim = unet.config.out_channels, unet.config.cross_attention_dim
    own = IMAGPoseUNet.from_unet2d(
        unet,
        _input_channels(config, channels),
        cross_view_attention=config.cross_view_attention,
        joint_canvas=config.joint_canvas,
    )
    return IMAGPose(
        own, PoseEncoder(tuple(config.pose_channels)), _conditioning(config, dim, image_token_dim, channels)
    )


def denoiser_with_parts(base: IMAGPose, config: ModelConfig) -> IMAGPose:
    """A denoiser that starts as `base` and has the parts that `config` switches on; sizes are the base's.

    As on top of Stable Diffusion, columns of masked latents start at zero and CVA as the identity. So a base that has
    none of them is a common start for all variants of Table 2.

    Raises:
        InputError: the base has a part that is switched off.
    """
    if lost := parts_lost(base.parts, config):
        raise InputError(f"the generator to start from has {' and '.join(lost)}, which `model` switches off")
    channels, columns = base.latent_channels, base.unet.conv_in.weight
    if config.masked_latents and not base.uses_masked_latents:
        before, poses = columns.split([channels + 1, columns.shape[1] - channels - 1], dim=1)
        columns = torch.cat([before, torch.zeros_like(columns[:, :channels]), poses], dim=1)
    unet = IMAGPoseUNet.continued(
        base.unet, columns, cross_view_attention=config.cross_view_attention, joint_canvas=config.joint_canvas
    )
    conditioning = base.feature_conditioning
    if config.texture_tokens and not base.parts["texture_tokens"]:
        sizes = conditioning.config
        conditioning = _conditioning(config, sizes.dim, sizes.image_token_dim, channels)
        conditioning.projection.load_state_dict(base.feature_conditioning.projection.state_dict())
    return IMAGPose(unet, base.pose_encoder, conditioning)


def parts_lost(parts: Mapping[str, bool], config: ModelConfig) -> list[str]:
    """Which of a denoiser's parts a model's switches would take away."""
    return [name for name, there in parts.items() if there and not getattr(config, name)]
