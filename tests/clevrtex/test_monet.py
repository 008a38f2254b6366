"""Properties of MONet and of the U-Net that it shares with GENESIS-V2, whatever their weights."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clevrtex.models.monet import MONet, mixture_nll
from clevrtex.models.unet import Kernel, Maps, UNet
from clevrtex.original.monet import from_original, to_original
from core.nn.doubling import doubling_kernel
from core.nn.noise import Noise, ShardedNoise

SIDE, SLOTS, SIZE = 20, 3, 5


def monet(**options: object) -> MONet:
    torch.manual_seed(0)
    model = MONet((SIDE, SIDE), SLOTS, SIZE, **{"num_blocks": 4, "width": 4, **options})
    for value in model.parameters():  # enough for slots that differ
        value.data *= 2 if value.ndim > 1 else 1
    return model


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def noise_of(rows: slice, count: int) -> Noise:
    """Draws of some of `count` images, the same for each of them in whatever batch it is."""

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        return torch.randn(count, *shape[1:], generator=generator)[rows]

    return draw


def plain_unet(unet: UNet, features: Tensor) -> Tensor:
    """As the paper draws it: halve, double, pad, concatenate."""
    skips = [F.relu(unet.down[0].norm(features))]
    for block in unet.down[1:]:
        height, width = (size // 2 * 2 for size in skips[-1].shape[2:])
        halved = skips[-1][:, :, :height:2, :width:2]
        skips.append(F.relu(block.norm(F.conv2d(halved, block.convolutions[0].weight, padding=1))))
    below = unet.mlp(skips[-1].flatten(1)).view_as(skips[-1])
    for i, block in enumerate(unet.up):
        beside = skips.pop()
        if i:
            below = F.interpolate(below, scale_factor=2)
            missing = [whole - size for whole, size in zip(beside.shape[2:], below.shape[2:])]
            below = F.pad(below, (0, missing[1], 0, missing[0]))
        weight = torch.cat([convolution.weight for convolution in block.convolutions], dim=1)
        below = F.relu(block.norm(F.conv2d(torch.cat((below, beside), dim=1), weight, padding=1)))
    return below


@pytest.mark.parametrize(("size", "num_groups"), [((16, 16), None), ((27, 21), None), ((24, 16), 2)])
def test_unet_equals_the_plain_one(size: tuple[int, int], num_groups: int | None) -> None:
    """Values and gradients of three passes in a row, each of which reads what the one before gave."""
    torch.manual_seed(0)
    unet = UNet(3, [4, 8, 16, 16], size, num_groups)
    given, results = torch.randn(2, 4, *size), []
    for lean in (True, False):
        unet.zero_grad()
        features = given.clone().requires_grad_()
        kernels, maps, seen = unet.kernels(), features, []
        for _ in range(3):
            maps = unet(maps, kernels) if lean else plain_unet(unet, maps)
            seen.append(maps)
        weights = torch.arange(seen[0].numel(), dtype=torch.float32).view_as(seen[0]).sin()
        sum((maps * weights).sum() for maps in seen).backward()
        results.append((seen, features.grad, [value.grad for value in unet.parameters() if value.grad is not None]))
    (ours, of_features, gradients), (theirs, plain_of_features, plain_gradients) = results
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of_features, plain_of_features, rtol=1e-3, atol=1e-3)
    for one, other in zip(gradients, plain_gradients):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.norm()) + 1e-4)


@pytest.mark.parametrize(("size", "missing"), [((5, 4), (0, 0)), ((3, 6), (1, 0)), ((4, 4), (1, 1))])
def test_doubling_kernel(size: tuple[int, int], missing: tuple[int, int]) -> None:
    maps, weight = torch.randn(2, 3, *size), torch.randn(4, 3, 3, 3)
    doubled = F.pad(F.interpolate(maps, scale_factor=2), (0, missing[1], 0, missing[0]))
    ours = F.conv_transpose2d(maps, doubling_kernel(weight), stride=2, padding=1, output_padding=missing)
    torch.testing.assert_close(ours, F.conv2d(doubled, weight, padding=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [2, 12], ids=["larger than the maps", "smaller than the maps"])
def test_gradient_of_all_uses_of_a_kernel(size: int) -> None:
    """Noted and given together, or summed use by use; once more for a second pass backwards."""
    weight, maps = torch.randn(8, 8, 3, 3, requires_grad=True), torch.randn(2, 8, size, size)
    kernel = Kernel(weight)
    loss = sum((i + 1) * kernel(Maps(maps * i)).sin().sum() for i in range(3))
    plain = sum((i + 1) * F.conv2d(maps * i, weight, padding=1).sin().sum() for i in range(3))
    expected = torch.autograd.grad(plain, weight)[0]
    for _ in range(2):
        found = torch.autograd.grad(loss, weight, retain_graph=True)[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_compiled_unet_has_the_same_gradient() -> None:
    torch.manual_seed(0)
    unet, features = UNet(3, [4, 8, 8], (8, 8)), torch.randn(2, 4, 8, 8)

    def loss() -> Tensor:
        kernels = unet.kernels()
        return unet(unet(features, kernels), kernels).square().sum()

    weights = [convolution.weight for block in unet.up for convolution in block.convolutions]
    expected = torch.autograd.grad(loss(), weights)
    found = torch.autograd.grad(torch.compile(loss, backend="eager")(), weights)
    torch.testing.assert_close(found, expected)


def test_decomposition_is_valid() -> None:
    with torch.no_grad():
        found = monet().eval().decompose({"image": images()}).validate()
    assert found.masks.shape == (2, SLOTS, SIDE, SIDE)
    assert found.slots.shape == (2, SLOTS, SIZE)
    assert found.masks.std() > 0.01
    torch.testing.assert_close(found.masks.sum(dim=1), torch.ones(2, SIDE, SIDE))
    torch.testing.assert_close(found.extras["other_masks"].sum(dim=1), torch.ones(2, SIDE, SIDE))
    torch.testing.assert_close(found.recon, (found.masks[:, :, None] * found.rgb).sum(dim=1))


def test_images_do_not_see_each_other() -> None:
    model, together = monet(), images(3)
    whole = model.decompose({"image": together}, noise_of(slice(3), 3))
    for i in range(3):
        alone = model.decompose({"image": together[i : i + 1]}, noise_of(slice(i, i + 1), 3))
        torch.testing.assert_close(alone.recon, whole.recon[i : i + 1], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(alone.extras["nll"], whole.extras["nll"][i : i + 1], rtol=1e-4, atol=1e-2)


def test_loss_is_the_sum_of_its_terms_and_reaches_every_parameter() -> None:
    model = monet().train()
    terms = model.loss({"image": images()}, 0)
    torch.testing.assert_close(terms["loss"], terms["rec_loss"] + terms["kl"] + terms["kl_mask"])
    assert terms["kl"] > 0
    assert terms["kl_mask"] > 0
    terms["loss"].backward()
    missing = [
        name for name, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()
    ]
    assert not missing


def test_bfloat16_stays_close() -> None:
    model = monet()
    model.noise = ShardedNoise(seed=1)
    full = model.loss({"image": images()}, 0)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss({"image": images()}, 0)
    for name, value in half.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, full[name], rtol=0.1, atol=1.0)
    half["loss"].backward()
    assert all(value.grad.dtype == torch.float32 and value.grad.isfinite().all() for value in model.parameters())


def test_factorised_decoder_equals_the_convolution() -> None:
    decoder, slots = monet().decoder, torch.randn(4, SIZE)
    grid = decoder.grid.expand(4, -1, -1, -1)
    plain = decoder.layers(torch.cat((slots[:, :, None, None].expand(-1, -1, *grid.shape[2:]), grid), dim=1))
    rgb, logits = decoder(slots)
    torch.testing.assert_close(rgb, plain[:, :3].sigmoid(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, plain[:, 3], rtol=1e-4, atol=1e-5)


def test_mixture_of_equal_slots_is_one_gaussian() -> None:
    image, rgb, std = images(), torch.rand(2, 3, SIDE, SIDE), torch.tensor(0.3)
    log_masks = torch.randn(2, SLOTS, SIDE, SIDE).log_softmax(dim=1)
    ours = mixture_nll(image, rgb[:, None].expand(-1, SLOTS, -1, -1, -1), log_masks, std)
    density = torch.distributions.Normal(rgb, std).log_prob(image)
    torch.testing.assert_close(ours, -density.flatten(1).sum(dim=1))


def test_original_names_there_and_back() -> None:
    state = monet().state_dict()
    theirs = to_original(state)
    assert theirs["att.upblocks.1.conv.weight"].shape == (8, 32, 3, 3)
    checkpoint = {f"model.{key}": value for key, value in theirs.items()} | {"model._z_what_prior_loc": torch.zeros(1)}
    back = from_original(checkpoint)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    with pytest.raises(ValueError, match=r"'enk\.0\.weight' is no parameter of MONet"):
        from_original({"enk.0.weight": torch.zeros(1)})


def test_published_size_has_the_parameters_of_the_original() -> None:
    assert sum(value.numel() for value in MONet().parameters()) == 22_161_765


def test_start_is_that_of_one_kernel_for_both_inputs() -> None:
    """PyTorch's bound for a kernel over all 32 channels."""
    torch.manual_seed(0)
    for convolution, block in itertools.product((0, 1), UNet(3, [16, 16, 16], (8, 8)).up):
        largest = block.convolutions[convolution].weight.abs().max()
        torch.testing.assert_close(largest.detach(), torch.tensor((32 * 9) ** -0.5), rtol=0.02, atol=0)


def test_too_many_blocks_for_the_image() -> None:
    with pytest.raises(ValueError, match="n_blocks=6: 5 times halved an image of 32x32 has 1x1 pixels"):
        MONet((32, 32))
