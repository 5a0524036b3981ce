"""Named regenerations: each a function that returns full settings, with the reasons for its values.

Another one, from here or from outside, is one call of ``PRESETS.register(Preset(...))`` (docs/extending.md).

The command line and Prefect's parameters override any field: ``--preset demo --fractions 20 --train.steps 40``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.miniature.config import MiniatureSettings
from datasets.poses.config import ExtractPosesSettings
from datasets.runtime.registry import Registry
from datasets.shards.config import EncodeSettings, WriteShardsSettings
from flows.settings import OtherPeopleSettings, PretrainConfig, RegenerateSettings
from imagpose.config import (
    BUILT_IN,
    SD_MODEL,
    ModelConfig,
    SynthesizeSettings,
    TrainGeneratorSettings,
    TrainImageEncoderSettings,
    TrainVaeSettings,
    recommended,
)
from reid.config import BenchmarkSettings, DeclaredComparison, TrainReidSettings, lite_recipe, tiny_recipe

BUILT_IN_PEOPLE = MiniatureSettings(
    train_identities=2000, test_identities=0, images_per_identity=10, distractors=0, junk=0, seed=1001
)
"""The rendered people whom the built-in VAE, image encoder and generator were trained on (docs/tiny-models.md)."""
WEIGHTS = Path("weights")
"""Where the presets that need published weights look for them, below the folder that one works in."""


@dataclass(frozen=True)
class Preset:
    """A named regeneration."""

    name: str
    """What ``--preset`` takes."""
    title: str
    """One line: on which data, with which models, on what hardware."""
    build: Callable[[], RegenerateSettings]
    """Returns its settings; called anew for each run."""


DEMO_PEOPLE = MiniatureSettings(
    train_identities=40, test_identities=24, images_per_identity=7, distractors=24, junk=12, seed=1501
)
"""The rendered people of the demo."""


def demo() -> RegenerateSettings:
    """A first look in minutes on two CPU cores: rendered people, built-in tiny models, the same code."""
    return RegenerateSettings(
        miniature=DEMO_PEOPLE,
        vae=BUILT_IN / "vae",
        image_encoder=BUILT_IN / "image_encoder",
        generator=BUILT_IN,
        extract_poses=ExtractPosesSettings(backend="openpose-tiny"),
        shards=WriteShardsSettings(images_per_shard=100),
        train=_tiny_training(steps=100, checkpoint_every=40),
        # Few DDIM steps and light guidance: what the small base does best (docs/tiny-models.md).
        synthesize=SynthesizeSettings(
            sampler="ddim", steps=6, guidance=1.5, images_per_shard=100, pose_backend="openpose-tiny"
        ),
        reid=TrainReidSettings(**tiny_recipe(steps=200)),
    )


STUDY_QUESTIONS = [
    DeclaredComparison(arm="real+synthetic", over="real-long"),
    DeclaredComparison(arm="real+synthetic", over="real-pretrained"),
    DeclaredComparison(arm="pretrained+synthetic", over="real-pretrained"),
]
"""What the study asks, declared before it is run (docs/benchmark.md)."""


def study() -> RegenerateSettings:
    """Is the demo's gain real? Its case with controls, five draws and two seeds; half an hour on two CPU cores.

    `demo`'s models and settings on other people, whom nothing was chosen by. Ten images of each and not seven: at 20 %
    a quarter of the people then has a single image, near Market-1501's sixth, where in the demo nearly all have; a
    network that sees one image of each person learns next to nothing, and beside that any gain looks large. More test
    identities, because intervals over test identities shrink with their number, while only training costs time.
    """
    return demo().model_copy(
        update={
            "miniature": DEMO_PEOPLE.model_copy(
                update={"images_per_identity": 10, "test_identities": 64, "distractors": 64, "junk": 16, "seed": 2026}
            ),
            "fractions": [20, 40],
            "draws": 5,
            "seeds": [0, 1],
            "long": 1.5,
            # All of equal length. The last asks what synthesis adds to what other people's pictures give by themselves.
            "arms": ["real-long", "real-pretrained", "real+synthetic", "pretrained+synthetic"],
            "pretrain": PretrainConfig(population=BUILT_IN_PEOPLE, reid_steps=1500),
            "benchmark": BenchmarkSettings(
                baseline="real-long", controls=["real-pretrained"], comparisons=STUDY_QUESTIONS
            ),
        }
    )


def smoke() -> RegenerateSettings:
    """Every stage in seconds, for the tests: three people, models of random weights trained for one step."""
    view = {"view_height": 64, "view_width": 32}
    people = {"images_per_identity": 5, "distractors": 2, "junk": 1, "width": 32, "height": 64}
    training = TrainGeneratorSettings(
        model=ModelConfig(
            channels=(16, 32),
            attention=(False, True),
            head_width=16,
            cross_attention_dim=32,
            norm_groups=8,
            pose_channels=(8, 8, 8),
        ),
        steps=2,
        batch_size=2,
        warmup_steps=0,
        sample_steps=2,
    )
    return RegenerateSettings(
        miniature=MiniatureSettings(train_identities=3, test_identities=3, seed=1, **people),
        fractions=[40, 60],
        pretrain=PretrainConfig(
            population=MiniatureSettings(train_identities=4, test_identities=3, seed=2, **people),
            vae=TrainVaeSettings(channels=(8, 8, 16), norm_groups=4, steps=1, batch_size=2, **view),
            image_encoder=TrainImageEncoderSettings(
                height=64, width=32, hidden_size=32, layers=1, heads=2, steps=1, identities_per_batch=2
            ),
        ),
        shards=WriteShardsSettings(images_per_shard=10),
        encode=EncodeSettings(token_height=64, token_width=32, batch_size=8, **view),
        train=training,
        synthesize=SynthesizeSettings(steps=2, images_per_shard=4, showcase=1, batch_size=2),
        reid=_reid(tiny_recipe(steps=2), batch={"identities": 2, "images": 2}),
    )


def market_small() -> RegenerateSettings:
    """Market-1501 without a model hub: the built-in models, adapted on identities outside the slice, then as `demo`.

    With ``--identities 40`` on two cores in half an hour; with more of them, and more steps, on one GPU.
    """
    return demo().model_copy(
        update={
            "miniature": None,
            "identities": 40,
            "pretrain": PretrainConfig(
                # The decoder alone: the latents, and with them the built-in generator, stay valid.
                vae=TrainVaeSettings(
                    steps=600, learning_rate=1e-3, max_images=4000, freeze_encoder=True, chroma_weight=1.0
                ),
                generator=_tiny_training(steps=700, validation_identities=16),
            ),
            "shards": WriteShardsSettings(images_per_shard=500),
        }
    )


def market_lite() -> RegenerateSettings:
    """The complete Market-1501 with a baseline that the field can place, on two CPU cores over several sittings.

    The built-in models are trained on on other people's photographs (``--pretrain.people.root``, for example CUHK03 and
    CUHK01 as a table), then on the subset. The re-ID network starts from ImageNet weights that a package carries.
    """
    return demo().model_copy(
        update={
            "miniature": None,
            "fractions": [20, 40, 60, 80, 100],
            "arms": [
                "real",
                "real-long",
                "cheap-augmentation",
                "real+synthetic",
                "real-pretrained",
                "pretrained+synthetic",
            ],
            "arms_of_whole_set": ["real"],
            "pretrain": PretrainConfig(
                people=OtherPeopleSettings(),
                vae=TrainVaeSettings(
                    steps=600, learning_rate=1e-3, max_images=4000, freeze_encoder=True, chroma_weight=1.0
                ),
                generator=_tiny_training(steps=1200, validation_identities=40).model_copy(
                    update={"batch_size": 16, "learning_rate": 1e-3}  # measured: docs/results.md
                ),
                reid_steps=2000,
            ),
            "shards": WriteShardsSettings(images_per_shard=1000),
            "train": _tiny_training(steps=600),
            "reid": TrainReidSettings(**lite_recipe()),
            "benchmark": BenchmarkSettings(
                baseline="real-long", controls=["cheap-augmentation", "real-pretrained"], comparisons=STUDY_QUESTIONS
            ),
        }
    )


def market_lite_256() -> RegenerateSettings:
    """`market-lite` with re-ID networks at BoT's 256x128, for a GPU."""
    reid = TrainReidSettings(**lite_recipe(height=256, width=128), precision="auto")
    return market_lite().model_copy(update={"reid": reid})


def market() -> RegenerateSettings:
    """Market-1501 at 128x64 with Stable Diffusion 1.5 and DINOv2-B: the paper's Market rows; 1 to 8 GPUs.

    Patches of 4 for the tokenizer: the paper's 16 gives no token at this size (DESIGN §4, rule 7).
    """
    return _published_weights(EncodeSettings(token_height=224, token_width=112), token_patch=4)


def deepfashion_256() -> RegenerateSettings:
    """DeepFashion In-shop at 256x176, as views of 256x192: a side must be a multiple of 64 px.

    PATN's lists decide the split; they name no queries, so the re-ID part takes the first image of each outfit of the
    test identities that are not in train (`datasets.sources.deepfashion`), or In-shop's own partition where only
    that is there.
    """
    encode = EncodeSettings(view_height=256, view_width=192, token_height=224, token_width=168)
    return _published_weights(encode, token_patch=16, layout="deepfashion", coordinates="deepfashion")


def deepfashion_512() -> RegenerateSettings:
    """DeepFashion In-shop at 512x352, as views of 512x384."""
    encode = EncodeSettings(view_height=512, view_width=384, token_height=224, token_width=168)
    return _published_weights(encode, token_patch=16, layout="deepfashion", coordinates="deepfashion")


def _tiny_training(steps: int, **fields: Any) -> TrainGeneratorSettings:
    """Fine-tuning of the built-in generator: few steps, so a rate well below the one it was trained with."""
    return TrainGeneratorSettings(
        steps=steps,
        batch_size=8,
        optimizer="muon",
        learning_rate=3e-4,
        warmup_steps=min(20, steps // 4),
        ema_decay=0.99,
        **fields,
    )


def _reid(recipe: dict[str, Any], batch: dict[str, Any]) -> TrainReidSettings:
    return TrainReidSettings(**{**recipe, "batch": recipe["batch"].model_copy(update=batch)})


def _published_weights(encode: EncodeSettings, token_patch: int, **fields: Any) -> RegenerateSettings:
    """Stable Diffusion 1.5 and DINOv2-B, trained as the project recommends; ImageNet weights and full BoT for re-ID."""
    return RegenerateSettings(
        vae=WEIGHTS / "stable-diffusion-v1-5" / "vae",
        image_encoder=WEIGHTS / "dinov2-base",
        generator=WEIGHTS / "stable-diffusion-v1-5",
        draws=3,
        extract_poses=ExtractPosesSettings(backend="openpose", weights=WEIGHTS / "body_pose_model.pth"),
        encode=encode,
        train=recommended(model=SD_MODEL.model_copy(update={"token_patch": token_patch})),
        synthesize=SynthesizeSettings(
            steps=12, precision="bf16", pose_backend="openpose", pose_weights=WEIGHTS / "body_pose_model.pth"
        ),
        reid=TrainReidSettings(precision="bf16"),
        **fields,
    )


PRESETS = Registry(
    "preset",
    Preset("none", "no preset: every field's own default", RegenerateSettings),
    Preset("demo", "rendered people, built-in models; minutes on two CPU cores", demo),
    Preset("smoke", "every stage at its smallest, for tests; a minute on two CPU cores", smoke),
    Preset("study", "the demo's question with controls, draws and seeds; half an hour on two CPU cores", study),
    Preset(
        "market-small", "Market-1501 or a slice of it with the built-in models; two CPU cores or one GPU", market_small
    ),
    Preset(
        "market-lite",
        "complete Market-1501, re-ID from ImageNet weights at 128x64, generator on other people; two CPU cores",
        market_lite,
    ),
    Preset("market-lite-256", "the same with re-ID networks at 256x128; one GPU", market_lite_256),
    Preset("market", "Market-1501 at 128x64 with Stable Diffusion 1.5 and DINOv2; 1 to 8 GPUs", market),
    Preset("deepfashion-256", "DeepFashion at 256x176 with the same models; 1 to 8 GPUs", deepfashion_256),
    Preset("deepfashion-512", "DeepFashion at 512x352 with the same models; 2 to 8 GPUs", deepfashion_512),
)
"""All presets, in the order in which they are listed."""
