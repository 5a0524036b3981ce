"""SSIM against scikit-image, on which the papers' code stands."""

from typing import Any

import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from datasets.runtime.errors import InputError
from imagpose.metrics.similarity import ssim, ssim_table1, ssim_within
from tests.test_imagpose_evaluate import pictures


def smooth(count: int, height: int, width: int, seed: int) -> Tensor:
    """Slow gradients without any noise, where SSIM divides small variances."""
    coarse = torch.rand(count, 3, 4, 2, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (large.clamp(0, 1) * 255).round().to(torch.uint8)


def noise(count: int, height: int, width: int, seed: int) -> Tensor:
    return torch.randint(256, (count, 3, height, width), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def by_skimage(made: Tensor, real: Tensor, sigma: float, data_range: float) -> float:
    """One picture (3, H, W) as PIDM, PCDMs and CFLD call scikit-image."""
    a, b = (picture.permute(1, 2, 0).numpy() for picture in (made, real))
    options = {"gaussian_weights": True, "use_sample_covariance": False, "channel_axis": 2}
    return structural_similarity(a, b, sigma=sigma, data_range=data_range, **options)


@pytest.mark.parametrize("kind", [pictures, smooth, noise])
@pytest.mark.parametrize(("height", "width"), [(128, 64), (21, 12), (11, 11)])
def test_ssim_equals_scikit_image_picture_by_picture(kind: Any, height: int, width: int) -> None:
    made, real = kind(3, height, width, 0), kind(3, height, width, 1)
    made[2] = real[2] // 2  # the same picture, darker
    for i in range(3):
        assert abs(ssim(made, real)[i] - by_skimage(made[i], real[i], 1.5, 255)) < 1e-9
        span = float(made[i].max()) - float(made[i].min())  # PIDM and PCDMs: the generated image's own range
        assert abs(ssim_table1(made, real)[i] - by_skimage(made[i], real[i], 1.2, span)) < 1e-9
    assert torch.allclose(ssim(made, made), torch.ones(3, dtype=torch.float64))


def test_ssim_within_a_mask_leaves_the_border_out_as_ssim_does() -> None:
    made, real = pictures(2, 64, 32, 0), pictures(2, 64, 32, 1)
    made[:, :, :3] = 255 - made[:, :, :3]
    person = torch.zeros(2, 64, 32, dtype=torch.bool)
    person[:, :40, 8:24] = True
    inner = torch.zeros_like(person)
    inner[:, 5:40, 8:24] = True
    assert torch.equal(ssim_within(made, real, person), ssim_within(made, real, inner))
    assert ssim_within(made, real, person ^ inner).isnan().all()


def test_pictures_smaller_than_ssims_window_are_refused() -> None:
    with pytest.raises(InputError, match="pictures of 64x10 are smaller than SSIM's window of 11x11"):
        ssim(pictures(1, 64, 10, 0), pictures(1, 64, 10, 1))
    with pytest.raises(InputError, match="pictures of 8x32 are smaller than SSIM's window of 9x9"):
        ssim_table1(pictures(1, 8, 32, 0), pictures(1, 8, 32, 1))
