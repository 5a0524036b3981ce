"""What every training on canvases has in common: which canvases, the optimizer, how long, what is written down."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from datasets.runtime.config import Artifact, Config, Device, Percent, Precision, Probability, Role, Seed
from imagpose.config.fields import check_subset_with_fraction


class CanvasTrainingSettings(Config):
    """Masking, optimizer, schedule and logs, of a generator as of a few-step student of one."""

    min_masked: int = Field(1, ge=1, le=4)
    """Fewest views that are masked; the number is uniform from here to `max_masked`."""
    max_masked: int = Field(4, ge=1, le=4)
    """Most views that are masked. The paper: "randomly occluding 1-4 images" (section 4, c)."""
    drop_image_tokens: Probability = 0.05
    """Share of canvases without image-encoder tokens, for guidance."""
    drop_texture_tokens: Probability = 0.05
    """Share of canvases without texture tokens."""
    drop_both: Probability = 0.05
    """Share of canvases without either."""
    drop_everything: Probability = 0.05
    """Share of canvases of which the model sees the poses alone: all four views masked, no token (guidance's
    unconditional half, Eq. 5)."""
    flip: Probability = 0.5
    """Share of canvases that are flipped as a whole, reference and skeleton included."""
    visible_weight: float = Field(0.1, ge=0)
    """Loss weight of the visible views, which sampling overwrites anyway. The paper's loss (Eq. 4) has 1."""
    steps: int = Field(2000, ge=1)
    """Optimization steps."""
    batch_size: int = Field(8, ge=1)
    """Canvases per step, over all processes."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """'muon': weight matrices and kernels by Muon, the rest by AdamW, at one rate (`imagpose.training.optimizer`)."""
    learning_rate: float = Field(1e-3, gt=0)
    """Rate after warm-up."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay; the paper's (Table 6), and AdamW's own."""
    warmup_steps: int = Field(100, ge=0)
    """Steps of linear warm-up."""
    learning_rate_schedule: Literal["constant", "cosine"] = "cosine"
    """'cosine' decays to a twentieth of the rate at the last step."""
    max_gradient_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the EMA weights, which are the ones that are saved; update k keeps at most k / (9 + k) of the
    average, diffusers' warm-up. 0: no EMA."""
    seed: Seed = 0
    """Initialization, canvases and noise."""
    validation_identities: int = Field(0, ge=0)
    """People kept out of training, whom validation loss and pictures are about, at most a fifth of all; 0: nobody."""
    validation_every: Annotated[int, Role.RUNTIME] = Field(500, ge=1)
    """Steps between validations; one is always made at the end."""
    sample_steps: Annotated[int, Role.RUNTIME] = Field(12, ge=1)
    """Sampler steps of the progress pictures."""
    sample_every: Annotated[int, Role.RUNTIME] = Field(2000, ge=1)
    """Steps between progress pictures; one is always made at the end."""
    checkpoint_every: Annotated[int, Role.RUNTIME] = Field(500, ge=1)
    """Steps between checkpoints; a stop by SIGTERM saves one too."""
    keep_checkpoints: Annotated[int, Role.RUNTIME] = Field(2, ge=1)
    """Checkpoints kept while training; a corrupt newest one falls back to the one before it."""
    log_every: Annotated[int, Role.RUNTIME] = Field(20, ge=1)
    """Steps between lines of logs/train.jsonl."""
    tensorboard: Annotated[bool, Role.RUNTIME] = True
    """Also write logs/tensorboard."""
    gradient_accumulation: Annotated[int, Role.RUNTIME] = Field(1, ge=1)
    """Parts in which a process computes its share of the batch: less memory, the same gradient."""
    workers: Annotated[int, Role.RUNTIME] = Field(0, ge=0)
    """Processes (for each of torchrun's) that read and lay out batches ahead; 0: none. A GPU wants 2 to 4."""
    precision: Precision = "fp32"
    """Mixed precision, by accelerate."""
    compile: Annotated[bool, Role.RUNTIME] = False
    """torch.compile the denoiser: worth its start-up on long runs only. Where that fails, training goes on without."""
    gradient_checkpointing: Annotated[bool, Role.RUNTIME] = False
    """Recompute activations in the backward pass: less memory, a third more time."""

    @model_validator(mode="after")
    def _possible_masking(self) -> Self:
        if self.min_masked > self.max_masked:
            raise ValueError(f"min_masked {self.min_masked} is more than max_masked {self.max_masked}")
        if self.drop_image_tokens + self.drop_texture_tokens + self.drop_both > 1:
            raise ValueError("the three shares of dropped tokens sum to more than 1")
        return self


class CanvasTrainingConfig(CanvasTrainingSettings):
    """What the training loop reads (`imagpose.training.train.Trainer`): the settings and the images."""

    encoded: Artifact
    """Encoded images (latents, tokens, keypoints); the training split is used."""
    subset: Artifact | None = None
    """Subsets to choose from; all images if not given."""
    fraction: Percent | None = None
    """Which fraction of `subset`, in percent."""
    draw: int = Field(0, ge=0)
    """Which draw of `subset`."""
    device: Device = "auto"
    """'auto' (GPU when there is one), 'cpu', 'cuda', 'cuda:1'."""

    @model_validator(mode="after")
    def _subset_with_fraction(self) -> Self:
        check_subset_with_fraction(self.subset, self.fraction, "train on all images")
        return self
