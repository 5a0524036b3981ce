"""The denoiser's optimizer: AdamW for everything, or Muon for the matrices and AdamW for what is left.

Muon (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>) replaces the momentum of a weight matrix by the
nearest semi-orthogonal matrix, so that all directions learn at one pace. PyTorch's `torch.optim.Muon` takes matrices
only; a convolution's kernel (out, in, kh, kw) is given to it as the matrix (out, in * kh * kw) that it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["adamw", "muon"]
FIRST_AND_LAST = ("conv_in", "conv_out")
"""Layers between pixels or latents and the network's own width: AdamW's, as Muon's authors advise."""


class DenoiserOptimizer:
    """Steps all parameters of a model at one learning rate; its state goes by the parameters' names.

    Args:
        parameters: (name, parameter) pairs, as `nn.Module.named_parameters` gives them.
        name: 'adamw', or 'muon' for the matrices. Muon's updates are scaled to the size of AdamW's ("match_rms_adamw",
            Liu et al. 2025, <https://arxiv.org/abs/2502.16982>), so that one rate and one weight decay fit both.
        weight_decay: decoupled, on all parameters.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], name: OptimizerName, rate: float, weight_decay: float
    ) -> None:
        self.parameters = dict(parameters)
        self._matrices = {
            key: nn.Parameter(_as_matrix(parameter))
            for key, parameter in self.parameters.items()
            if name == "muon" and parameter.ndim > 1 and not any(part in key.split(".") for part in FIRST_AND_LAST)
        }
        rest = [parameter for key, parameter in self.parameters.items() if key not in self._matrices]
        self._parts: list[tuple[list[str], torch.optim.Optimizer]] = []
        if rest:
            adamw = torch.optim.AdamW(rest, lr=rate, weight_decay=weight_decay, fused=True)
            self._parts.append(([key for key in self.parameters if key not in self._matrices], adamw))
        if self._matrices:
            muon = torch.optim.Muon(
                self._matrices.values(), lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            self._parts.append((list(self._matrices), muon))

    def step(self, rate: float) -> None:
        """Move the parameters along their gradients at a learning rate, and forget the gradients."""
        for key, matrix in self._matrices.items():
            matrix.data = _as_matrix(self.parameters[key])  # each time: DistributedDataParallel moves the memory
            gradient = self.parameters[key].grad
            matrix.grad = None if gradient is None else gradient.reshape(matrix.shape)
        for _, part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, by ``<parameter's name>.<kind>``; for a checkpoint."""
        return {
            f"{keys[number]}.{kind}": tensor
            for keys, part in self._parts
            for number, kinds in part.state_dict()["state"].items()
            for kind, tensor in kinds.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        kinds: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            key, _, kind = name.rpartition(".")
            kinds.setdefault(key, {})[kind] = tensor
        for keys, part in self._parts:
            state = part.state_dict()
            state["state"] = {number: kinds[key] for number, key in enumerate(keys) if key in kinds}
            part.load_state_dict(state)


def _as_matrix(parameter: nn.Parameter) -> Tensor:
    """The same memory, (out, everything else)."""
    return parameter.detach().view(len(parameter), -1)
