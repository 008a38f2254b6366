"""Checks of what the glimpse-based models share: windows, distributions, small networks."""

import ast
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, ContinuousBernoulli, Normal

from clevrtex.models import gnm_objects
from clevrtex.models.broadcast_vae import BroadcastDecoder, ConvEncoder
from clevrtex.models.celu_layers import Layer, convolution, stack
from clevrtex.models.frames import paste_frames
from clevrtex.models.glimpses import boxes, edges, inverse, paste, read_glimpses
from clevrtex.models.latents import bernoulli_kl
from clevrtex.models.pixel_distributions import DiscretisedLogistic, DiscretisedLogisticMixture
from clevrtex.models.presence import Presence, count_prior
from clevrtex.models.spair_backbones import large_backbone, small_backbone
from clevrtex.models.spair_cells import MLP, posterior
from tests.parity.golden import Case, Check
from tests.parity.sprite_cases import check_outputs, close_to_largest, output_tolerance

BOUNDARY_WIDTH, BOUNDARY_VALUE = 6, 1 / 1024
PRIOR_PRESENCE = 0.1


def recorded(
    name: str, function: Callable[[Tensor, Tensor], Tensor], picture: Tensor, where: Tensor
) -> dict[str, Tensor]:
    """The output, and the gradients of the sum of its squares. Theirs have one window per picture."""
    picture, where = picture.clone().requires_grad_(), where.clone().requires_grad_()
    output = function(picture, where[:, None])[:, 0]
    of_where, of_picture = torch.autograd.grad(output.square().sum(), (where, picture))
    return {name: output, f"{name}.grad_where": of_where, f"{name}.grad_x": of_picture}


def reading(size: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda picture, where: read_glimpses(picture, where, size)


def pasting(size: tuple[int, ...], epsilon: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda picture, where: paste(picture[:, None], where, size, epsilon)


def check_windows(case: Case, tmp_path: Path) -> None:
    """InvSTN says where the image lies as seen from the window: it reads where we paste, and the reverse."""
    image, patch, where, short = (case[f"in/{name}"] for name in ("image", "object", "z4", "z3"))
    size, patch_size = tuple(image.shape[2:]), tuple(patch.shape[2:])
    ours = {"stn.inv_where": inverse(where), "invstn.inv_where": inverse(short)}
    for name, given in (("z4", where), ("z3", short)):
        ours |= recorded(f"stn.extract.{name}", reading(patch_size), image, given)
        ours |= recorded(f"stn.place.{name}", pasting(size), patch, given)
        ours |= {f"stn.bbox.{name}": edges(given), f"stn.bbox_pixels.{name}": boxes(given, size)}
    theta = case["out/stn.expand"]
    lattice = F.affine_grid(theta, [len(theta), 1, *patch_size], align_corners=False)
    glimpses = F.grid_sample(image, lattice, align_corners=False)
    torch.testing.assert_close(read_glimpses(image, where[:, None], patch_size)[:, 0], glimpses)
    ours |= {"stn.expand": theta}
    ours |= recorded("invstn.place", reading(size), patch, short)
    ours |= recorded("invstn.extract", pasting(patch_size), image, short)
    extent = torch.tensor(size[::-1]).repeat(2)
    with_margin = edges(inverse(short)) * extent + torch.tensor([-1, -1, 1, 1])
    ours |= {"invstn.bbox": torch.minimum(with_margin.clamp(min=0), extent)}
    for model, epsilon in (("gnm", gnm_objects.EPSILON), ("space", 1e-9)):
        ours |= recorded(f"{model}.glimpse", reading(patch_size), image, where)
        ours |= recorded(f"{model}.insert", pasting(size, epsilon), patch, where)
        ours |= {f"{model}.kl_bern": bernoulli_kl(case["in/logits"].sigmoid(), PRIOR_PRESENCE)}
    side, whole = len(case["out/boundary_kernel"]), torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    kernel = paste_frames(whole, torch.full((1, 1, 1), BOUNDARY_VALUE), (side, side), side, BOUNDARY_WIDTH, 0.0)
    ours |= {"boundary_kernel": kernel[0, 0]}
    check_outputs(case, ours)


def network(kind: str, arguments: list, shape: list[int]) -> tuple[nn.Module, Callable[[Tensor], tuple[Tensor, ...]]]:
    """A building block and its outputs in the order in which the original returns them; `shape` is of its pictures."""
    if kind == "SPACEBackbone":
        channels, halvings = arguments
        layers = [Layer(16, 3, 2, 4), Layer(32, 3, 2, 8), Layer(64, 3, 2, 8), Layer(128, 3, 2, 16)]
        layers += [Layer(256, 3, 2 if halvings else 1, 32), *[Layer(256, 3, 2, 32)] * (halvings - 1)]
        module = stack(convolution, channels, [*layers, Layer(128, 1, 1, 16)])
        return module, lambda image: (module(image),)
    if kind in ("Backbone", "LargeBackbone"):
        module = small_backbone(*arguments) if kind == "Backbone" else large_backbone(arguments[0], 4 + arguments[1])
        return module, lambda image: (module(image),)
    if kind == "ConvEncoder":
        module = ConvEncoder(*arguments)
        return module.layers, lambda image: (module(image).mean, module(image).std)
    if kind == "BroadcastDecoder":
        module = BroadcastDecoder(tuple(shape[1:]), *arguments)
        return module.layers, lambda latents: (module(latents),)
    module = mlp(kind, arguments)
    return module, lambda values: outputs_of_mlp(kind, arguments, *module(values))


def mlp(kind: str, arguments: list) -> MLP:
    if kind == "MLP":
        return MLP(*arguments)
    if kind == "ObjDecoder":
        (height, width), latent_size = arguments
        return MLP(latent_size, 4 * height * width, (128, 256))
    inputs, *sizes = arguments
    if kind == "ObjEncoder":
        return MLP(inputs, 2 * sizes[0], (256, 128))
    if kind == "CombinedPred":
        return MLP(inputs, 11, (256, 128, 128, 64, 64, 32, 32))
    outputs = {"BoxNetwork": 8, "DepthNetwork": 2, "PresNetwork": 1}[kind]
    return MLP(inputs, outputs, (100, 100), *sizes)


def outputs_of_mlp(kind: str, arguments: list, numbers: Tensor, passed: Tensor) -> tuple[Tensor, ...]:
    if kind == "MLP":
        return numbers, passed
    if kind == "ObjDecoder":
        return (numbers.sigmoid().unflatten(1, (4, *arguments[0])),)
    if kind == "PresNetwork":
        return numbers.sigmoid(), passed
    if kind == "CombinedPred":
        where, depth, presence = numbers.split((8, 2, 1), dim=1)
        where, depth = posterior(where), posterior(depth)
        return where.mean, where.std, depth.mean, depth.std, presence.sigmoid()
    found = posterior(numbers)
    return (found.mean, found.std) if kind == "ObjEncoder" else (found.mean, found.std, passed)


def check_networks(case: Case, tmp_path: Path) -> None:
    config = case.info["config"]
    for name, given in config.items():
        if not isinstance(given, dict):
            continue
        arguments = [ast.literal_eval(text) for text in given["args"]]
        module, outputs = network(given["class"], arguments, config.get(f"{name}.out_shape", []))
        state = case.tensors(f"state/{name}.")
        module.load_state_dict(state)
        found = outputs(case[f"in/{name}.x"])
        theirs = {key for key in case.arrays if key.startswith(f"out/{name}.")}
        assert len(theirs) == len(found)
        for key in theirs:
            index, _, every = key.removeprefix(f"out/{name}.").partition("@")
            ours = found[int(index)]
            ours = ours[..., :: int(every), :: int(every)] if every else ours
            assert ours.shape == case[key].shape
            if ours.numel():
                close_to_largest(key, ours.detach(), case[key], output_tolerance(case))
        torch.stack([output.square().sum() for output in found]).sum().backward()
        for key, norm in case.tensors(f"grad/{name}.").items():
            ours = module.get_parameter(key).grad.double().norm()
            close_to_largest(f"gradient of {name}.{key}", ours, norm.double(), output_tolerance(case))


def check_distributions(case: Case, tmp_path: Path) -> None:
    """Of `bernoulli` theirs are at the rounded value. Divergences without a closed form are of three samples."""
    p, q, value = (case[f"in/{name}"] for name in ("p", "q", "value"))
    draw = torch.special.ndtri(case["in/u"].double()).expand(p.shape)
    names = {key.split(".")[0] for key in case.tensors("out/") if key.endswith((".log_prob", ".kl"))} - {"output"}
    ours: dict[str, Tensor] = {}
    for name in names:
        prior = Presence(q, name, case["in/temperature"])
        presence = Presence(p.clone().requires_grad_(), name, case["in/temperature"])
        of = value.round() if name == "bernoulli" else value
        ours |= {f"{name}.log_prob": presence.log_prob(of), f"{name}.kl": presence.kl(prior, torch.stack([draw] * 3))}
        for mode in ("train", "eval"):
            sample = presence.sample(draw, hard=mode == "eval")
            ours[f"{name}.{mode}.sample"] = sample
            if sample.requires_grad:
                (ours[f"{name}.{mode}.sample_grad"],) = torch.autograd.grad(sample.sum(), presence.prob)
    check_outputs(case, ours | pixels_of(case) | priors_of(case))


def pixels_of(case: Case) -> dict[str, Tensor]:
    """Ours are the logistic ones; torch has the others."""
    image, canvas, mask = case["in/image"], case["in/canvas"], case["in/mask"]
    probabilities = canvas.clamp(1e-6, 1 - 1e-6)
    found = {
        "normal": Normal(canvas, std_of(image - canvas, case["out/output.normal.log_prob"])),
        "bernoulli": Bernoulli(probabilities),
        "continuousbernoulli": ContinuousBernoulli(probabilities, validate_args=False),
        "disclogistic": DiscretisedLogistic(case["in/logistic"], as_original=True),
    }
    for name in {key.split(".")[1] for key in case.tensors("out/") if key.startswith("output.discmix")} - {"discmix"}:
        bits = int(name.removeprefix("discmix"))
        found[name] = DiscretisedLogisticMixture(case["in/logistic_mix"], bits, as_original=True)
    masked = DiscretisedLogisticMixture(case["in/logistic_mix"]).masked(mask).parameters
    logits, rest = masked.tensor_split((masked.shape[1] // 10,), dim=1)
    # The original leaves kinds of parameters before colours, which is not what it reads.
    rest = rest.unflatten(1, (3, 3, -1)).transpose(1, 2).flatten(1, 3)
    ours = {"output.discmix.apply_mask": torch.cat((logits, rest), dim=1)}
    for name, distribution in found.items():
        of = image.round() if name == "bernoulli" else image
        ours |= {f"output.{name}.log_prob": distribution.log_prob(of), f"output.{name}.mean": distribution.mean}
    return ours


def std_of(errors: Tensor, log_prob: Tensor) -> float:
    """The standard deviation, which the json does not say, from the smallest and the largest error."""
    squares, log_prob = errors.double().square().flatten(), log_prob.double().flatten()
    low, high = squares.argmin(), squares.argmax()
    return float(((squares[high] - squares[low]) / (2 * (log_prob[low] - log_prob[high]))).sqrt())


def priors_of(case: Case) -> dict[str, Tensor]:
    """Theirs have cells first."""
    given = case.tensors("in/slot_prior.z.")
    return {f"slot_prior.{p}": count_prior(z[..., 0].t(), float(p)).t()[..., None] for p, z in given.items()}


CHECKS: dict[str, Check] = {"stn": check_windows, "components": check_networks, "ool_base": check_distributions}
