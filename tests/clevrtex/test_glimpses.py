"""What the glimpse-based models share: windows, presences, the prior of their number, discretised colours."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clevrtex.models.broadcast_vae import BroadcastDecoder
from clevrtex.models.frames import paste_frames
from clevrtex.models.glimpses import boxes, edges, inverse, paste, read_glimpses
from clevrtex.models.pixel_distributions import DiscretisedLogistic, DiscretisedLogisticMixture
from clevrtex.models.presence import Presence, count_prior, presence_name

SIZE, PATCH = (20, 28), (7, 9)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def windows(images: int, count: int) -> Tensor:
    return torch.cat((0.1 + 0.6 * rand(images, count, 2, seed=1), 2 * rand(images, count, 2, seed=2) - 1), dim=-1)


def sampled(picture: Tensor, where: Tensor, size: tuple[int, int]) -> Tensor:
    """One window per picture, by torch's own affine grid."""
    scale, centre = torch.diag_embed(where[:, :2]), where[:, 2:, None]
    lattice = F.affine_grid(torch.cat((scale, centre), dim=2), [*picture.shape[:2], *size], align_corners=False)
    return F.grid_sample(picture, lattice, align_corners=False)


def test_whole_image_is_a_window() -> None:
    image, whole = rand(2, 3, *SIZE), torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(2, 1, 4)
    torch.testing.assert_close(read_glimpses(image, whole, SIZE)[:, 0], image, rtol=0, atol=1e-5)
    torch.testing.assert_close(paste(image[:, None], whole, SIZE)[:, 0], image, rtol=0, atol=1e-5)


def test_x_is_to_the_right_and_y_down() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[:, :, :4, 4:] = 1  # above, to the right
    corner = torch.tensor([[[0.5, 0.5, 0.5, -0.5], [0.5, 0.5, -0.5, 0.5]]])
    glimpses = read_glimpses(image, corner, (4, 4))
    assert glimpses[0, 0].eq(1).all()
    assert glimpses[0, 1].eq(0).all()
    pasted = paste(torch.ones(1, 1, 1, 4, 4), corner[:, :1], (8, 8))
    torch.testing.assert_close(pasted[:, 0], image)
    torch.testing.assert_close(boxes(corner, (8, 8))[0], torch.tensor([[4.0, 0, 8, 4], [0, 4, 4, 8]]))


def test_many_windows_are_windows_one_by_one() -> None:
    image, patches, where = rand(2, 3, *SIZE), rand(2, 5, 4, *PATCH), windows(2, 5)
    glimpses, pasted = read_glimpses(image, where, PATCH), paste(patches, where, SIZE)
    assert glimpses.shape == (2, 5, 3, *PATCH)
    assert pasted.shape == (2, 5, 4, *SIZE)
    for index in range(5):
        torch.testing.assert_close(glimpses[:, index], sampled(image, where[:, index], PATCH))
        theirs = sampled(patches[:, index], inverse(where[:, index]), SIZE)
        torch.testing.assert_close(pasted[:, index], theirs, rtol=1e-5, atol=1e-5)


def test_frames_are_pasted_as_patches() -> None:
    where, brightness = windows(2, 5), rand(2, 5, 3, seed=3)
    frame = torch.ones(8, 8)
    frame[2:-2, 2:-2] = 0
    patches = brightness[..., None, None] * frame
    found = paste_frames(where, brightness, SIZE, 8, 2, 0.0)
    torch.testing.assert_close(found, paste(patches, where, SIZE).sum(dim=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("aligned", [False, True])
def test_pasting_has_the_gradients_of_sampling(aligned: bool) -> None:
    """Also where points fall on pixels exactly, and the interpolation has two gradients."""
    where = torch.tensor([[[0.5, 0.5, 0.0, 0.0]], [[0.25, 0.5, 0.5, -0.5]]]) if aligned else windows(2, 1)
    patches, weights = rand(2, 1, 3, 8, 8), rand(2, 1, 3, 16, 16, seed=5)
    gradients = []
    for function in (paste, lambda picture, given, size: sampled(picture[:, 0], inverse(given[:, 0]), size)[:, None]):
        given = [patches.clone().requires_grad_(), where.clone().requires_grad_()]
        gradients.append(torch.autograd.grad((function(*given, (16, 16)) * weights).sum(), given))
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_windows_with_one_scale() -> None:
    short = torch.tensor([[[0.3, 0.2, -0.4]]])
    long = torch.tensor([[[0.3, 0.3, 0.2, -0.4]]])
    image, patch = rand(1, 2, *SIZE), rand(1, 1, 2, *PATCH)
    assert read_glimpses(image, short, PATCH).equal(read_glimpses(image, long, PATCH))
    torch.testing.assert_close(paste(patch, short, SIZE), paste(patch, long, SIZE))
    assert boxes(short, SIZE).equal(boxes(long, SIZE))
    torch.testing.assert_close(edges(short)[0, 0], torch.tensor([0.45, 0.15, 0.75, 0.45]))


def test_autocast_changes_no_window() -> None:
    image, patches, where = rand(2, 3, *SIZE), rand(2, 4, 1, *PATCH), windows(2, 4)
    glimpses, pasted = read_glimpses(image, where, PATCH), paste(patches, where, SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        assert read_glimpses(image, where, PATCH).equal(glimpses)
        assert paste(patches, where, SIZE).equal(pasted)


def test_relaxed_presences_near_a_cold_temperature_are_bernoulli() -> None:
    draws, p = torch.randn(20_000, generator=torch.Generator().manual_seed(0)), torch.full((20_000,), 0.3)
    cold = Presence(p, "relaxedbernoulli", 0.01).sample(draws)
    hard = Presence(p, "bernoulli").sample(draws)
    assert hard.unique().tolist() == [0, 1]
    assert cold.mean() == pytest.approx(0.3, abs=0.01)
    assert hard.mean() == pytest.approx(0.3, abs=0.01)
    soft = Presence(p, "relaxedbernoulli", 1.0).sample(draws)
    assert ((soft > 0.1) & (soft < 0.9)).float().mean() > 0.5


def test_hard_presences_have_the_gradient_of_soft_ones() -> None:
    p, draws = rand(50).requires_grad_(), torch.randn(50, generator=torch.Generator().manual_seed(0))
    presence = Presence(p, "relaxedbernoulli", 0.7)
    soft, hard = presence.sample(draws), presence.sample(draws, hard=True)
    assert hard.detach().equal(soft.detach().round())
    ours, theirs = (torch.autograd.grad(sample.sum(), p)[0] for sample in (hard, soft))
    assert ours.equal(theirs)
    assert theirs.min() > 0


def test_densities_of_presences_integrate_to_one() -> None:
    """By the rule of rectangles over (0, 1)."""
    value = (torch.arange(100_000) + 0.5) / 100_000
    for name, temperature in (("relaxedbernoulli", 1.0), ("relaxedbernoulli", 1.5), ("continuousbernoulli", 1.0)):
        density = Presence(torch.full_like(value, 0.2), name, temperature).log_prob(value).exp()
        assert density.mean() == pytest.approx(1, abs=5e-3)


def test_sampled_divergence_is_near_the_integral() -> None:
    draws = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    p, q = (Presence(torch.tensor([value]), "relaxedbernoulli", 1.0) for value in (0.3, 0.6))
    value = (torch.arange(100_000) + 0.5) / 100_000
    p_log, q_log = (Presence(torch.full_like(value, x), "relaxedbernoulli").log_prob(value) for x in (0.3, 0.6))
    assert p.kl(q, draws).item() == pytest.approx((p_log.exp() * (p_log - q_log)).mean().item(), abs=0.1)


def test_names_of_presences() -> None:
    assert presence_name("concrete") == "relaxedbernoulli"
    assert presence_name("gumbelsoftmax-st") == "relaxedbernoulli-hard"
    with pytest.raises(ValueError, match=r"--step 'binary'.*continuousbernoulli"):
        presence_name("binary")


def test_count_prior_is_that_of_the_number_of_objects() -> None:
    """Over all ways to fill four cells: the number of objects is geometric, all places are equally likely."""
    p, cells = 0.4, 4
    presences = torch.tensor(list(itertools.product((0.0, 1.0), repeat=cells)))
    prior = count_prior(presences, p)
    likely = torch.where(presences > 0, prior, 1 - prior).prod(dim=1)
    counts = presences.sum(dim=1)
    expected = torch.tensor([(1 - p) * p**c for c in range(cells + 1)])
    expected = expected / expected.sum()
    for count, probability in enumerate(expected):
        of_count = likely[counts == count]
        assert of_count.sum() == pytest.approx(probability.item(), rel=1e-4)
        assert of_count.std(correction=0) < 1e-6


def test_probabilities_of_all_colours_sum_to_one() -> None:
    levels = torch.linspace(0, 1, 256).view(1, 1, 1, 256)
    parameters = torch.tensor([0.3, -2.0]).view(1, 2, 1, 1).expand(1, 2, 1, 256)
    assert DiscretisedLogistic(parameters).log_prob(levels).exp().sum() == pytest.approx(1, abs=1e-4)
    colours = torch.cartesian_prod(*[torch.linspace(0, 1, 32)] * 3).t().view(1, 3, 1, -1)
    parameters = (2 * rand(1, 30, 1, 1) - 1).expand(1, 30, 1, colours.shape[3])
    mixture = DiscretisedLogisticMixture(parameters, bits=5)
    assert mixture.log_prob(colours).exp().sum() == pytest.approx(1, abs=1e-3)


def test_masked_pixels_are_black() -> None:
    mixture = DiscretisedLogisticMixture(2 * rand(2, 40, 3, 3) - 1)
    masked = mixture.masked(torch.full((2, 1, 3, 3), 1e-4))
    assert masked.mean.max() < 1e-3
    torch.testing.assert_close(mixture.masked(torch.ones(2, 1, 3, 3)).mean, mixture.mean)


def test_decoder_is_its_layers_over_tiled_latents() -> None:
    torch.manual_seed(0)
    decoder, latents = BroadcastDecoder((5, 7), 3, 4), rand(2, 3)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 13), torch.linspace(-1, 1, 15), indexing="ij")
    grid = torch.stack((rows, columns)).expand(2, 2, 13, 15)
    tiled = torch.cat((latents[:, :, None, None].expand(2, 3, 13, 15), grid), dim=1)
    torch.testing.assert_close(decoder(latents), decoder.layers(tiled).sigmoid())
