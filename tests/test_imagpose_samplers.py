"""Samplers are declared objects that take the generator's noise schedule (one from outside: test_extending)."""

import pytest
import torch
from diffusers import DDIMScheduler

from imagpose.config.samplers import SAMPLERS

NOISE = DDIMScheduler(
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    clip_sample=False,
)


@pytest.mark.parametrize("name", ["unipc", "dpm++", "ddim", "lcm"])
def test_a_sampler_takes_the_noise_schedule_that_the_generator_was_trained_with(name: str) -> None:
    scheduler = SAMPLERS[name].with_noise(NOISE.config)
    torch.testing.assert_close(scheduler.alphas_cumprod[:-1], NOISE.alphas_cumprod[:-1])
    assert scheduler.config.prediction_type == "v_prediction" and scheduler.config.timestep_spacing == "trailing"
