"""Samplers by name: which of diffusers' schedulers solves the reverse process. Torch-free: the configs name them.

All take the noise schedule that is saved with the generator. One more is one `SAMPLERS.register` (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from datasets.runtime.registry import Registry, load_name


@dataclass(frozen=True)
class Sampler:
    """A solver of the reverse diffusion process."""

    name: str
    """As settings give it: ``--sampler unipc``."""
    title: str
    """What it is, in a few words."""
    scheduler: str
    """A diffusers scheduler as ``module:class``; given views are noised by its ``alphas_cumprod``."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of that scheduler's config that differ from its defaults."""
    distilled: bool = False
    """For students of `imagpose distill` alone, which take no guidance; its scheduler's `step` draws noise."""

    def with_noise(self, noise: Mapping[str, Any]) -> Any:
        """The scheduler with the noise schedule that a generator was trained with.

        Args:
            noise: config of the scheduler that is saved with the generator.

        Returns:
            An object of the class `scheduler`; torch is imported here.
        """
        # diffusers leaves out what it remembers as a default of the other class; this class's may be another
        stated = {name: value for name, value in noise.items() if name != "_use_default_values"}
        return load_name(self.scheduler).from_config(stated, **self.options)


STUDENTS_SAMPLER = "lcm"
"""The one that students of `imagpose distill` take."""

SAMPLERS: Registry[Sampler] = Registry(
    "sampler",
    Sampler("unipc", "UniPC; as good as DDIM's 20 steps with 12", "diffusers:UniPCMultistepScheduler"),
    Sampler("dpm++", "DPM-Solver++ 2M; as good as DDIM's 20 steps with 12", "diffusers:DPMSolverMultistepScheduler"),
    Sampler("ddim", "DDIM, the paper's, with 20 steps", "diffusers:DDIMScheduler"),
    Sampler(
        STUDENTS_SAMPLER,
        "latent consistency; students of 'imagpose distill' only, 4 steps without guidance",
        "diffusers:LCMScheduler",
        distilled=True,
    ),
)
SamplerName = Annotated[str, SAMPLERS]
