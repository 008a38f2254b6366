"""Properties that EfficientMORL and its Slot Attention must have, whatever their weights."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from core.nn.noise import Noise, ShardedNoise
from emorl.models import EfficientMORL, LocalSlotAttention, SlotAttention
from emorl.models.decoders import build_decoder

SIDE, SLOTS, SIZE = 12, 3, 8
GECO = {"target": -100.0, "alpha": 0.9, "step_size": 1e-3, "acceleration": 2.0, "warm_start": 0}


def lively(model: nn.Module) -> nn.Module:
    """Weights at unit scale: the published start makes all outputs nearly constant."""
    generator = torch.Generator().manual_seed(0)
    for value in model.parameters():
        fan_in = value[0].numel() if value.ndim > 1 else 16
        value.data.copy_(torch.randn(value.shape, generator=generator) / fan_in**0.5)
    return model


def efficient_morl(**options: object) -> EfficientMORL:
    settings = {"decoder": "small", "refinement_iters": 2, "log_std": -1.2, **options}
    return lively(EfficientMORL((SIDE, SIDE), SLOTS, SIZE, **settings))


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def fixed_noise(order: list[int] | None = None) -> Noise:
    """The same draws every time, with the slots in another `order` if one is given."""
    memory: dict[str, Tensor] = {}

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        seed = sum(ord(letter) * (i + 1) for i, letter in enumerate(name))
        memory[name] = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return memory[name] if order is None else memory[name][:, order]

    return draw


def every_model() -> Iterator[pytest.param]:
    priors, likelihoods = ("bottom_up", "reversed", "reversed++"), ("Gaussian", "GMM")
    for prior, likelihood in itertools.product(priors, likelihoods):
        yield pytest.param(
            lambda p=prior, k=likelihood: efficient_morl(prior=p, likelihood=k), id=f"{prior}-{likelihood}"
        )
    yield pytest.param(lambda: efficient_morl(dual_gru=False), id="one-gru")
    yield pytest.param(lambda: efficient_morl(decoder="iodine", geco=GECO), id="iodine-geco")
    yield pytest.param(lambda: efficient_morl(num_layers=1, refinement_iters=0), id="L1-I0")
    yield pytest.param(lambda: lively(SlotAttention((SIDE, SIDE), SLOTS, SIZE)), id="slot-attention")
    yield pytest.param(lambda: lively(LocalSlotAttention((SIDE, SIDE), SLOTS, SIZE)), id="local-slot-attention")


@pytest.mark.parametrize("build", list(every_model()))
def test_decomposition_is_valid(build) -> None:
    model = build().eval()
    found = model.decompose({"image": images()}, fixed_noise()).detach().validate()
    assert found.masks.shape == (2, SLOTS, SIDE, SIDE)
    torch.testing.assert_close(found.masks.sum(dim=1), torch.ones(2, SIDE, SIDE))
    torch.testing.assert_close(found.recon, (found.masks[:, :, None] * found.rgb).sum(dim=1))
    with_position = 2 if isinstance(model, LocalSlotAttention) else 0
    assert found.slots.shape == (2, SLOTS, SIZE + with_position)
    assert found.slots.shape == model.infer_codes(images(), fixed_noise()).shape


@pytest.mark.parametrize("build", list(every_model()))
def test_slots_are_exchangeable(build) -> None:
    """Draws in another order give the same slots in that order: no slot is special."""
    model, order = build().eval(), [2, 0, 1]
    one = model.decompose({"image": images()}, fixed_noise()).detach()
    other = model.decompose({"image": images()}, fixed_noise(order)).detach()
    torch.testing.assert_close(other.slots, one.slots[:, order], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(other.masks, one.masks[:, order], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(other.recon, one.recon, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("build", list(every_model()))
def test_images_do_not_see_each_other(build) -> None:
    """Evaluation of an image gives the same numbers in any batch."""
    model, both = build().eval(), images(3)
    together = model.decompose({"image": both}, fixed_noise()).detach()
    noise = fixed_noise()
    for i in range(3):

        def of_one(name: str, shape: tuple[int, ...], row: int = i) -> Tensor:
            return noise(name, (3, *shape[1:]))[row : row + 1]

        alone = model.decompose({"image": both[i : i + 1]}, of_one).detach()
        torch.testing.assert_close(alone.recon, together.recon[i : i + 1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("build", list(every_model()))
def test_gradient_reaches_every_parameter(build) -> None:
    model = build().train()
    model.loss({"image": images()}, 0)["loss"].backward()
    missing = [name for name, value in model.named_parameters() if value.grad is None]
    unused = isinstance(model, EfficientMORL) and model.unused_parameters()
    assert unused == bool(missing), missing
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


def test_chunks_change_no_number() -> None:
    results = []
    for chunk in (1, 2, 3):
        model = efficient_morl().train()
        model.images_per_chunk = chunk
        loss = model(images(3), 0, noise=fixed_noise()).loss
        loss.backward()
        results.append((loss.detach(), [value.grad for value in model.parameters()]))
    for loss, gradients in results[1:]:
        torch.testing.assert_close(loss, results[0][0])
        for one, other in zip(gradients, results[0][1]):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_gradient_equals_that_of_the_plain_graph() -> None:
    """One decoder backward per step against the loss written out and differentiated as a whole."""
    model = efficient_morl(refinement_iters=0).train()
    image = images()
    found = model(image, 0, noise=fixed_noise())
    found.loss.backward()
    ours = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    rgb, logits = (value.unflatten(0, (2, SLOTS)) for value in model.decoder(found.samples[0].flatten(0, 1)))
    again = model(image, 0, noise=fixed_noise())
    plain = model._score(image, again.samples[0], *model.decoder.shared_terms())
    kl = torch.stack(again.kl_layers).sum(dim=(0, 2))
    (3 * (plain.nll.mean() + kl.mean())).backward()
    for name, value in model.named_parameters():
        if name in ours:
            torch.testing.assert_close(ours[name], value.grad, rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(plain.rgb, rgb)
    torch.testing.assert_close(plain.mask_logits, logits)


@pytest.mark.parametrize(("name", "side"), [("small", 35), ("iodine", 20), ("big", 96)])
def test_factorised_decoder_equals_the_convolution(name: str, side: int) -> None:
    """The split first layer against the broadcast one."""
    decoder = lively(build_decoder(name, SIZE, (side, side)))
    slots = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(2))
    plain = decoder.layers(slots[:, :, None, None] + decoder.position(decoder.grid).permute(2, 0, 1))
    found = decoder(slots)
    assert found.rgb.shape == (4, 3, side, side)
    torch.testing.assert_close(found.rgb, plain[:, :3].sigmoid(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mask_logits, plain[:, 3], rtol=1e-4, atol=1e-5)


def test_big_decoder_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match=r"96x96 pictures only, and Net\.input_size is 35x35"):
        build_decoder("big", SIZE, (35, 35))


def test_rectangular_pictures_work() -> None:
    model = lively(EfficientMORL((10, 14), SLOTS, SIZE, decoder="small", refinement_iters=1))
    image = torch.rand(2, 3, 10, 14)
    assert model.train().loss({"image": image}, 0)["loss"].isfinite()
    assert model.eval().decompose({"image": image}).recon.shape == (2, 3, 10, 14)


def test_curriculum_and_evaluation_choose_the_refinements() -> None:
    model = efficient_morl(refinement_curriculum=[(-1, 3), (10, 1), (20, 0)], refinement_iters=2)
    assert [model.train().num_refinements(step) for step in (0, 9, 10, 19, 20, 99)] == [3, 3, 1, 1, 0, 0]
    assert model.eval().num_refinements(0) == 2
    found = model(images(), None, noise=fixed_noise())
    assert len(found.updates) == 2
    assert len(found.scores) == 3


@pytest.mark.parametrize("refinements", [0, 2])
def test_codes_do_not_need_the_last_score(refinements: int) -> None:
    """Leaving it out changes neither the posteriors nor what is drawn after them."""
    model, after = efficient_morl(refinement_iters=refinements, geco=GECO).eval(), []
    for score_last in (True, False):
        torch.manual_seed(3)
        found = model(images(), None, images_per_mean=1, score_last=score_last)
        assert len(found.scores) == refinements + score_last
        after.append((*found.parameters, *found.samples, torch.rand(3)))
    assert all(torch.equal(one, other) for one, other in zip(*after))


def test_evaluation_needs_no_graph_and_leaves_no_gradient() -> None:
    model = efficient_morl().eval()
    model.requires_grad_(False)
    with torch.no_grad():
        found = model.decompose({"image": images()}, fixed_noise())
    assert not found.recon.requires_grad
    assert all(value.grad is None for value in model.parameters())


def test_loss_is_a_function_of_seed_and_step() -> None:
    model = efficient_morl().train()
    model.noise = ShardedNoise(seed=5)
    losses = [model.loss({"image": images()}, step)["loss"].item() for step in (3, 4, 3)]
    assert losses[0] == losses[2] != losses[1]


def test_two_processes_share_the_draws_of_one() -> None:
    shape, device = (4, SLOTS, SIZE), torch.device("cpu")
    whole = ShardedNoise(seed=5).at(7, device)("init", shape)
    halves = [ShardedNoise(5, i, 2).at(7, device)("init", (2, *shape[1:])) for i in range(2)]
    assert torch.equal(torch.cat(halves), whole)


def test_parameters_are_unused_while_no_refinement_has_begun() -> None:
    assert efficient_morl(refinement_iters=0, refinement_curriculum=[(100, 1)]).unused_parameters()
    assert not efficient_morl(refinement_iters=0, refinement_curriculum=[(0, 1)]).unused_parameters()
    assert efficient_morl(refinement_iters=0).unused_parameters()
    assert not efficient_morl(refinement_iters=1, refinement_curriculum=[(100, 2)]).unused_parameters()


@pytest.mark.parametrize(("decoder", "log_std"), [("iodine", -6.0), ("big", -7.0)])
def test_fp16_scores_in_float32(decoder: str, log_std: float) -> None:
    """The gradient of a likelihood sums over pixels, beyond the range of fp16, before any scaler sees it."""
    sizes = {"decoder": decoder, "refinement_iters": 1, "log_std": log_std, "hidden": 8}
    model = lively(EfficientMORL((96, 96), SLOTS, SIZE, **sizes)).train()
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    slots = torch.randn(1, SLOTS, SIZE, generator=torch.Generator().manual_seed(2)).requires_grad_()
    gradients = []
    for is_half in (False, True):
        with torch.autocast("cpu", torch.float16, enabled=is_half):
            with model._precision_of_scores(image):
                terms = model.decoder.shared_terms()
            nll, _ = model._score_batch(image, slots, terms, True, False)
        gradients.append(torch.autograd.grad(nll, slots)[0])
    assert gradients[0].abs().max() > torch.finfo(torch.float16).max
    assert torch.equal(*gradients)


def test_bf16_stays_near_float32() -> None:
    model = efficient_morl().train()
    exact = model(images(), 0, noise=fixed_noise()).loss
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(images(), 0, noise=fixed_noise()).loss
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0)
