"""Networks that are compiled where that can be done, and run as they are where it cannot."""

from __future__ import annotations

import logging
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

COMPILERS = ("c++", "g++", "clang++")


def can_compile() -> bool:
    """Whether there is what `torch.compile` needs on a CPU: a C++ compiler and Python's headers."""
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return headers.is_file() and any(map(shutil.which, COMPILERS))


class CompiledOrPlain:
    """Compiles at the first call; where that fails, the network runs as it is.

    Args:
        network: whatever its inputs are, its output is one tensor.
        purpose: what goes on, for messages: 'training'.
        hint: how to do without, for messages.
    """

    def __init__(self, network: nn.Module, purpose: str, hint: str = "") -> None:
        self.network, self.purpose, self.hint = network, purpose, hint
        self.run: Callable[..., Tensor] | None = None

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """As the network's own call."""
        if self.run is not None:
            return self.run(*inputs)
        logger.info("compiling the network for %s%s", self.purpose, self.hint)
        try:
            self.run = torch.compile(self.network)
            return self.run(*inputs)
        except Exception as error:  # whatever the compiler raises
            reason = str(error).strip().splitlines()[:1]
            failed = f"{type(error).__name__} {reason}"
            logger.warning("torch.compile failed (%s); %s goes on without", failed, self.purpose)
            self.run = self.network
            return self.network(*inputs)
