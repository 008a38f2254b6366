"""Properties of GNM, whatever its weights."""

import pytest
import torch
from torch import Tensor, nn

from clevrtex.models import gnm
from clevrtex.models.annealing import Ramp
from clevrtex.models.cells import Objects
from clevrtex.models.gnm import GNM, in_curriculum
from clevrtex.models.gnm_objects import windows
from clevrtex.models.repeated_linear import to_repeat
from clevrtex.original.gnm import from_original, to_original
from tests.clevrtex_sprite_models import (
    assert_close_in_bfloat16,
    assert_names_go_there_and_back,
    assert_wants_squares,
    images,
    noise_of,
    parameters_out_of_reach,
)

SIDE, CELLS, WHAT = 32, 16, 5
DIVERGENCES = {"pres", "where", "what", "depth", "bg", "aux_pres", "aux_where", "aux_what", "aux_depth", "aux_bg"}
DIVERGENCES = {f"kl_{name}" for name in DIVERGENCES | {"global"}}


def model_of(side: int = SIDE, **options: object) -> GNM:
    torch.manual_seed(0)
    return GNM((side, side), what_size=WHAT, background_size=3, global_size=4, **options)


@pytest.mark.parametrize("side", [32, 64])
def test_decomposition_is_valid(side: int) -> None:
    with torch.no_grad():
        found = model_of(side).eval().decompose({"image": images(2, side)}).validate()
    assert found.masks.shape == (2, CELLS + 1, side, side)
    assert found.rgb.shape == (2, CELLS + 1, 3, side, side)
    torch.testing.assert_close(found.rgb[:, 0], found.extras["background"])
    assert found.extras["presence"].shape == found.extras["depth"].shape == (2, CELLS)
    torch.testing.assert_close(found.extras["counts"], found.extras["presence"].round().sum(dim=1))
    left, top, right, bottom = found.extras["boxes"].unbind(dim=-1)
    assert (left <= right).all()
    assert (top <= bottom).all()
    assert found.extras["boxes"].max() <= side
    assert found.extras["what"].shape == (2, CELLS, WHAT)
    assert found.extras["canvas_with_bbox"].min() >= 0


def test_images_do_not_see_each_other() -> None:
    model, together = model_of(), images(3)
    whole = model.decompose({"image": together}, noise_of(slice(3), 3))
    for i in range(3):
        alone = model.decompose({"image": together[i : i + 1]}, noise_of(slice(i, i + 1), 3))
        torch.testing.assert_close(alone.recon, whole.recon[i : i + 1], rtol=1e-3, atol=1e-4)
        for name in ("nll", "kl", "depth"):
            torch.testing.assert_close(alone.extras[name], whole.extras[name][i : i + 1], rtol=1e-4, atol=1e-3)


def test_windows_lie_around_their_cells() -> None:
    found = windows(torch.zeros(1, CELLS, 4))[0]
    torch.testing.assert_close(found[:, :2], torch.full((CELLS, 2), 0.5))
    centres = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    torch.testing.assert_close(found[:4, 2:], torch.stack((centres, centres[:1].expand(4)), dim=1))
    torch.testing.assert_close(found[::4, 3], centres)
    where = torch.randn(1, CELLS, 4, generator=torch.Generator().manual_seed(0))
    found = windows(where)[0]
    torch.testing.assert_close(found[:, 0] * found[:, 1], where[0, :, 0].sigmoid().square())
    torch.testing.assert_close(found[:, 1] / found[:, 0], where[0, :, 1].exp())
    assert (found[:, 2:] - windows(torch.zeros(1, CELLS, 4))[0, :, 2:]).abs().max() <= 0.5, "a cell's width"


def objects_at(presence: Tensor, depth: Tensor) -> Objects:
    """As many as there are presences, all in the middle and half as large as the image."""
    count = len(presence)
    where = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(1, count, 4)
    what = 3 * torch.randn(1, count, WHAT, generator=torch.Generator().manual_seed(2))
    return Objects(presence[None], where, depth[None, :, None], what)


def test_absent_objects_leave_no_trace() -> None:
    background = images(1)
    found = model_of().renderer(objects_at(torch.zeros(3), torch.zeros(3)), background)
    torch.testing.assert_close(found.picture, background)
    assert found.alpha.max() < 1e-6


def test_nearer_objects_count_more() -> None:
    renderer, background = model_of().renderer, images(1)
    for near, far in ((0, 1), (1, 0)):
        depth = torch.zeros(2)
        depth[near], depth[far] = -20.0, 20.0
        both = renderer(objects_at(torch.ones(2), depth), background).foreground
        presence = torch.zeros(2)
        presence[near] = 1
        alone = renderer(objects_at(presence, depth), background).foreground
        torch.testing.assert_close(both, alone, rtol=1e-3, atol=1e-4)


def test_fixed_alpha_shares_every_pixel() -> None:
    background = images(1)
    found = model_of().renderer(objects_at(torch.zeros(2), torch.zeros(2)), background, 0.9)
    torch.testing.assert_close(found.picture, 0.1 * background)


@pytest.mark.parametrize("step", [0, 250, 5000])
def test_loss_is_made_of_its_terms_and_reaches_every_parameter(step: int) -> None:
    model = model_of().train()
    terms = model.loss({"image": images()}, step)
    divergences = {name: value for name, value in terms.items() if name.startswith("kl_")}
    assert divergences.keys() == DIVERGENCES
    torch.testing.assert_close(terms["kl"], torch.stack(list(divergences.values())).sum())
    torch.testing.assert_close(terms["elbo"], terms["rec_loss"] - terms["kl"])
    torch.testing.assert_close(terms["loss"], -terms["elbo"])
    assert (terms["kl_global"] == 0) == (step == 0)
    terms["loss"].backward()
    assert not parameters_out_of_reach(model)


def test_training_decodes_the_objects_once() -> None:
    model, calls = model_of().train(), []
    model.renderer.decoder.register_forward_hook(lambda *_: calls.append("objects"))
    model.background_decoder.register_forward_hook(lambda *_: calls.append("background"))
    model.loss({"image": images()}, 3)
    assert sorted(calls) == ["background", "objects"]


def test_schedules() -> None:
    ramp = Ramp(10, 20, 1.0, 3.0)
    assert [ramp(step) for step in (0, 10, 15, 20, 99)] == [1, 1, 2, 3, 3]
    assert [in_curriculum(step) for step in (0, 1, 499, 500)] == [False, True, True, False]
    assert (gnm.TEMPERATURE(0), gnm.TEMPERATURE(10**6)) == (1.0, 0.5)


@pytest.mark.parametrize(("as_original", "temperature"), [(False, 0.5), (True, 1.0)])
def test_evaluation_is_as_at_the_step_of_training(as_original: bool, temperature: float) -> None:
    trained = model_of().train()
    trained.loss({"image": images()}, 30_000)
    model = model_of(as_original=as_original).eval()
    model.load_state_dict(trained.state_dict())
    model.loss({"image": images()}, 7)
    assert model.step == 30_000, "evaluation does not move it"
    with torch.no_grad():
        presence = model.decompose({"image": images()}, noise_of(slice(2), 2)).extras["presence"]
        posterior = model(images(), noise_of(slice(2), 2)).posterior
        expected = posterior.sample(noise_of(slice(2), 2), temperature).presence
    torch.testing.assert_close(presence, expected)


def test_samples_of_the_prior() -> None:
    model = model_of().eval()
    found = model.sample(3, noise_of(slice(3), 3)).validate()
    assert found.recon.shape == (3, 3, SIDE, SIDE)
    most_likely = model.sample(3, noise_of(slice(3), 3), mode=True).validate()
    assert set(most_likely.extras["presence"].unique().tolist()) <= {0.0, 1.0}
    assert not torch.equal(found.extras["what"], most_likely.extras["what"])


def test_reconstruction_from_the_prior_depends_on_the_image() -> None:
    model = model_of().eval()
    first, second = (
        model.reconstruct_from_prior(image[None].expand(2, -1, -1, -1), noise_of(slice(2), 2), mode=True).validate()
        for image in (images()[0], 1 - images()[0])
    )
    assert not torch.equal(first.extras["what"], second.extras["what"])


def test_bfloat16_stays_close() -> None:
    assert_close_in_bfloat16(model_of(), atol=1.0)


def test_gradients_of_repeated_layers_are_those_of_plain_ones() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 6), nn.CELU(inplace=True), nn.LayerNorm(6), nn.Linear(6, 4))
    start = torch.randn(3, 4, requires_grad=True)

    def gradients(apply: nn.Module | object) -> list[Tensor]:
        values = start
        for _ in range(3):
            values = values + apply(values)
        return torch.autograd.grad(values.square().sum(), [start, *layers.parameters()])

    for ours, theirs in zip(gradients(to_repeat(layers)), gradients(layers), strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        torch.testing.assert_close(to_repeat(layers)(start), layers(start))


def test_original_names_there_and_back() -> None:
    state = model_of().state_dict()
    assert to_original(state)["global_struct_draw.rnn_enc.h_0"].shape == (1, 128, 4, 4)
    constants = {"background": torch.zeros(1), "aux_p_pres_probs": torch.zeros(()), "aux_p_bg_mean": torch.zeros(1)}
    assert_names_go_there_and_back("GNM", state, to_original, from_original, constants)


def test_published_size_has_the_parameters_of_the_original() -> None:
    assert sum(value.numel() for value in GNM().parameters()) == 8_636_446


def test_images_that_do_not_fit() -> None:
    assert_wants_squares(GNM, "GNM")
