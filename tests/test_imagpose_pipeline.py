"""The sampling pipeline on random tiny weights: scenarios, independence of the batch, fast path, refusals."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image

from benchmarks.sampling import largest_difference, market_pipeline
from datasets.poses.skeleton import missing_keypoints
from datasets.runtime.errors import InputError, WeightsError
from imagpose.canvas.layout import CanvasRequest, SourceFeatures, SourceImage, arrange
from imagpose.config import GenerateConfig, ModelConfig
from imagpose.modeling.denoiser import new_denoiser
from imagpose.sampling.generate import run_generate
from imagpose.sampling.pipeline import IMAGPosePipeline, load_pipeline

HEIGHT, WIDTH = 32, 16
LATENTS = (4, 16, 8)
TOKENS = (5, 24)


def tiny_pipeline(seed: int = 0, image_encoder: object = None, **switches: bool) -> IMAGPosePipeline:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = ModelConfig(
            channels=(16, 32),
            attention=(True, True),
            head_width=8,
            cross_attention_dim=16,
            norm_groups=8,
            pose_channels=(4, 8),
            token_patch=4,
            **switches,
        )
        model = new_denoiser(config, 4, TOKENS[1])
        for parameter in model.parameters():  # fresh weights hide pose, sources and CVA behind zeros
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.7 / parameter[0].numel() ** 0.5)
            elif (parameter == 0).all():
                torch.nn.init.normal_(parameter, std=0.1)
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            latent_channels=4,
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    return IMAGPosePipeline(
        model.unet,
        model.pose_encoder,
        model.feature_conditioning,
        vae.eval(),
        scheduler,
        image_encoder,
        view_height=HEIGHT,
        view_width=WIDTH,
    )


def tiny_image_encoder() -> object:
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(
        Dinov2Config(hidden_size=TOKENS[1], num_hidden_layers=1, num_attention_heads=2, patch_size=8, image_size=16)
    ).eval()


def pose(seed: int) -> np.ndarray:
    keypoints = np.random.default_rng(seed).uniform(1, 15, (18, 3)).astype(np.float32)
    keypoints[:, 2] = 1
    return keypoints


def source(seed: int) -> SourceFeatures:
    generator = torch.Generator().manual_seed(seed)
    latents, tokens = (torch.randn(shape, generator=generator) for shape in (LATENTS, TOKENS))
    return SourceFeatures(latents=latents, tokens=tokens, keypoints=pose(seed))


def request(seed: int, sources: int = 1, poses: int = 3, mode: str = "free", **fields: object) -> CanvasRequest:
    return CanvasRequest(
        sources=[source(100 * seed + i) for i in range(sources)],
        poses=[pose(1000 + 10 * seed + i) for i in range(poses)],
        seed=seed,
        mode=mode,
        **fields,
    )


SCENARIOS = [request(1, 1, 1, "T1"), request(2, 1, 1, "T2"), request(3, 3, 1, "T3"), request(4, 1, 3, "IMAGPose*")]


@pytest.fixture(scope="module")
def pipeline() -> IMAGPosePipeline:
    return tiny_pipeline()


def test_each_scenario_of_the_paper_has_its_slots() -> None:
    slots = {r.mode: arrange(len(r.sources), len(r.poses), r.mode) for r in SCENARIOS}
    assert (slots["T1"].sources, slots["T1"].poses) == ((0,), (0, 0, 0))
    assert (slots["T2"].sources, slots["T2"].poses) == ((0, 0, 0), (0,))
    assert (slots["T3"].sources, slots["T3"].poses) == ((0, 1, 2), (0,))
    assert (slots["IMAGPose*"].sources, slots["IMAGPose*"].poses) == ((0,), (0, 1, 2))
    assert arrange(1, 2).poses == (0, 1, 0)  # a slot left over repeats a pose


def test_all_scenarios_share_a_batch_and_give_pictures_of_their_poses(pipeline: IMAGPosePipeline) -> None:
    output = pipeline(SCENARIOS, num_inference_steps=2)
    assert [image.shape for image in output.images] == [(n, HEIGHT, WIDTH, 3) for n in (3, 1, 1, 3)]
    assert all(image.dtype == np.uint8 for image in output.images)
    assert output.poses == [(0, 0, 0), (0,), (0,), (0, 1, 2)]


@pytest.mark.parametrize("sampler", ["ddim", "unipc", "dpm++"])
def test_a_picture_does_not_depend_on_its_batch(pipeline: IMAGPosePipeline, sampler: str) -> None:
    settings = {"sampler": sampler, "num_inference_steps": 4, "output_type": "latent"}
    together = pipeline(SCENARIOS, **settings).images
    for canvas_request, expected in zip(SCENARIOS, together, strict=True):
        assert np.abs(pipeline(canvas_request, **settings).images[0] - expected).max() < 1e-4


def with_other_sources(canvas_request: CanvasRequest) -> CanvasRequest:
    """The same canvas of another person: poses, seed and the sources' own skeletons stay."""
    others = [
        SourceFeatures(latents=source(900 + i).latents, tokens=source(900 + i).tokens, keypoints=given.keypoints)
        for i, given in enumerate(canvas_request.sources)
    ]
    return CanvasRequest(sources=others, poses=canvas_request.poses, seed=canvas_request.seed, mode=canvas_request.mode)


@pytest.mark.parametrize(("unconditional", "knows_the_sources"), [("pose", False), ("pose-and-sources", True)])
def test_the_unconditional_half_knows_the_sources_only_where_it_is_asked_to(
    pipeline: IMAGPosePipeline, unconditional: str, knows_the_sources: bool
) -> None:
    settings = {
        "num_inference_steps": 3,
        "output_type": "latent",
        "guidance_scale": 0.0,  # the unconditional half alone
        "unconditional": unconditional,
    }
    for canvas_request in SCENARIOS:
        one = pipeline(canvas_request, **settings).images[0]
        other = pipeline(with_other_sources(canvas_request), **settings).images[0]
        assert (np.abs(one - other).max() > 1e-3) == knows_the_sources


def test_without_image_level_conditioning_nothing_of_the_sources_latents_reaches_the_pictures() -> None:
    blind = tiny_pipeline(masked_latents=False, texture_tokens=False)
    for canvas_request in SCENARIOS:
        others = [
            SourceFeatures(latents=given.latents * 3 + 1, tokens=given.tokens, keypoints=given.keypoints)
            for given in canvas_request.sources
        ]
        changed = CanvasRequest(
            sources=others, poses=canvas_request.poses, seed=canvas_request.seed, mode=canvas_request.mode
        )
        settings = {"num_inference_steps": 3, "output_type": "latent"}
        assert np.array_equal(blind(canvas_request, **settings).images[0], blind(changed, **settings).images[0])


@pytest.mark.parametrize("unconditional", ["pose", "pose-and-sources"])
@pytest.mark.parametrize("guidance", [1.0, 2.0, 0.0])
def test_reused_conditions_equal_the_plain_way(pipeline: IMAGPosePipeline, guidance: float, unconditional: str) -> None:
    settings = {
        "num_inference_steps": 4,
        "output_type": "latent",
        "guidance_scale": guidance,
        "unconditional": unconditional,
    }
    fast = pipeline(SCENARIOS, **settings).images
    plain = pipeline(SCENARIOS, reuse_conditions=False, **settings).images
    assert max(np.abs(a - b).max() for a, b in zip(fast, plain, strict=True)) < 1e-4


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_reused_conditions_equal_the_plain_way_without_a_joint_canvas(guidance: float) -> None:
    m1 = tiny_pipeline(cross_view_attention=False, texture_tokens=False, masked_latents=False, joint_canvas=False)
    settings = {"num_inference_steps": 3, "output_type": "latent", "guidance_scale": guidance}
    fast = m1(SCENARIOS, **settings).images
    plain = m1(SCENARIOS, reuse_conditions=False, **settings).images
    assert max(np.abs(a - b).max() for a, b in zip(fast, plain, strict=True)) < 1e-4


def test_the_fast_way_equals_the_plain_way_at_the_market_presets_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLING_WIDTH", "32")
    market = market_pipeline(full_size=False, device=torch.device("cpu"))
    assert largest_difference(market, canvases=2, steps=2) < 1e-4


def test_the_two_ways_are_compared_in_float32_on_a_gpu_too() -> None:
    """cuDNN rounds a convolution's inputs to 10 bits (TF32) unless it is told not to: more than the tolerance."""
    allowed = []

    def watched(requests: object, **settings: object) -> SimpleNamespace:
        allowed.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
        return SimpleNamespace(images=[np.zeros(1)] * (len(requests) if isinstance(requests, list) else 1))

    assert largest_difference(watched) == 0
    assert set(allowed) == {(True, False)} and torch.backends.cudnn.allow_tf32


def test_dpm_solver_and_unipc_agree_where_ddim_has_many_steps(pipeline: IMAGPosePipeline) -> None:
    """Three solvers of one equation: with many steps they meet."""
    canvas_request = request(3, 1, 3)

    def latents(sampler: str) -> np.ndarray:
        made = pipeline(
            canvas_request, sampler=sampler, num_inference_steps=60, guidance_scale=1.0, output_type="latent"
        )
        return made.images[0]

    base = latents("ddim")
    for sampler in ("unipc", "dpm++"):
        assert np.abs(latents(sampler) - base).mean() < 0.1 * base.std()


def test_sampling_leaves_the_network_as_it_was(pipeline: IMAGPosePipeline) -> None:
    convolution, processors = pipeline.unet.conv_in, dict(pipeline.unet.attn_processors)
    pipeline(SCENARIOS[0], num_inference_steps=1)
    assert pipeline.unet.conv_in is convolution
    assert pipeline.unet.attn_processors == processors


def test_seed_source_pose_and_guidance_each_change_the_picture(pipeline: IMAGPosePipeline) -> None:
    def latents(canvas_request: CanvasRequest, guidance: float = 2.0) -> np.ndarray:
        return pipeline(canvas_request, num_inference_steps=2, output_type="latent", guidance_scale=guidance).images[0]

    base = request(1)
    others = [
        CanvasRequest(sources=base.sources, poses=base.poses, seed=9),
        CanvasRequest(sources=[source(7)], poses=base.poses, seed=1),
        CanvasRequest(sources=base.sources, poses=[pose(7), *base.poses[1:]], seed=1),
    ]
    expected = latents(base)
    assert all(np.abs(latents(other) - expected).max() > 1e-3 for other in others)
    assert np.abs(latents(base, 4.0) - expected).max() > 1e-3


def test_visible_views_end_as_exactly_the_given_latents(pipeline: IMAGPosePipeline) -> None:
    canvas_request = request(5, 2, 2)
    canvases = pipeline.lay_out([canvas_request], [list(canvas_request.sources)])
    with torch.no_grad():
        latents = pipeline.denoise(canvases, "ddim", 3, 2.0)
    assert torch.equal(latents[0, :, :16, :8], canvas_request.sources[0].latents)
    assert torch.equal(latents[0, :, :16, 8:], canvas_request.sources[1].latents)
    assert not canvases.known[0, :, 16:].any()


def test_keep_decodes_only_the_views_that_are_wanted(pipeline: IMAGPosePipeline) -> None:
    full = pipeline(request(6), num_inference_steps=2)
    one = pipeline(request(6, keep=[1]), num_inference_steps=2)
    assert one.poses == [(1,)]
    assert np.abs(one.images[0].astype(int) - full.images[0][1:2].astype(int)).max() <= 1


def test_a_saved_generator_gives_the_same_pictures(pipeline: IMAGPosePipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path, torch.device("cpu"), photographs=False)
    assert again.view_size() == (HEIGHT, WIDTH)
    settings = {"num_inference_steps": 2, "output_type": "latent"}
    assert np.array_equal(again(SCENARIOS[0], **settings).images[0], pipeline(SCENARIOS[0], **settings).images[0])


def test_a_photograph_and_its_features_give_the_same_picture() -> None:
    pipeline = tiny_pipeline(image_encoder=tiny_image_encoder())
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    photo = SourceImage(image=Image.fromarray(pixels), keypoints=pose(1))
    with torch.no_grad():
        features = pipeline.encode([[photo]])[0][0]
    assert features.latents.shape == LATENTS
    assert features.tokens.shape == (1 + (HEIGHT // 8) * (WIDTH // 8), TOKENS[1])
    a, b = (
        pipeline(CanvasRequest(sources=[s], poses=[pose(2)], seed=1), num_inference_steps=2, output_type="latent")
        for s in (photo, features)
    )
    assert np.array_equal(a.images[0], b.images[0])


REFUSALS = {
    "no source": (request(1, 0), "1 to 3 source images, got 0"),
    "four sources": (request(1, 4), "1 to 3 source images, got 4"),
    "no pose": (request(1, 1, 0), "1 to 3 target poses, got 0"),
    "too many views": (request(1, 2, 3), "do not fit a canvas of 4 views"),
    "T1 with two sources": (request(1, 2, 1, "T1"), "T1 takes one source and one pose"),
    "unknown mode": (request(1, mode="T9"), "mode 'T9' is unknown; known: T1"),
    "empty pose": (CanvasRequest(sources=[source(1)], poses=[missing_keypoints()], seed=1), "has no joint inside"),
    "wrong pose": (CanvasRequest(sources=[source(1)], poses=[np.zeros((17, 3))], seed=1), "18 rows of x, y, score"),
    "other size": (
        CanvasRequest(sources=[SourceImage(image=Image.new("RGB", (64, 128)))], poses=[pose(1)], seed=1),
        "128x64 pixels .* views are 32x16",
    ),
    "other preset's latents": (
        CanvasRequest(
            sources=[SourceFeatures(latents=torch.zeros(8, 16, 8), tokens=torch.zeros(TOKENS), keypoints=pose(1))],
            poses=[pose(1)],
            seed=1,
        ),
        "do not fit this generator's 4 channels",
    ),
    "other preset's tokens": (
        CanvasRequest(
            sources=[SourceFeatures(latents=torch.zeros(LATENTS), tokens=torch.zeros(5, 768), keypoints=pose(1))],
            poses=[pose(1)],
            seed=1,
        ),
        "do not fit this generator's width 24",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_work_is_refused_in_one_line(pipeline: IMAGPosePipeline, name: str) -> None:
    canvas_request, message = REFUSALS[name]
    with pytest.raises(InputError, match=message) as refusal:
        pipeline(canvas_request, num_inference_steps=1)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("sampler", ["ddim", "unipc", "dpm++"])
def test_more_steps_than_the_noise_schedule_has_are_refused(pipeline: IMAGPosePipeline, sampler: str) -> None:
    with pytest.raises(
        InputError, match=r"1001 steps, but this generator's noise schedule has 1000; pass --steps 1000"
    ):
        pipeline(SCENARIOS[0], sampler=sampler, num_inference_steps=1001)


def test_nan_weights_are_refused_by_name() -> None:
    pipeline = tiny_pipeline()
    with torch.no_grad():
        pipeline.unet.conv_out.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"unet: weight 'conv_out\.weight' holds NaN"):
        pipeline(SCENARIOS[0], num_inference_steps=1)


def test_my_photograph_and_my_pose_give_marked_pictures(tmp_path: Path) -> None:
    tiny_pipeline(image_encoder=tiny_image_encoder()).save_pretrained(tmp_path / "generator")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 33, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "me.png")
    (tmp_path / "pose.json").write_text(json.dumps(pose(3).tolist()))
    config = GenerateConfig(
        generator=tmp_path / "generator",
        source=(tmp_path / "me.png",),
        pose=(tmp_path / "pose.json",) * 2,
        steps=2,
        out=tmp_path / "out",
        device="cpu",
    )
    assert run_generate(config) == 0
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["overview.png", "picture-0.png", "picture-1.png", "pictures.json"]
    with Image.open(tmp_path / "out" / "picture-0.png") as picture:
        assert picture.size == (WIDTH, HEIGHT)
        assert "trainedAlgorithmicMedia" in picture.info["XML:com.adobe.xmp"]
    (tmp_path / "out" / "picture-of-mine.png").touch()
    assert run_generate(config.model_copy(update={"pose": config.pose[:1]})) == 0
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["overview.png", "picture-0.png", "picture-of-mine.png", "pictures.json"]  # no leftover of two poses


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pipeline(image_encoder=tiny_image_encoder()).save_pretrained(tmp_path / "generator")
    monkeypatch.setattr("imagpose.sampling.generate.load_pipeline", lambda *_: pytest.fail("loaded"))
    Image.new("RGB", (33, 70), "gray").save(tmp_path / "me.png")
    (tmp_path / "pose.json").write_text(json.dumps(pose(3).tolist()))
    files = {
        "source": (tmp_path / "me.png",),
        "pose": (tmp_path / "pose.json",),
        "source_pose": (tmp_path / "pose.json",),
    }
    with pytest.raises(FileExistsError):
        run_generate(GenerateConfig(generator=tmp_path / "generator", **files, out=tmp_path / "me.png", device="cpu"))


class FakeEstimator:
    """Finds a person of 80 x 20 pixels around (100, 60) in any picture that is not black."""

    def estimate(self, images: list[np.ndarray]) -> list[np.ndarray]:
        person = np.ones((18, 3), np.float32)
        person[:, 0], person[:, 1] = np.linspace(90, 110, 18), np.linspace(20, 100, 18)
        return [person[None] if image.any() else person[None][:0] for image in images]


def test_skeletons_are_found_in_pictures_and_people_cut_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pipeline(image_encoder=tiny_image_encoder()).save_pretrained(tmp_path / "generator")
    monkeypatch.setattr("imagpose.sampling.generate.open_backend", lambda *_: FakeEstimator())
    pixels = np.random.default_rng(0).integers(1, 256, (150, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "me.png")
    config = GenerateConfig(
        generator=tmp_path / "generator",
        source=(tmp_path / "me.png",),
        pose=(tmp_path / "me.png",),
        mode="T1",
        steps=1,
        out=tmp_path / "out",
        device="cpu",
    )
    assert run_generate(config) == 0
    assert len(list((tmp_path / "out").glob("picture-*.png"))) == 3  # T1's three pictures of one pose
    Image.new("RGB", (200, 150)).save(tmp_path / "nobody.png")
    with pytest.raises(InputError, match="no person was found in this picture"):
        run_generate(config.model_copy(update={"pose": (tmp_path / "nobody.png",)}))
    with pytest.raises(InputError, match=r"nobody\.png is 200x150 pixels .* crop"):
        run_generate(config.model_copy(update={"source": (tmp_path / "nobody.png",)}))
    with pytest.raises(InputError, match="T3 takes two or three sources"):
        run_generate(config.model_copy(update={"mode": "T3"}))


def test_a_box_around_a_person_has_the_views_proportions() -> None:
    from imagpose.sampling.pose_files import keypoints_in_box, person_box

    person = FakeEstimator().estimate([np.ones((150, 200, 3), np.uint8)])[0][0]
    box = person_box(person, Image.new("RGB", (200, 150)), (128, 64))
    # by hand: 80 pixels and 12 % above, 8 % below make 96, so 48 wide around column 100
    assert box == (76, 10, 124, 106)
    inside = keypoints_in_box(person, box, (128, 64))
    assert np.allclose(
        inside[[0, 17], 1], [(20 - 10 + 0.5) * 128 / 96 - 0.5, (100 - 10 + 0.5) * 128 / 96 - 0.5], atol=0.2
    )
    assert person_box(person, Image.new("RGB", (60, 120)), (128, 64)) == (0, 0, 60, 120)


NO_JOINT = json.dumps([[None, None, 0]] * 18)


@pytest.mark.parametrize(
    ("content", "message"),
    [("[[1, 2, 1]]", "1 joints, expected 18"), ("{}", "holds no skeleton"), (NO_JOINT, "no joint")],
)
def test_a_pose_file_without_a_pose_is_refused(tmp_path: Path, content: str, message: str) -> None:
    from imagpose.sampling.pose_files import PoseFiles

    (tmp_path / "pose.json").write_text(content)
    with pytest.raises(InputError, match=message):
        PoseFiles([], (HEIGHT, WIDTH)).pose(tmp_path / "pose.json")


def test_a_photograph_of_other_proportions_is_refused() -> None:
    from imagpose.sampling.generate import fit_photo

    with pytest.raises(InputError, match=r"holiday\.jpg is 400x300 .* crop"):
        fit_photo(Image.new("RGB", (400, 300)), (128, 64), "holiday.jpg")
