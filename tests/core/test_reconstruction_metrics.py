"""Reconstruction metrics against numpy and scikit-image."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from core.metrics.reconstruction import mixture_mse, mse, psnr, reconstruction_scores, ssim


def pictures(shape, noise=0.1, seed=0):
    """Smooth random pictures and noisy copies, as float32 in [0, 1]."""
    generator = np.random.default_rng(seed)
    image = generator.random(shape)
    for axis in (-1, -2):
        image = (image + np.roll(image, 1, axis) + np.roll(image, 2, axis)) / 3
    recon = (image + noise * generator.standard_normal(shape)).clip(0, 1)
    return torch.from_numpy(recon).float(), torch.from_numpy(image).float()


@pytest.mark.parametrize("shape", [(3, 3, 20, 17), (2, 4, 3, 11, 24), (5, 1, 16, 16)])
def test_values_per_image_and_per_frame(shape):
    recon, image = pictures(shape)
    for metric in (mse, psnr, ssim):
        assert metric(recon, image).shape == shape[:-3]
    for index in np.ndindex(shape[:-3]):
        x, y = recon[index].double().numpy(), image[index].double().numpy()
        assert mse(recon, image)[index].item() == pytest.approx(np.mean((x - y) ** 2), rel=1e-12)
        assert psnr(recon, image)[index].item() == pytest.approx(peak_signal_noise_ratio(y, x, data_range=1), rel=1e-12)
        expected = structural_similarity(
            x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=0
        )
        assert ssim(recon, image)[index].item() == pytest.approx(expected, abs=1e-10)


def test_equal_pictures():
    _, image = pictures((2, 3, 16, 16))
    assert mse(image, image).tolist() == [0, 0]
    assert psnr(image, image).tolist() == [np.inf, np.inf]
    assert ssim(image, image).numpy() == pytest.approx([1, 1], abs=1e-14)


def test_known_values():
    dark, bright = torch.zeros(1, 3, 12, 12), torch.full((1, 3, 12, 12), 0.5)
    assert mse(dark, bright).item() == 0.25
    assert psnr(dark, bright).item() == pytest.approx(6.0206, abs=1e-4)
    assert ssim(dark, bright).item() == pytest.approx(1e-4 / (0.25 + 1e-4), rel=1e-12)


def test_precision_survives_autocast_and_half_inputs():
    recon, image = pictures((2, 3, 16, 16))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ssim(recon, image), ssim(recon.double(), image.double()))
    assert ssim(recon.half(), image.half()).numpy() == pytest.approx(ssim(recon, image).numpy(), abs=1e-2)


@pytest.mark.parametrize("leading", [(2,), (2, 3)])
def test_mixture_mse_is_the_error_of_the_masked_sum(leading):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(*leading, 3, 6, 7, generator=generator)
    rgb = torch.rand(*leading, 5, 3, 6, 7, generator=generator)
    masks = torch.rand(*leading, 5, 6, 7, generator=generator).softmax(dim=-3)
    mixture = np.einsum("...kchw,...khw->...chw", rgb.double().numpy(), masks.double().numpy())
    expected = ((mixture - image.double().numpy()) ** 2).mean(axis=(-3, -2, -1))
    assert mixture_mse(image, rgb, masks).numpy() == pytest.approx(expected, rel=1e-12)


def test_scores_of_reconstructions_are_those_of_cut_pictures():
    generator = torch.Generator().manual_seed(3)
    image, recon = (1.5 * torch.randn(2, 4, 3, 12, 13, generator=generator) for _ in range(2))

    def distance(x, y):
        return (x - y).abs().mean(dim=(1, 2, 3))

    scores = reconstruction_scores(recon, image, distance)
    units = tuple((pictures / 2 + 0.5).clamp(0, 1) for pictures in (recon, image))
    expected = (units[0].double() - units[1].double()).square().sum(dim=(-3, -2, -1))
    torch.testing.assert_close(scores["mse"], expected)
    torch.testing.assert_close(scores["psnr"], psnr(*units))
    torch.testing.assert_close(scores["ssim"], ssim(*units))
    torch.testing.assert_close(scores["percept_dist"], (recon - image).abs().mean(dim=(2, 3, 4)).double())
    assert reconstruction_scores(recon, image).keys() == scores.keys() - {"percept_dist"}


def test_small_pictures_are_refused():
    with pytest.raises(ValueError, match=r"at least 11 x 11 pixels, found \(10, 30\)"):
        ssim(torch.zeros(1, 3, 10, 30), torch.zeros(1, 3, 10, 30))
