"""Properties of SPAIR, whatever its weights."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from clevrtex.experiments.spair import SPAIR as Experiment
from clevrtex.framework.commandline import UsageError
from clevrtex.framework.optim import build_optimizer
from clevrtex.framework.options import fill
from clevrtex.models.spair import SPAIR
from clevrtex.models.spair_cells import waves
from clevrtex.models.spair_rendering import render
from clevrtex.original.spair import from_original, to_original
from core.nn.noise import Noise, ShardedNoise

SIZE = (48, 60)
SMALL = {"patch_size": (8, 8), "anchor": 24, "what_size": 5, "passed": 6, "large": False}


def spair(image_size: tuple[int, int] = SIZE, **options: object) -> SPAIR:
    torch.manual_seed(0)
    model = SPAIR(image_size, **(SMALL | options))
    for value in model.parameters():  # enough for objects that differ
        value.data *= 2 if value.ndim > 1 else 1
    model.cells.edge.data.normal_()
    return model


def images(count: int = 2, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))


def noise_of(rows: slice, count: int) -> Noise:
    """Draws of some of `count` images, the same for each of them in whatever batch it is."""

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        return torch.randn(count, *shape[1:], generator=generator)[rows]

    return draw


@pytest.mark.parametrize(
    "options",
    [{}, {"background_size": 0}, {"background_size": 3, "simple": True}, {"reach": 2}, {"factored": True}],
)
@pytest.mark.parametrize("large", [False, True])
def test_decomposition_is_valid(options: dict, large: bool) -> None:
    size = (64, 96) if large else SIZE
    model = spair(size, large=large, **options).eval()
    rows, columns = model.cells.grid_size
    assert (rows, columns) == ((2, 3) if large else (4, 5))
    with torch.no_grad():
        found = model.decompose({"image": images(2, size)}).validate()
    extras, cells = found.extras, rows * columns
    assert found.masks.shape == (2, 1 + cells, *size)
    assert found.rgb.shape == (2, 1 + cells, 3, *size)
    assert set(extras["presence"].unique().tolist()) <= {0, 1}
    assert extras["counts"].equal(extras["presence"].sum(dim=1))
    boxes = extras["boxes"]
    assert boxes.shape == (2, cells, 4)
    assert (boxes[..., :2] <= boxes[..., 2:]).all()
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([*size[::-1]] * 2)).all()
    assert extras["glimpses"].shape == (2, cells, 3, 8, 8)
    assert extras["heatmap"].shape == (2, rows, columns)
    if options.get("background_size") == 0:
        assert not extras["background"].any()


def test_absent_objects_show_the_background_and_have_no_mask() -> None:
    model = spair().eval()
    model.cells.presence.layers[-1].bias.data.fill_(-30)
    found = model.decompose({"image": images()})
    assert not found.extras["presence"].any()
    torch.testing.assert_close(found.recon, found.extras["background"])
    assert found.masks[:, 0].eq(1).all()


def test_images_do_not_see_each_other() -> None:
    model, together = spair(), images(3)
    whole = model.decompose({"image": together}, noise_of(slice(3), 3))
    for i in range(3):
        alone = model.decompose({"image": together[i : i + 1]}, noise_of(slice(i, i + 1), 3))
        torch.testing.assert_close(alone.recon, whole.recon[i : i + 1], rtol=1e-4, atol=1e-4)
        for name in ("nll", "kl"):
            torch.testing.assert_close(alone.extras[name], whole.extras[name][i : i + 1], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("reach", [1, 2, 3])
@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (5, 2), (10, 10)])
def test_waves_hold_every_cell_after_those_it_depends_on(grid: tuple[int, int], reach: int) -> None:
    rows, columns = grid
    plan = waves(rows, columns, reach)
    assert sorted(plan.order) == list(range(rows * columns))
    assert len(plan.sizes) <= columns + (reach + 1) * (rows - 1)
    ends = torch.tensor(plan.sizes).cumsum(0)
    wave_of = {cell: int((ends <= place).sum()) for place, cell in enumerate(plan.order)}
    for cell, places in plan.neighbours.items():
        assert len(places) == (2 * reach + 1) ** 2 // 2
        inside = [place for place in places if place is not None]
        assert inside == sorted(inside)
        for place in inside:
            assert place < cell
            assert wave_of[place] < wave_of[cell]
            down, right = cell // columns - place // columns, abs(cell % columns - place % columns)
            assert max(down, right) <= reach


@pytest.mark.parametrize("options", [{}, {"reach": 2}, {"simple": True}])
def test_cells_are_inferred_as_if_one_after_the_other(options: dict) -> None:
    """Row by row, each with the messages of those before it in its window, in the order of the window."""
    model, image, noise, reach = spair(**options), images(), noise_of(slice(2), 2), options.get("reach", 1)
    encoder, (rows, columns) = model.cells, model.cells.grid_size
    features = model.backbone(image).flatten(2).transpose(1, 2)
    together = encoder(image, features, noise, "relaxedbernoulli", model.z_pres_temperature)
    draws = {name: noise(name, (2, rows * columns, size)) for name, size in encoder.draws.items()}
    messages: dict[tuple[int, int], Tensor] = {}
    window = range(-reach, reach + 1)
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        before = [(row + down, column + right) for down in window for right in window if (down, right) < (0, 0)]
        told = [messages.get(place, encoder.edge.expand(2, -1)) for place in [*before, None]]
        found = encoder._infer(
            image,
            features[:, index : index + 1],
            torch.cat(told, dim=-1)[:, None],
            encoder.window_offset[encoder.row_by_row[index]][None],
            [draw[:, index : index + 1] for draw in draws.values()],
            "relaxedbernoulli",
            model.z_pres_temperature,
        )
        for name, value in vars(found).items():
            torch.testing.assert_close(getattr(together, name)[:, index : index + 1], value, rtol=1e-4, atol=1e-5)
        messages[row, column] = torch.cat((found.presence, found.where, found.depth, found.what), dim=-1)[:, 0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reinforce": True},
        {"simple": True, "presence_kl": "ind"},
        {"factored": True, "presence_kl": "match", "background_size": 0},
    ],
)
def test_loss_is_made_of_its_terms_and_reaches_every_parameter(options: dict) -> None:
    model = spair(**options)
    model.z_pres_prior_p.fill_(0.5)
    terms = model.loss({"image": images()}, 0)
    kl = sum(terms[f"kl_{name}"] for name in ("where", "what", "depth", "pres", "bg"))
    torch.testing.assert_close(terms["kl"], kl)
    torch.testing.assert_close(terms["elbo"], terms["rec_loss"] - kl)
    more = terms["base_loss"] if options.get("reinforce") else 0
    torch.testing.assert_close(terms["loss"], more - terms["elbo"])
    terms["loss"].backward()
    for name, value in model.named_parameters():
        learns = value.requires_grad and value.grad is not None and bool(value.grad.abs().sum() > 0)
        assert learns == (not name.startswith("baseline") or "reinforce" in options), name


def test_presences_without_a_gradient_learn_by_their_score() -> None:
    model = spair(reinforce=True)
    model.pres_dist_name = "bernoulli"
    terms = model.loss({"image": images()}, 0)
    torch.testing.assert_close(terms["loss"], terms["base_loss"] + terms["rein_loss"] - terms["elbo"])
    (gradient,) = torch.autograd.grad(terms["rein_loss"], model.cells.presence.layers[-1].bias)
    assert gradient.abs() > 0


def test_mask_counts_divergences_in_proportion_to_presence() -> None:
    model = spair()
    found = model(images(), noise_of(slice(2), 2))
    model.mask = 1
    masked = model(images(), noise_of(slice(2), 2)).kl
    for name in ("kl_where", "kl_what", "kl_depth"):
        torch.testing.assert_close(masked[name], found.kl[name] * found.cells.presence[..., 0])
    torch.testing.assert_close(masked["kl_pres"], found.kl["kl_pres"])


def test_weights_of_the_divergences() -> None:
    model = spair()
    before = model(images(), noise_of(slice(2), 2)).kl
    model.beta_what, model.beta_pres = 2 * 2.7, 0.0
    after = model(images(), noise_of(slice(2), 2)).kl
    torch.testing.assert_close(after["kl_what"], 2 * before["kl_what"])
    torch.testing.assert_close(after["kl_where"], before["kl_where"])
    assert not after["kl_pres"].any()


def test_mistakes_of_the_original() -> None:
    """Depths of the simple variant with a mask, the mean over cells, the share that counts twice, no mixture."""
    model = spair(simple=True, factored=True)
    model.mask = 1
    found, terms = model(images(), noise_of(slice(2), 2)), model.loss({"image": images()}, 0)
    model.as_original = True
    theirs, their_terms = model(images(), noise_of(slice(2), 2)), model.loss({"image": images()}, 0)
    torch.testing.assert_close(theirs.kl["kl_depth"], theirs.kl["kl_where"])
    assert found.kl["kl_depth"].sum() != found.kl["kl_where"].sum()
    assert their_terms["kl"] < terms["kl"] / 10
    ours = found.rendering
    expected = ours.foreground + (1 - ours.share) * ours.background
    torch.testing.assert_close(ours.canvas, expected)
    assert theirs.rendering.canvas.sum() < ours.canvas.sum()
    assert found.log_likelihood.ne(theirs.log_likelihood).all()


def test_nearer_objects_hide_others() -> None:
    """Two opaque objects at one place, one red and one green."""
    patches = torch.zeros(1, 2, 4, 4, 4)
    patches[:, 0, 0] = patches[:, 1, 1] = patches[:, :, 3] = 1
    window, background = torch.tensor([[[1.0, 1.0, 0.0, 0.0]] * 2]), torch.zeros(1, 3, 4, 4)
    found = render(patches, window, torch.tensor([[[0.1], [0.4]]]), background)
    torch.testing.assert_close(found.canvas[0, :, 1, 1], torch.tensor([0.8, 0.2, 0.0]))
    factored = render(patches, window, torch.tensor([[[0.1], [0.4]]]), background, factored=True)
    torch.testing.assert_close(factored.canvas[0, :, 1, 1], torch.tensor([0.0, 1.0, 0.0]))


def test_many_cells_are_rendered_as_few() -> None:
    """More than stay in the cache at once."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(1, 12, 4, 4, 4, generator=generator)
    window = torch.cat((torch.full((1, 12, 2), 0.3), torch.rand(1, 12, 2, generator=generator) - 0.5), dim=2)
    depth, background = torch.rand(1, 12, 1, generator=generator), torch.rand(1, 3, 300, 300, generator=generator)
    found = render(patches, window, depth, background)
    assert len(found.pieces) > 1
    masks, colours = found.masks()[:, :, None], found.colours()
    weights = (masks / depth[..., None, None]).clamp(min=0.01)
    pictures = colours * masks + background[:, None] * (1 - masks)
    expected = (weights * pictures).sum(dim=1) / weights.sum(dim=1)
    torch.testing.assert_close(found.canvas, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_is_near() -> None:
    model, batch = spair(), {"image": images()}
    model.noise = ShardedNoise(0)
    whole = model.loss(batch, 0)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss(batch, 0)
    assert half["loss"].dtype == torch.float32
    torch.testing.assert_close(half["loss"], whole["loss"], rtol=0.05, atol=50)


def test_draws_are_a_function_of_seed_and_step() -> None:
    model, batch = spair(), {"image": images()}
    model.noise = ShardedNoise(3)
    first, again, later = (model.loss(batch, step)["loss"] for step in (5, 5, 6))
    assert first.equal(again)
    assert not first.equal(later)


def test_name_of_a_distribution_that_there_is_not() -> None:
    model = spair()
    model.pres_dist_name = "bernouli"
    with pytest.raises(ValueError, match="--step 'bernouli'"):
        model(images())


def test_pictures_smaller_than_a_cell() -> None:
    with pytest.raises(ValueError, match="pictures of 2x2 are too small"):
        SPAIR((2, 2), large=False)


@pytest.mark.parametrize("options", [{}, {"large": True}, {"simple": True}, {"background_size": 0}])
def test_original_names_and_back(options: dict) -> None:
    state = spair((64, 64), **options).state_dict()
    theirs = to_original(state)
    assert {"empty_element", "obj_enc.layers.0.weight", "_obj_dec.8.bias", "_z_pres_prior_p"} <= theirs.keys()
    assert theirs["_z_pres_temperature"].shape == (1, 1)
    constants = {"max_zw": torch.ones(4), "_z_bg_prior_loc": torch.zeros(1, 1)}
    back = from_original({f"model.{key}": value for key, value in (theirs | constants).items()})
    assert back.keys() == state.keys()
    assert all(back[name].equal(value) for name, value in state.items())
    with pytest.raises(ValueError, match="no parameter of SPAIR"):
        from_original({"decoder.weight": torch.zeros(1)})


def test_published_commands() -> None:
    clevrtex = fill(Experiment, {"bg_dim": 4, "std": "itr_lin(50000,0.5,0.15)", "prior": "itr_lin(50000,1e-4,.99)"})
    model = SPAIR(**clevrtex.model_arguments((128, 128)))
    assert model.output_hparam == 0.5
    assert all(hasattr(model, name) for name in clevrtex.schedules())
    assert clevrtex.schedules()["pres_dist_name"] == "set(relaxedbernoulli-bern_kl)"
    published = SPAIR(**fill(Experiment, {}).model_arguments((128, 128)))
    assert sum(value.numel() for value in published.parameters()) == 1_309_089
    small = SPAIR(**fill(Experiment, {"large": False}).model_arguments((128, 128)))
    assert sum(value.numel() for value in small.parameters()) == 1_466_329
    assert small.cells.grid_size == (10, 10)


def test_variants_have_folders_of_their_own() -> None:
    names = {arch: fill(Experiment, {"arch": arch}).name for arch in ("original", "simple", "broadcast")}
    assert names == {"original": "spair", "simple": "spair-s", "broadcast": "spair-b"}
    with pytest.raises(UsageError, match="--arch 'complex': expected original, simple, broadcast"):
        fill(Experiment, {"arch": "complex"})
    with pytest.raises(UsageError, match="--pres_kl"):
        fill(Experiment, {"pres_kl": "none"})


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("std", "set(a)", "expected a schedule of numbers"),
        ("std", "to(0:1:2)", "expected a number above 0 to begin with, found None"),
        ("std", "lin(5,0,1)", "expected a number above 0 to begin with, found 0"),
        ("temp", "switch(5:1:set(b))", "expected a schedule of numbers"),
        ("prior", "lin(5)", "expected lin"),
    ],
)
def test_schedules_that_are_not_of_numbers(flag: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"--{flag}.*{message}"):
        fill(Experiment, {flag: text})
    assert fill(Experiment, {"mask": True}).schedules()["mask"] == "1"
    assert "mask" not in fill(Experiment, {}).schedules()


@pytest.mark.parametrize(("threshold", "falls"), [(1.0, True), (1e-4, False)])
def test_plateau_lowers_each_group_to_the_same_rate(threshold: float, falls: bool) -> None:
    """With the original's threshold even a metric that falls steadily lowers the rates; ours goes on."""
    hparams = fill(Experiment, {"plateau_threshold": threshold, "lr": "plateau"})
    schedule, optimizer = hparams.rate_schedule(10), build_optimizer(spair(), hparams.optim, hparams.learning_rate)
    bases = [group["lr"] for group in optimizer.param_groups]
    assert bases == pytest.approx([1e-4, 1e-3])
    rates = []
    for epoch in range(12):
        schedule.update(1000.0 / (epoch + 1))
        rates.append([base * factor for base, factor in zip(bases, schedule(0))])
    if not falls:
        assert rates == [pytest.approx(bases)] * 12
        return
    assert rates[2] == pytest.approx(bases)
    assert rates[3] == pytest.approx([5e-5, 1e-4])
    assert rates[-1] == pytest.approx([5e-5, 5e-5])
    assert all(after <= before for before, after in pairwise(rates))
