"""Commands of the package: ``python -m imagpose COMMAND --help``."""

from __future__ import annotations

import sys

from datasets.runtime.command_line import Command, main

COMMANDS = {
    "train-vae": Command(
        summary="train or adapt a small VAE for person crops",
        config="imagpose.config:TrainVaeConfig",
        run="imagpose.frozen.vae:make_vae",
    ),
    "train-image-encoder": Command(
        summary="train a small image encoder on people who are not in the benchmark",
        config="imagpose.config:TrainImageEncoderConfig",
        run="imagpose.frozen.image_encoder:make_image_encoder",
    ),
    "train": Command(
        summary="train the IMAGPose denoiser on encoded images",
        config="imagpose.config:TrainGeneratorConfig",
        run="imagpose.training.train:make_generator",
    ),
    "distill": Command(
        summary="a few-step student of a generator: 4 network calls without guidance",
        config="imagpose.config:DistillConfig",
        run="imagpose.distillation.distill:make_student",
    ),
    "ablate": Command(
        summary="train and evaluate variants of the model (the paper's Table 2) into one table",
        config="imagpose.config:AblateConfig",
        run="imagpose.evaluation.ablations:make_ablation",
    ),
    "check-model": Command(
        summary="prove that the denoiser starts as the stock UNet, at Stable Diffusion's size",
        config="imagpose.config:CheckModelConfig",
        run="imagpose.training.check_model:run_check_model",
    ),
    "generate": Command(
        summary="my photographs and my poses to pictures",
        config="imagpose.config:GenerateConfig",
        run="imagpose.sampling.generate:run_generate",
    ),
    "synthesize": Command(
        summary="synthetic images for one subset, as shards with full provenance",
        config="imagpose.config:SynthesizeConfig",
        run="imagpose.synthesis.synthesize:make_synthetic",
    ),
    "draw-poses": Command(
        summary="test images in standard poses, for features that are averaged at test time",
        config="imagpose.config:DrawPosesConfig",
        run="imagpose.synthesis.draw_poses:make_drawn",
    ),
    "show-pictures": Command(
        summary="one picture of what a generator makes, from a synthetic set's showcase",
        config="imagpose.config:ShowPicturesConfig",
        run="imagpose.synthesis.show_pictures:run_show_pictures",
    ),
    "evaluate": Command(
        summary="SSIM, PSNR, LPIPS and FID on the published test pairs, in the paper's four scenarios",
        config="imagpose.config:EvaluateGeneratorConfig",
        run="imagpose.evaluation.evaluate:make_evaluation",
    ),
    "user-study pack": Command(
        summary="one page on which people tell real from generated pictures and choose the best generator's",
        config="imagpose.config:PackStudyConfig",
        run="imagpose.study.pack:run_pack",
    ),
    "user-study score": Command(
        summary="R2G, G2R and Jab from people's answers: user-study score A.json B.json --key key.json",
        config="imagpose.config:ScoreStudyConfig",
        run="imagpose.study.score:run_score",
    ),
}

if __name__ == "__main__":
    sys.exit(main("imagpose", COMMANDS))
