"""SSIM (Wang et al. 2004) as scikit-image computes it, which is what the papers' code calls, and PSNR.

PIDM (``utils/metrics.py``), PCDMs (``metrics.py``) and CFLD (``models/metrics.py``) call scikit-image with a Gaussian
window and ``use_sample_covariance=False``; it takes the mean over the pixels whose window lies inside the picture.
torchmetrics' own mean takes the whole map, whose rim is made of reflected pixels: on images generated for Market-1501
that is 0.01 more, as much as lies between the papers' rows, and on images with an even background more still. Images
are (N, 3, H, W) uint8, as they were written.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from datasets.runtime.errors import InputError

SSIM_SIGMA = 1.5
"""Of the Gaussian window: Wang et al., scikit-image and torchmetrics; CFLD with the generated image's own range."""
TABLE1_SIGMA = 1.2
"""Of the Gaussian window in PIDM and PCDMs."""


def psnr(made: Tensor, real: Tensor) -> Tensor:
    """(N,) peak signal-to-noise ratio in dB, range [0, 1]; infinite for equal pictures."""
    return peak_signal_noise_ratio(
        made.float() / 255, real.float() / 255, data_range=1.0, dim=(1, 2, 3), reduction="none"
    )


def ssim_border(sigma: float) -> int:
    """Half of SSIM's window in pixels, the middle one left out: scikit-image cuts its Gaussian at 3.5 sigma."""
    return int(3.5 * sigma + 0.5)


def ssim(made: Tensor, real: Tensor) -> Tensor:
    """(N,) structural similarity as scikit-image computes it: Gaussian window of sigma 1.5, range [0, 1], RGB.

    Equals `skimage.metrics.structural_similarity` with ``gaussian_weights=True, use_sample_covariance=False``: the mean
    over the pixels whose window lies inside the picture.

    Raises:
        InputError: Pictures smaller than the window (11x11).
    """
    return _ssim_map(made, real, SSIM_SIGMA, 1.0).mean((1, 2))


def ssim_within(made: Tensor, real: Tensor, mask: Tensor) -> Tensor:
    """(N,) as `ssim`, but the mean over those of its pixels that lie in a (N, H, W) bool mask; NaN if none does.

    Windows at the mask's rim see past it.
    """
    values = _ssim_map(made, real, SSIM_SIGMA, 1.0)
    inner = _without_border(mask, ssim_border(SSIM_SIGMA))
    return (values * inner).sum((1, 2)) / inner.sum((1, 2))


def ssim_table1(made: Tensor, real: Tensor) -> Tensor:
    """(N,) as PIDM and PCDMs measure it: sigma 1.2, range = the generated image's own maximum less its minimum.

    Raises:
        InputError: Pictures smaller than the window (9x9).
    """
    values = []
    for one, other in zip(made.split(1), real.split(1), strict=True):
        span = float(one.max() - one.min()) / 255 or 1.0
        values.append(_ssim_map(one, other, TABLE1_SIGMA, span).mean((1, 2)))
    return torch.cat(values)


def _ssim_map(made: Tensor, real: Tensor, sigma: float, data_range: float) -> Tensor:
    """(N, H - 2b, W - 2b) SSIM of the pixels at least `b` = `ssim_border` from the rim, mean over RGB.

    In float64, as scikit-image: in float32 the variances of smooth pictures lose the fifth decimal.
    """
    border = ssim_border(sigma)
    height, width = made.shape[-2:]
    if min(height, width) < 2 * border + 1:
        raise InputError(
            f"pictures of {height}x{width} are smaller than SSIM's window of {2 * border + 1}x{2 * border + 1} pixels; "
            "compare larger ones"
        )
    made, real = made.double() / 255, real.double() / 255
    _, values = structural_similarity_index_measure(
        made, real, sigma=sigma, data_range=data_range, reduction="none", return_full_image=True
    )
    return _without_border(values.mean(1), border)


def _without_border(planes: Tensor, border: int) -> Tensor:
    return planes[..., border:-border, border:-border]
