"""Properties of GENESIS-V2 and its GECO, whatever their weights."""

import pytest
import torch
from torch import Tensor

from clevrtex.models.genesis_geco import GenesisGECO
from clevrtex.models.genesisv2 import GenesisV2, clamp_forward, mask_kl
from clevrtex.original.genesisv2 import from_original, to_original
from core.nn.noise import Noise, ShardedNoise

SIDE, SLOTS, SIZE = 32, 3, 8
SIMILARITIES = ("gaussian", "laplacian", "epanechnikov")


def genesis(image_size: tuple[int, int] = (SIDE, SIDE), **options: object) -> GenesisV2:
    torch.manual_seed(0)
    model = GenesisV2(image_size, SLOTS, SIZE, **options)
    for value in model.parameters():  # enough for slots that differ
        value.data *= 2 if value.ndim > 1 else 1
    return model


def images(count: int = 2, size: tuple[int, int] = (SIDE, SIDE)) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))


def noise_of(rows: slice, count: int) -> Noise:
    """Draws of some of `count` images, the same for each of them in whatever batch it is."""

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        return torch.randn(count, *shape[1:], generator=generator)[rows]

    return draw


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (96, 96)])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_decomposition_is_valid(similarity: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        found = genesis(size, similarity=similarity).eval().decompose({"image": images(2, size)}).validate()
    assert found.masks.shape == (2, SLOTS, *size)
    assert found.slots.shape == (2, SLOTS, SIZE)
    for masks in (found.masks, found.extras["other_masks"]):
        torch.testing.assert_close(masks.sum(dim=1), torch.ones(2, *size))
        assert masks.std() > 0.01
    torch.testing.assert_close(found.recon, (found.masks[:, :, None] * found.rgb).sum(dim=1))


def test_images_do_not_see_each_other() -> None:
    model, together = genesis(), images(3)
    whole = model.decompose({"image": together}, noise_of(slice(3), 3))
    for i in range(3):
        alone = model.decompose({"image": together[i : i + 1]}, noise_of(slice(i, i + 1), 3))
        torch.testing.assert_close(alone.recon, whole.recon[i : i + 1], rtol=1e-3, atol=1e-4)
        for name in ("nll", "kl"):
            torch.testing.assert_close(alone.extras[name], whole.extras[name][i : i + 1], rtol=1e-4, atol=1e-2)


def test_slot_takes_what_looks_like_its_seed() -> None:
    """Two halves of two colours, and a seed map that begins in the right one."""
    colouring = genesis(semi_convolution=False).colouring
    colours = torch.zeros(1, 8, 4, 6)
    colours[..., 3:] = 5.0
    seed_map = torch.linspace(0, 0.9, 24).view(1, 4, 6)
    log_masks, seeds = colouring(colours, seed_map)
    torch.testing.assert_close(seeds[0], torch.tensor([[5.0] * 8, [0.0] * 8]))
    halves = torch.zeros(3, 4, 6)
    halves[0, :, 3:], halves[0, :, :3] = 0.99, 0.01
    halves[1, :, 3:], halves[1, :, :3] = 0.01 * 0.01, 0.99 * 0.99
    halves[2] = 1 - halves[0] - halves[1]
    torch.testing.assert_close(log_masks[0].exp(), halves, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"mask_kl": True, "detach_masks": False}, {"autoregressive_prior": False}])
def test_loss_is_made_of_its_terms_and_reaches_every_parameter(options: dict) -> None:
    model = genesis(**options).train()
    model.geco.beta.fill_(3.0)
    terms = model.loss({"image": images()}, 0)
    torch.testing.assert_close(terms["loss"], terms["rec_loss"] + 3 * terms["kl"])
    torch.testing.assert_close(terms["elbo"], terms["rec_loss"] + terms["kl"])
    assert terms["beta"] == 3
    terms["loss"].backward()
    missing = [
        name for name, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()
    ]
    assert not missing


def test_mask_kl() -> None:
    log_q = torch.randn(2, SLOTS, 4, 4, requires_grad=True)
    log_q, log_p = log_q.log_softmax(dim=1), torch.randn(2, SLOTS, 4, 4).log_softmax(dim=1)
    expected = (log_q.exp() * (log_q - log_p)).flatten(1).sum(dim=1)
    torch.testing.assert_close(mask_kl(log_q, log_p), expected, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(mask_kl(log_q, log_q), torch.zeros(2))
    impossible = torch.tensor([0.0, -1e9]).view(1, 2, 1, 1)
    assert mask_kl(impossible, impossible.flip(1)).isfinite()


def test_detached_masks_train_the_attention_alone() -> None:
    gradients = []
    for detach in (True, False):
        model = genesis(mask_kl=True, detach_masks=detach)
        found = model(images(), noise_of(slice(2), 2))
        mask_kl(found.log_attention, found.log_masks.detach() if detach else found.log_masks).sum().backward()
        gradients.append(model.decoder.layers[-1].weight.grad)
    assert gradients[0] is None
    assert gradients[1].abs().sum() > 0


def test_clamped_values_have_the_gradient_of_the_unclamped() -> None:
    values = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    clamped = clamp_forward(values, 0.0, 1.0)
    assert clamped.tolist() == [0.0, 0.5, 1.0]
    clamped.sum().backward()
    assert values.grad.tolist() == [1.0, 1.0, 1.0]


def test_bfloat16_stays_close() -> None:
    model = genesis()
    model.noise = ShardedNoise(seed=1)
    full = model.loss({"image": images()}, 0)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss({"image": images()}, 0)
    for name, value in half.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, full[name], rtol=0.1, atol=1.0)
    half["loss"].backward()
    assert all(value.grad.dtype == torch.float32 and value.grad.isfinite().all() for value in model.parameters())


def test_samples_of_the_prior() -> None:
    model = genesis().eval()
    found = model.sample(4).validate()
    assert found.recon.shape == (4, 3, SIDE, SIDE)
    assert found.masks.shape == (4, SLOTS, SIDE, SIDE)
    noise = noise_of(slice(4), 4)
    slots = model.sample(4, noise).slots
    mean, std, _ = model.prior(slots[:, :-1])
    torch.testing.assert_close(slots[:, 0], noise("slot_0", (4, SIZE)))
    for k in range(1, SLOTS):
        expected = mean[:, k - 1] + std[:, k - 1] * noise(f"slot_{k}", (4, SIZE))
        torch.testing.assert_close(slots[:, k], expected)


def test_samples_of_a_prior_without_memory() -> None:
    found = genesis(autoregressive_prior=False).sample(3, noise_of(slice(3), 3))
    torch.testing.assert_close(found.slots[:, 1], noise_of(slice(3), 3)("slot_1", (3, SIZE)))


def test_geco_keeps_within_its_bounds() -> None:
    geco = GenesisGECO(goal=0.0, step_size=1.0, beta_min=0.5, beta_max=4.0)
    for error, bound in ((1e6, 0.5), (-1e6, 4.0)):
        for _ in range(500):
            geco.update(torch.tensor(error))
        assert geco.beta == bound
        assert geco.ema.isfinite()


def test_geco_moves_faster_where_the_goal_is_reached() -> None:
    for error, factor in ((-1.0, 1.0), (1.0, -0.1)):
        geco = GenesisGECO(goal=0.0, step_size=0.01, speedup=10.0)
        geco.update(torch.tensor(error))
        assert geco.ema == error  # the first error starts the average
        torch.testing.assert_close(geco.beta.log(), torch.tensor(0.1 * factor))
        geco.update(torch.tensor(0.0))
        torch.testing.assert_close(geco.ema, torch.tensor(0.99 * error))


def test_geco_learns_from_evaluation_in_the_original_only() -> None:
    for as_original in (False, True):
        model = genesis(as_original=as_original).eval()
        model.loss({"image": images()}, 0)
        assert (model.geco.beta != 1) == as_original
        model = genesis(as_original=as_original).train()
        model.loss({"image": images()}, 0)
        assert model.geco.beta == 1


def test_geco_state_is_saved() -> None:
    model, other = genesis(), genesis()
    model.geco.update(torch.tensor(12.0))
    other.load_state_dict(model.state_dict())
    for geco in (model.geco, other.geco):
        geco.update(torch.tensor(0.0))
    assert model.geco.ema == other.geco.ema
    torch.testing.assert_close(model.geco.ema, torch.tensor(0.99 * 12))
    assert model.geco.beta == other.geco.beta


def test_original_names_there_and_back() -> None:
    state = genesis().state_dict()
    theirs = to_original(state)
    assert theirs["encoder.up.1.0.weight"].shape == (2 * SIZE, 4 * SIZE, 3, 3)
    assert theirs["feat_head.1.weight"].shape == (2 * SIZE, SIZE, 1, 1)
    constants = {"model.geco.goal": torch.zeros(()), "model.decoder_module.0.coords": torch.zeros(1, 2, 2, 2)}
    back = from_original({f"model.{key}": value for key, value in theirs.items()} | constants)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    with pytest.raises(ValueError, match=r"'seg_heat\.0\.weight' is no parameter of GENESIS-V2"):
        from_original({"seg_heat.0.weight": torch.zeros(1)})


def test_published_size_has_the_parameters_of_the_original() -> None:
    assert sum(value.numel() for value in GenesisV2().parameters()) == 2_840_270


@pytest.mark.parametrize(("size", "factor"), [((16, 16), 16), ((128, 144), 32), ((40, 40), 16)])
def test_images_that_do_not_fit(size: tuple[int, int], factor: int) -> None:
    with pytest.raises(ValueError, match=f"multiples of {factor}, as in --data"):
        GenesisV2(size)
