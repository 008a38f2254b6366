"""Properties of SPACE and of its two optimisers, whatever the weights."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from clevrtex.experiments.space import SPACE as Experiment
from clevrtex.framework.joint_optimizer import JointOptimizer
from clevrtex.framework.training import plain_value
from clevrtex.models.annealing import Ramp
from clevrtex.models.batch_norm import BatchNorm2d
from clevrtex.models.recomputing import Recomputing
from clevrtex.models.space import SPACE
from clevrtex.models.space_sizes import Schedules, Sizes, scales_to
from clevrtex.original.space import from_original, to_original
from core.training.checkpoint import load, save
from tests.clevrtex_sprite_models import (
    assert_close_in_bfloat16,
    assert_names_go_there_and_back,
    assert_wants_squares,
    images,
    noise_of,
    parameters_out_of_reach,
)

SIDE, CELLS = 32, 16
SMALL = Sizes(what=6, foreground_features=16, mask=5, component=4, background_features=8, mask_hidden=7)


def model_of(side: int = SIDE, **options: object) -> SPACE:
    torch.manual_seed(0)
    return SPACE((side, side), num_components=options.pop("num_components", 3), sizes=SMALL, **options)


@pytest.mark.parametrize(("side", "grid", "cells"), [(32, None, 16), (64, None, 64), (64, 4, 16), (128, 4, 16)])
@torch.no_grad()
def test_decomposition_is_valid(side: int, grid: int | None, cells: int) -> None:
    found = model_of(side, grid=grid).eval().decompose({"image": images(2, side)}).validate()
    assert found.masks.shape == (2, cells + 1, side, side)
    assert found.rgb.shape == (2, cells + 1, 3, side, side)
    assert 0 <= found.rgb.min() <= found.rgb.max() <= 1 + 1e-5
    torch.testing.assert_close(found.rgb[:, 0], found.extras["background"])
    assert found.extras["presence"].shape == (2, cells)
    torch.testing.assert_close(found.extras["counts"], found.extras["presence"].round().sum(dim=1))
    assert found.extras["boxes"].shape == (2, cells, 4)
    assert found.extras["background_components"].shape == (2, 3, 3, side, side)
    torch.testing.assert_close(found.extras["background_masks"].sum(dim=1), torch.ones(2, side, side))


def test_images_do_not_see_each_other_in_evaluation() -> None:
    model, together = model_of().eval(), images(3)
    whole = model.decompose({"image": together}, noise_of(slice(3), 3))
    for i in range(3):
        alone = model.decompose({"image": together[i : i + 1]}, noise_of(slice(i, i + 1), 3))
        torch.testing.assert_close(alone.recon, whole.recon[i : i + 1], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(alone.extras["nll"], whole.extras["nll"][i : i + 1], rtol=1e-4, atol=1e-2)


def test_picture_is_objects_before_the_background() -> None:
    found = model_of().eval()(images(), noise_of(slice(2), 2))
    alpha, foreground = found.foreground.alpha, found.foreground.picture
    torch.testing.assert_close(found.picture, alpha * foreground + (1 - alpha) * found.background.picture)
    # Cells that a pixel is outside of weigh as much as those that are infinitely far away.
    assert (alpha <= found.foreground.masks.amax(dim=1, keepdim=True) + 1e-6).all()
    torch.testing.assert_close(
        found.background.picture, (found.background.masks[:, :, None] * found.background.components).sum(dim=1)
    )


@pytest.mark.parametrize("num_components", [1, 3])
def test_loss_is_made_of_its_terms(num_components: int) -> None:
    model = model_of(num_components=num_components).train()
    terms = model.loss({"image": images()}, 5)
    parts = [terms[name] for name in ("kl_what", "kl_where", "kl_depth", "kl_pres")]
    torch.testing.assert_close(terms["kl_fg"], torch.stack(parts).sum())
    torch.testing.assert_close(terms["kl"], terms["kl_fg"] + terms["kl_bg"])
    torch.testing.assert_close(terms["elbo"], terms["rec_loss"] - terms["kl"])
    torch.testing.assert_close(terms["loss"], terms["boundary_loss"] - terms["elbo"])
    terms["loss"].backward()
    if num_components > 1:
        assert not parameters_out_of_reach(model)


def test_schedules() -> None:
    schedules = Schedules(boundary_end=10, fixed_alpha_end=10, fixed_alpha=0.5)
    plain, model = model_of().eval(), model_of(schedules=schedules).eval()

    def found(of: SPACE, step: int) -> tuple[float, float]:
        result = of(images(), noise_of(slice(2), 2), step)
        return result.boundary_loss.sum().item(), result.log_likelihood.sum().item()

    assert found(model, 10) == (0, found(plain, 10)[1])
    assert found(model, 0) == found(plain, 0)
    assert found(model, 9)[0] == found(plain, 9)[0]
    assert found(model, 9)[1] != found(plain, 9)[1]
    first, last = (plain(images(), noise_of(slice(2), 2), step).foreground.kl for step in (0, 30_000))
    assert not torch.equal(first["presence"], last["presence"])
    assert not torch.equal(first["scale"], last["scale"])
    assert torch.equal(first["shift"], last["shift"])


@pytest.mark.parametrize(
    ("side", "scales"), [(32, [4, 2, 2, 2]), (64, [4, 2, 4, 2]), (128, [4, 2, 4, 4]), (256, [4, 4, 4, 4])]
)
def test_enlargements_make_the_image(side: int, scales: list[int]) -> None:
    assert scales_to(side, (4, 2, 4, 4)) == scales


def test_recomputing_layers_keep_less_and_give_the_same() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), BatchNorm2d(8), nn.ELU(inplace=True), nn.Conv2d(8, 8, 3), nn.CELU(inplace=True)]
    layers += [nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3)]
    outcomes = []
    for kind in (nn.Sequential, Recomputing):
        model, image, kept = kind(*deepcopy(layers)), images(2, 16).requires_grad_(), {}

        def keep(value: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[value.data_ptr()] = value.nbytes
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            found = model(image)
        gradients = torch.autograd.grad(found.square().sum(), [image, *model.parameters()])
        outcomes.append((sum(kept.values()), [found, *gradients, *model.buffers()]))
    (plain_bytes, plain), (bytes_kept, recomputed) = outcomes
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(recomputed, plain, strict=True))
    assert bytes_kept < 0.7 * plain_bytes


def test_bfloat16_stays_close() -> None:
    assert_close_in_bfloat16(model_of(), atol=2.0)


@pytest.mark.parametrize("num_components", [1, 3])
def test_original_names_there_and_back(num_components: int) -> None:
    state = model_of(num_components=num_components).state_dict()
    last = "bg_module.comp_decoder.dec.34.weight" if num_components == 1 else "bg_module.comp_decoder.decoder.12.weight"
    assert to_original(state)[last].shape[0] == 3
    constants = {"fg_module.tau": torch.zeros(()), "fg_module.img_encoder.offset": torch.zeros(2, 4, 4)}
    assert_names_go_there_and_back("SPACE", state, to_original, from_original, constants)


def test_published_size_has_the_parameters_of_the_original() -> None:
    assert sum(value.numel() for value in SPACE().parameters()) == 5_307_651


def test_images_that_do_not_fit() -> None:
    assert_wants_squares(SPACE, "SPACE")


def test_grids_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"--grid 16: .*; in pictures of 64 give one of 2, 4, 8"):
        SPACE((64, 64), grid=16)
    with pytest.raises(ValueError, match="--bg_components 0"):
        SPACE((64, 64), num_components=0)


def test_flags_reach_the_model() -> None:
    assert SPACE(**Experiment().model_arguments((32, 32))).schedules == Schedules()
    flags = Experiment(grid=2, bg_components=1, scale_start=0.0, scale_end=-0.5, fixed_alpha_steps=30)
    model = SPACE(**plain_value(flags.model_arguments((64, 64))) | {"image_size": (64, 64)})  # as a record keeps them
    assert model.decompose({"image": images(2, 64)}).masks.shape[1] == 1 + 2 * 2
    assert model.background.num_components == 1
    assert model.schedules == Schedules(scale_prior=Ramp(10_000, 20_000, 0.0, -0.5), fixed_alpha_end=30)


def test_each_parameter_has_its_optimizer() -> None:
    model = model_of()
    with pytest.raises(ValueError, match="--tune: SPACE is always trained with two optimisers"):
        Experiment().range_tested()
    optimizer = Experiment().build_optimizer(model)
    foreground, background = optimizer.param_groups
    assert [type(member) for member in optimizer.members] == [torch.optim.RMSprop, torch.optim.Adam]
    assert (foreground["lr"], background["lr"]) == (1e-5, 1e-3)
    assert [id(value) for value in foreground["params"] + background["params"]] == list(map(id, model.parameters()))


def two_numbers(rate: float = 0.1) -> tuple[nn.ParameterList, JointOptimizer]:
    numbers = nn.ParameterList([torch.tensor(1.0), torch.tensor(2.0)])
    members = [torch.optim.SGD([numbers[0]], rate), torch.optim.Adam([numbers[1]], rate)]
    return numbers, JointOptimizer(members)


def step(numbers: nn.ParameterList, optimizer: JointOptimizer) -> None:
    optimizer.zero_grad()
    (numbers[0] * numbers[1]).backward()
    optimizer.step()


def test_joint_step_is_a_step_of_each() -> None:
    numbers, optimizer = two_numbers()
    step(numbers, optimizer)
    assert numbers[0].item() == pytest.approx(1 - 0.1 * 2)
    assert numbers[1].item() == pytest.approx(2 - 0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [value.item() for value in numbers]
    step(numbers, optimizer)
    assert [value.item() for value in numbers] == before


def test_closure_makes_gradients_anew_for_each() -> None:
    numbers, optimizer = two_numbers()
    seen = []

    def closure() -> Tensor:
        seen.append(numbers[0].item())
        optimizer.zero_grad()
        loss = numbers[0] * numbers[1]
        loss.backward()
        return loss.detach()

    assert optimizer.step(closure) == 2
    assert seen == pytest.approx([1.0, 0.8]), "the second sees what the first has changed"


def test_joint_state_is_saved(tmp_path) -> None:
    numbers, optimizer = two_numbers()
    step(numbers, optimizer)
    save(tmp_path / "state.ckpt", {"optimizer": optimizer.state_dict(), "model": numbers.state_dict()})
    state = load(tmp_path / "state.ckpt")
    others, other = two_numbers(rate=7.0)
    others.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    assert [group["lr"] for group in other.param_groups] == [0.1, 0.1]
    assert [member.param_groups[0] for member in other.members] == other.param_groups
    for _ in range(3):
        step(numbers, optimizer)
        step(others, other)
    assert [value.item() for value in others] == [value.item() for value in numbers]
