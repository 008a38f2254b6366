"""LPIPS against a plain reading of the paper, its gradients, and the files its weights come from."""

import hashlib
import math

import pytest
import torch
from torch import nn

from core.metrics import perceptual
from core.metrics.perceptual import BACKBONES, LPIPS, feature_distance, load_lpips
from core.metrics.pretrained import MissingWeightsError
from core.training.checkpoint import CheckpointError

TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
"""Where torchvision's `features` has the compared activations."""
SIDES = {"alex": 40, "vgg": 24}


def random_weights(net):
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in BACKBONES[net].weights().items():
        scale = math.sqrt(2 / math.prod(shape[1:])) if len(shape) == 4 else 0.05
        value = scale * torch.randn(shape, generator=generator)
        weights[name] = value.abs() if name.startswith("lin") else value
    return weights


WEIGHTS = {net: random_weights(net) for net in BACKBONES}


def plain_backbone(net):
    """torchvision's `features`, layer by layer."""
    convolutions = {layer.index: layer for stage in BACKBONES[net].stages for layer in stage}
    pools = {"alex": (2, 5), "vgg": (4, 9, 16, 23)}[net]
    layers = []
    for index in range(TAPS[net][-1] + 1):
        if index in convolutions:
            of = convolutions[index]
            layers.append(nn.Conv2d(of.in_channels, of.out_channels, of.kernel_size, of.stride, of.padding))
        elif index in pools:
            layers.append(nn.MaxPool2d(3 if net == "alex" else 2, 2))
        else:
            layers.append(nn.ReLU())
    return nn.ModuleList(layers)


def plain_distance(net, x, y):
    features = plain_backbone(net)
    features.load_state_dict(
        {name.removeprefix("features."): value for name, value in WEIGHTS[net].items() if name.startswith("features")}
    )
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = ((images - shift[:, None, None]) / scale[:, None, None] for images in (x, y))
    distance, tap = 0, 0
    for index, layer in enumerate(features):
        x, y = layer(x), layer(y)
        if index in TAPS[net]:
            unit_x, unit_y = (f / (f.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for f in (x, y))
            weighted = WEIGHTS[net][f"lin{tap}"][:, None, None] * (unit_x - unit_y) ** 2
            distance = distance + weighted.sum(dim=1).mean(dim=(1, 2))
            tap += 1
    return distance


def pictures(net, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, SIDES[net], SIDES[net] + 3)
    truth = 2 * torch.rand(shape, generator=generator) - 1
    return truth + 0.3 * torch.randn(shape, generator=generator), truth


@pytest.mark.parametrize("net", BACKBONES)
def test_distance_and_gradients_are_the_papers(net):
    x, y = (images.requires_grad_() for images in pictures(net))
    upstream = torch.tensor([1.0, -2.0, 0.5])
    plain = plain_distance(net, x, y)
    plain_gradients = torch.autograd.grad((upstream * plain).sum(), (x, y))

    distance = LPIPS(net, WEIGHTS[net])(x, y)
    torch.testing.assert_close(distance, plain, rtol=1e-5, atol=1e-7)
    assert (distance > 0.01).all()
    for ours, theirs in zip(torch.autograd.grad((upstream * distance).sum(), (x, y)), plain_gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))


def test_the_gradient_in_one_picture_does_not_need_that_in_the_other():
    x, y = pictures("alex")
    lpips = LPIPS("alex", WEIGHTS["alex"])
    both = torch.autograd.grad(lpips(x.requires_grad_(), y.requires_grad_()).sum(), (x, y))
    (of_x,) = torch.autograd.grad(lpips(x, y.detach()).sum(), x)
    (of_y,) = torch.autograd.grad(lpips(x.detach(), y).sum(), y)
    assert torch.equal(of_x, both[0])
    assert torch.equal(of_y, both[1])


def test_layers_sum_to_the_distance():
    x, y = pictures("alex")
    lpips = LPIPS("alex", WEIGHTS["alex"])
    layers = torch.stack(list(lpips.layers(x, y)))
    assert layers.shape == (5, 3)
    torch.testing.assert_close(layers.sum(dim=0), lpips(x, y))


def test_a_batch_in_chunks_is_the_batch_one_by_one(monkeypatch):
    lpips = LPIPS("alex", WEIGHTS["alex"])
    x, y = pictures("alex", count=5)
    x.requires_grad_()
    whole = lpips(x, y)
    (of_whole,) = torch.autograd.grad(whole.sum(), x)
    for pixels in (1, 2 * x[0, 0].numel()):
        monkeypatch.setattr(perceptual, "CPU_CHUNK_PIXELS", pixels)
        parts = lpips(x, y)
        (of_parts,) = torch.autograd.grad(parts.sum(), x)
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(of_parts, of_whole, rtol=1e-3, atol=1e-5 * float(of_whole.abs().max()))


def test_backward_keeps_one_picture_of_gradients_and_no_activations():
    lpips = LPIPS("alex", WEIGHTS["alex"])
    x, y = pictures("alex")
    distance = lpips(x.requires_grad_(), y)
    kept = [tensor for tensor in distance.grad_fn.saved_tensors if tensor is not None]
    assert [tensor.shape for tensor in kept] == [x.shape]
    (before,) = [node for node, _ in distance.grad_fn.next_functions if node is not None]
    assert before.variable is x
    distance.sum().backward()
    assert y.grad is None
    assert x.grad.abs().sum() > 0
    assert not lpips(x.detach(), y).requires_grad
    with torch.no_grad():
        assert not lpips(x, y).requires_grad


def test_weights_are_frozen_and_stay_out_of_checkpoints():
    model = nn.ModuleDict({"percept": LPIPS("alex", WEIGHTS["alex"]), "own": nn.Linear(1, 1)})
    assert list(model.state_dict()) == ["own.weight", "own.bias"]
    assert sum(parameter.numel() for parameter in model.parameters()) == 2
    assert model.train()["percept"](*pictures("alex")).equal(model.eval()["percept"](*pictures("alex")))


def test_equal_pictures_and_dead_features():
    lpips = LPIPS("alex", WEIGHTS["alex"])
    x, _ = pictures("alex")
    distance = lpips(x.requires_grad_(), x.detach())
    assert distance.tolist() == [0, 0, 0]
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert gradient.abs().max() == 0
    dead, alive = torch.zeros(1, 2, 1, 1, requires_grad=True), torch.ones(1, 2, 1, 1)
    distance = feature_distance(dead, alive, torch.tensor([1.0, 3.0]))
    assert distance.item() == pytest.approx(2)
    assert torch.autograd.grad(distance.sum(), dead)[0].isfinite().all()


def test_half_precision_is_close():
    lpips = LPIPS("alex", WEIGHTS["alex"])
    x, y = pictures("alex")
    exact = lpips(x.requires_grad_(), y)
    (of_exact,) = torch.autograd.grad(exact.sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = lpips(x, y)
    (of_coarse,) = torch.autograd.grad(coarse.sum(), x)
    assert coarse.dtype == of_coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, exact, rtol=0.03, atol=0)
    assert torch.nn.functional.cosine_similarity(of_coarse.flatten(), of_exact.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("net", BACKBONES)
def test_small_pictures_are_refused(net):
    smallest = BACKBONES[net].smallest_side
    lpips, pictures = LPIPS(net, WEIGHTS[net]), torch.zeros(1, 3, smallest, 2 * smallest)
    assert lpips(pictures, pictures) == 0
    with pytest.raises(ValueError, match=f"LPIPS: expected two batches of pictures of one shape, {smallest} pixels"):
        lpips(pictures[:, :, 1:], pictures[:, :, 1:])


def torchvision_file(net):
    features = {name: value for name, value in WEIGHTS[net].items() if name.startswith("features")}
    return features | {"classifier.1.weight": torch.zeros(3, 3)}


def linear_file(net):
    linear = {name: value for name, value in WEIGHTS[net].items() if name.startswith("lin")}
    return {f"{name}.model.1.weight": value.view(1, -1, 1, 1) for name, value in linear.items()}


def whole_module(net, prefix=""):
    stages = {layer.index: i for i, stage in enumerate(BACKBONES[net].stages, 1) for layer in stage}
    state = {f"{prefix}scaling_layer.shift": torch.zeros(1)}
    for name, value in WEIGHTS[net].items():
        if name.startswith("features"):
            index, kind = name.split(".")[1:]
            state[f"{prefix}net.slice{stages[int(index)]}.{index}.{kind}"] = value
    for name, value in linear_file(net).items():
        state[prefix + name] = value
        state[f"{prefix}lins.{name[3]}{name[4:]}"] = value
    return state


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def save_hashed(folder, stem, state):
    torch.save(state, folder / "unnamed")
    digest = hashlib.sha256((folder / "unnamed").read_bytes()).hexdigest()
    return (folder / "unnamed").rename(folder / f"{stem}-{digest[:8]}.pth")


def test_weights_from_every_layout(hub, tmp_path):
    x, y = pictures("alex")
    expected = LPIPS("alex", WEIGHTS["alex"])(x, y)
    save_hashed(hub, "alexnet-owt", torchvision_file("alex"))
    torch.save(linear_file("alex"), hub / "lpips_alex.pth")
    assert torch.equal(load_lpips("alex")(x, y), expected)

    given = tmp_path / "given"
    given.mkdir()
    torch.save(torchvision_file("alex"), given / "a.pth", _use_new_zipfile_serialization=False)
    torch.save(linear_file("alex"), given / "b.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": whole_module("alex", "loss.perceptual_loss.")}, given / "whole.pth")
    for files in (["a.pth", "b.pth"], ["b.pth", "a.pth"], ["whole.pth"]):
        assert torch.equal(load_lpips("alex", [given / name for name in files])(x, y), expected), files


def test_a_whole_module_in_the_cache_needs_no_backbone(hub):
    torch.save(whole_module("alex"), hub / "lpips_alex.pth")
    x, y = pictures("alex")
    assert torch.equal(load_lpips("alex")(x, y), LPIPS("alex", WEIGHTS["alex"])(x, y))


@pytest.mark.parametrize("present", ["nothing", "backbone", "linear"])
def test_absent_weights(hub, present):
    if present == "backbone":
        save_hashed(hub, "alexnet-owt", torchvision_file("alex"))
    if present == "linear":
        torch.save(linear_file("alex"), hub / "lpips_alex.pth")
    with pytest.raises(MissingWeightsError) as error:
        load_lpips("alex")
    message = str(error.value)
    for part in (
        "alexnet-owt-7be5be79.pth from https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "lpips_alex.pth from https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/alex.pth",
        str(hub),
        "everything else goes on without",
    ):
        assert part in message


def test_damaged_and_foreign_files(hub, tmp_path):
    path = save_hashed(hub, "alexnet-owt", torchvision_file("alex"))
    torch.save(linear_file("alex"), hub / "lpips_alex.pth")
    path.rename(hub / "alexnet-owt-7be5be79.pth")
    with pytest.raises(CheckpointError, match=r"7be5be79\.pth: its SHA-256 should begin with 7be5be79.*fetch it again"):
        load_lpips("alex")
    torch.save(linear_file("vgg"), tmp_path / "vgg.pth")
    backbone = hub / "alexnet-owt-7be5be79.pth"
    backbone.rename(tmp_path / "backbone.pth")
    with pytest.raises(
        CheckpointError, match=r"needs lin1 of shape \[192\], which is of shape \[128\]; 4 of 15 weights do not fit"
    ):
        load_lpips("alex", [tmp_path / "backbone.pth", tmp_path / "vgg.pth"])
    with pytest.raises(CheckpointError, match=r"needs features\.0\.weight of shape \[64, 3, 11, 11\], which is absent"):
        load_lpips("alex", [hub / "lpips_alex.pth"])
    torch.save({"lin0.model.1.weight": print}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="more than tensors"):
        load_lpips("alex", [tmp_path / "code.pth"])
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_lpips("alex", [tmp_path / "none.pth"])
