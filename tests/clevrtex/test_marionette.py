"""Properties of MarioNette, whatever its weights, and of the files of its own workflow."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clevrtex.experiments.marionette import MarioNette as Experiment
from clevrtex.framework.commandline import UsageError
from clevrtex.marionet.checkpoints import EpochFiles, find
from clevrtex.marionet.pictures import by_similarity, checkerboard, training_pictures
from clevrtex.marionet.training import framed
from clevrtex.models import sprite_layers
from clevrtex.models.image_pyramid import pyramid_loss, smooth
from clevrtex.models.marionette import Inference, MarioNette, indecision, psnr
from clevrtex.models.partial_convolution import DownBlock, Encoder, PartialConv2d, coverage_ratio
from clevrtex.original import read_weights
from clevrtex.original.marionette import arguments_of, from_original, read_background, read_model, to_original
from core.nn.noise import Noise, ShardedNoise
from core.training.checkpoint import CheckpointError

SIDE, GRID, LAYERS, SPRITES = 32, 4, 2, 5
PATCHES = LAYERS * GRID**2


def marionette(**options: object) -> MarioNette:
    torch.manual_seed(0)
    return MarioNette((SIDE, SIDE), GRID, LAYERS, SPRITES, **{"dim_z": 32, "dim_bg": 32, **options})


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def noise_of(rows: slice, count: int) -> Noise:
    """Draws of some of `count` images, the same for each of them in whatever batch it is."""

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(count, *shape[1:], generator=torch.Generator().manual_seed(2))[rows]

    return draw


@pytest.mark.parametrize("stride", [1, 2])
def test_partial_convolution_is_that_of_the_paper(stride: int) -> None:
    """Liu et al. 2018, equation 1, with a mask that is one everywhere."""
    convolution, maps, mask = PartialConv2d(3, 4, 6, stride), torch.randn(2, 3, 6, 6), torch.ones(1, 1, 6, 6)
    options = {"stride": stride, "padding": 1}
    known = F.conv2d(mask, torch.ones(1, 1, 3, 3), **options)
    plain = F.conv2d(maps * mask, convolution.weight, **options) * 9 / known + convolution.bias[:, None, None]
    torch.testing.assert_close(convolution(maps), plain)


def test_coverage() -> None:
    assert coverage_ratio(1, 1).item() == 9
    assert coverage_ratio(4, 2)[0, 0].tolist() == [[2.25, 1.5], [1.5, 1.0]]


def test_encoder_sees_each_picture_alone() -> None:
    encoder = Encoder(3, 16, 4, 16, num_heads=2)
    assert [type(block) for block in encoder.blocks] == [DownBlock, DownBlock]
    pictures = torch.rand(5, 3, 16, 16)
    whole = encoder(pictures)
    assert whole.shape == (5, 2, 4, 4, 16)
    torch.testing.assert_close(whole.var(dim=-1, correction=0), torch.ones(5, 2, 4, 4), rtol=1e-2, atol=0)
    for block in encoder.blocks:
        block.floats_per_picture = 2**20  # one at a time
    torch.testing.assert_close(encoder(pictures), whole, rtol=1e-4, atol=1e-5)


def test_translation_by_whole_pixels() -> None:
    """A quarter of half a patch of 16 pixels is two pixels: right, and down twice as far."""
    patch = torch.rand(1, 4, 16, 16)
    moved = sprite_layers.translate(patch, torch.tensor([[0.25, 0.5]]))[0]
    torch.testing.assert_close(moved[:, 4:, 2:], patch[0, :, :-4, :-2])
    torch.testing.assert_close(moved[:3, :4, 2:], patch[0, :3, :1, :-2].expand(-1, 4, -1))
    assert not moved[3, :3].any()


def test_whole_pixel_shifts() -> None:
    patch, weights = torch.rand(1, 4, 8, 8), torch.zeros(1, 2, 5)
    weights[0, 0, 2] = weights[0, 1, 0] = 1
    moved = sprite_layers.slide(patch, weights)[0]
    torch.testing.assert_close(moved[:, 2:], patch[0, :, :-2])
    assert not moved[:, :2].any()
    weights[0, 1] = torch.tensor([0.5, 0, 0.5, 0, 0])
    both = sprite_layers.slide(patch, weights)[0]
    torch.testing.assert_close(both, (moved + patch[0]) / 2)


def test_patches_lie_around_their_cells() -> None:
    """Patch (i, j) covers the rows from i p - p/2 to i p + 3p/2 and the columns from j p - p/2 to j p + 3p/2."""
    values = 1 + torch.arange(GRID**2, dtype=torch.float32).view(1, 1, GRID, GRID, 1, 1, 1)
    rasters = sprite_layers.interleave(values.expand(-1, -1, -1, -1, 4, 16, 16))
    assert rasters.shape == (1, 1, 4, 4, SIDE, SIDE)
    values = sprite_layers.per_raster(values[..., 0, 0, 0])[0, 0]
    places = sprite_layers.patch_places(GRID, 16)
    for i in range(GRID):
        for j in range(GRID):
            raster = sprite_layers.PARITIES.index((i % 2, j % 2))
            expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
            expected[max(0, 8 * i - 4) : 8 * i + 12, max(0, 8 * j - 4) : 8 * j + 12] = True
            assert torch.equal(rasters[0, 0, raster, 0] == 1 + GRID * i + j, expected)
            place = values[raster].tolist().index(1 + GRID * i + j)
            assert torch.equal(places[raster, place], expected)


def test_order_of_the_rasters() -> None:
    """Ranks of the draws, which equal draws leave alone; layers do not mix."""
    model = marionette()
    order = model.draw_order(2, lambda name, shape: torch.tensor([[0.3, -1, 2, 0], [0, 0, 0, 0]]), torch.device("cpu"))
    assert order.tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    rasters = torch.arange(16.0).view(2, 2, 4)
    found = sprite_layers.from_back_to_front(rasters, order)
    assert found.tolist() == [[1, 3, 0, 2, 5, 7, 4, 6], [8, 9, 10, 11, 12, 13, 14, 15]]


def test_decomposition_is_valid() -> None:
    model = marionette()
    with torch.no_grad():
        found = model.decompose({"image": images()}).validate()
    assert found.masks.shape == (2, 1 + PATCHES, SIDE, SIDE)
    torch.testing.assert_close(found.masks.sum(dim=1), torch.ones(2, SIDE, SIDE))
    torch.testing.assert_close(found.recon, (found.masks[:, :, None] * found.rgb).sum(dim=1))
    torch.testing.assert_close(found.rgb[:, 0], found.extras["background"])
    assert found.extras["presence"].shape == (2, PATCHES)


def test_absent_patches_show_nothing_and_the_background_all() -> None:
    model = marionette()
    with torch.no_grad():
        found = model(images(1))
        found.presence = torch.zeros_like(found.presence)
        found.presence[0, 1, 2, 1] = 1
        found.sprites[:, 3] = 1
        found = model.decomposition(found.hardened(), torch.tensor([[3, 1, 0, 2]]))
    (slot,) = found.extras["presence"][0].nonzero()[0]
    assert slot == 16 + 2, "the second layer's farthest raster, row 1 and column 0 of its patches"
    assert found.extras["counts"].tolist() == [1]
    shown = found.masks[0].amax(dim=(1, 2)).nonzero().flatten()
    assert shown.tolist() == [0, 1 + slot]
    torch.testing.assert_close(found.masks[0, 0], 1 - found.masks[0, 1 + slot])
    torch.testing.assert_close(found.masks[0, 0, :10], torch.ones(10, SIDE))


def test_nearer_patches_hide_others() -> None:
    alpha = torch.tensor([0.5, 1.0, 0.25]).view(1, 3, 1, 1)
    shown, uncovered = sprite_layers.visible(alpha)
    assert shown.flatten().tolist() == [0, 0.75, 0.25]
    assert uncovered.item() == 0


@pytest.mark.parametrize("options", [{}, {"spatial_transformer": False}, {"num_backgrounds": 0}], ids=str)
def test_images_do_not_see_each_other(options: dict) -> None:
    model, together = marionette(**options), images(3)
    with torch.no_grad():
        whole = model.decompose({"image": together}, noise_of(slice(3), 3))
        for i in range(3):
            alone = model.decompose({"image": together[i : i + 1]}, noise_of(slice(i, i + 1), 3))
            torch.testing.assert_close(alone.recon, whole.recon[i : i + 1], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(alone.masks, whole.masks[i : i + 1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"spatial_transformer": False}, {"num_backgrounds": 3}], ids=str)
def test_loss_is_the_sum_of_its_terms_and_reaches_every_parameter(options: dict) -> None:
    model = marionette(beta_weight=0.01, presence_weights=(0.1, 0.3), **options)
    model.noise = ShardedNoise(3)
    terms = model.loss({"image": images()}, 0)
    found = model(images())
    presence = found.presence.mean(dim=(0, 2, 3))
    penalty = (0.1 * presence[0] + 0.3 * presence[1]) / 2
    torch.testing.assert_close(terms["loss"], terms["rec_loss"] + 0.01 * terms["beta_loss"] + penalty)
    torch.testing.assert_close(terms["probs_loss"], presence.mean())
    order = model.draw_order(2, model.noise.at(0, torch.device("cpu")), torch.device("cpu"))
    torch.testing.assert_close(terms["psnr"], psnr((model.reconstruct(found, order) - images()).square().mean()))
    hard = model.reconstruct(found.hardened(), order)
    torch.testing.assert_close(terms["psnr_hard"], psnr((hard - images()).square().mean()))
    terms["loss"].backward()
    missing = [
        name for name, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()
    ]
    assert not missing


def test_hard_choices_are_single_sprites() -> None:
    model = marionette(spatial_transformer=False)
    found: Inference = model(images())
    hard = found.hardened()
    assert torch.equal(hard.weights.sum(dim=-1), torch.ones(2, LAYERS, GRID, GRID))
    assert set(hard.presence.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(hard.shifts.amax(dim=2), torch.ones(2 * PATCHES, 2))
    chosen = found.weights.argmax(dim=-1).flatten()
    assert torch.equal(hard.patches[7], found.sprites[chosen[7]])
    assert indecision(hard.weights) < 1e-4 < indecision(found.weights)


def test_straight_through_presence() -> None:
    """Zero has no gradient from the penalty, as the original's L1 norm has it; one has the identity's."""
    model = marionette(straight_through_presence=True)
    found = model(images())
    assert set(found.presence.unique().tolist()) == {0.0, 1.0}
    (gradient,) = torch.autograd.grad((model.presence_weights * found.presence).abs().sum(), found.presence)
    torch.testing.assert_close(gradient, 5e-3 * found.presence.detach())
    (through,) = torch.autograd.grad(found.presence.sum(), model.to_presence[3].bias)
    assert through.abs().sum() > 0


def test_constant_background() -> None:
    model = marionette(num_backgrounds=0, background_colour=(0.2, 1.5, -1.0))
    assert not [name for name, _ in model.named_parameters() if name.startswith("background")]
    with torch.no_grad():
        found = model.decompose({"image": images()})
    torch.testing.assert_close(found.rgb[0, 0, :, 3, 5], torch.tensor([0.2, 1.0, 0.0]))


def test_bfloat16_stays_close() -> None:
    model = marionette()
    model.noise = ShardedNoise(seed=1)
    full = model.loss({"image": images()}, 0)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss({"image": images()}, 0)
    for name, value in half.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, full[name], rtol=0.05, atol=0.05)
    half["loss"].backward()
    assert all(value.grad.dtype == torch.float32 and value.grad.isfinite().all() for value in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim_bg": 4}, "--dim_bg 4: expected a multiple of 8 that is at least 16"),
        ({"dim_bg": 8}, "one value alone is normalised to a constant, which ignores the picture"),
        ({"dim_z": 20}, "--dim_z 20"),
        ({"layer_size": 3}, "layer_size=3: expected an even number"),
        ({"image_size": (32, 48)}, "found pictures of 32x48"),
        ({"image_size": (48, 48), "layer_size": 6}, "--background 0"),
        ({"presence_weights": (1.0, 2.0, 3.0)}, "w_probs: expected 1 weight or 2, one per layer"),
        ({"num_classes": 0}, "--num_classes 0: expected at least 1"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MarioNette(**{"image_size": (SIDE, SIDE), "layer_size": GRID, "dim_z": 16, **options})


def test_published_size_has_the_parameters_of_the_original() -> None:
    """But for the backgrounds, whose codes are longer by default: the original's 8 ignore the picture."""
    of_backgrounds = 8696
    model = MarioNette()
    counts = [value.numel() for name, value in model.named_parameters() if not name.startswith("background")]
    assert sum(counts) + of_backgrounds == 7_231_355


def test_colours_have_three_parts() -> None:
    with pytest.raises(UsageError, match=r"--background_color \[0.5\]: expected red, green and blue"):
        Experiment(background_color=[0.5])


def test_optimiser_has_a_rate_for_backgrounds() -> None:
    experiment = Experiment(learning_rate=0.5, learning_rate_bg=0.25)
    groups = experiment.build_optimizer(marionette()).param_groups
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups][1] == (0.25, 0.01, 7)
    assert groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match="--optim 'adam': MarioNette is trained with adamw"):
        Experiment(optim="adam").build_optimizer(marionette())
    with pytest.raises(ValueError, match="--tune: looks for one learning rate of --optim, and MarioNette has two"):
        Experiment().range_tested()


@pytest.mark.parametrize("options", [{}, {"spatial_transformer": False}, {"num_backgrounds": 0}], ids=str)
def test_original_files_there_and_back(tmp_path: Path, options: dict) -> None:
    model = marionette(**options)
    theirs = to_original(model.state_dict())
    assert {"model.im_encoder.heads.1.weight", "model.probs.3.bias", "model.project.0.weight"} <= theirs.keys()
    assert from_original(theirs).keys() == model.state_dict().keys()
    for part in ("model", "background"):
        weights = {key.removeprefix(f"{part}."): value for key, value in theirs.items() if key.startswith(f"{part}.")}
        extra = {"meta": None, "extras": {"epoch": 4}, "optimizers": [{"state": {}}], "schedulers": []}
        torch.save({"model": weights, **extra}, tmp_path / f"{part}.pth")
    found = read_model(tmp_path / "model.pth") | read_background(tmp_path / "background.pth")
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    rebuilt = MarioNette(**arguments_of(found, SIDE))
    assert {name: value.shape for name, value in rebuilt.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    torch.save({"model": {"slots": torch.zeros(1)}}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="'slots' is no parameter of MarioNette"):
        read_model(tmp_path / "model.pth")


@pytest.mark.parametrize("options", [{}, {"num_backgrounds": 0}], ids=str)
def test_weights_from_original_files(tmp_path: Path, options: dict) -> None:
    """Which stand beside each other as the original writes them."""
    wanted = marionette(**options).state_dict()
    theirs = to_original(wanted)
    for folder, prefix in (("model", "model."), ("bg", "background.")):
        weights = {key.removeprefix(prefix): value for key, value in theirs.items() if key.startswith(prefix)}
        (tmp_path / folder).mkdir()
        torch.save({"model": weights, "meta": None}, tmp_path / folder / "epoch_0.pth")
    found = read_weights(tmp_path / "model/epoch_0.pth", "marionette")
    assert found.keys() == wanted.keys()
    assert all(value.equal(wanted[name]) for name, value in found.items())
    if not options:
        (tmp_path / "bg/epoch_0.pth").unlink()
        with pytest.raises(CheckpointError, match=r"bg/epoch_0.pth is not there. Put it there, or name it"):
            read_weights(tmp_path / "model/epoch_0.pth", "marionette")


def test_only_the_newest_epoch_is_kept(tmp_path: Path) -> None:
    files = EpochFiles(tmp_path, steps_per_epoch=2, last_step=5)
    model = {"background.latent": torch.ones(1), "encoder.x": torch.zeros(1)}
    for step in (1, 2, 3, 5):
        files.save(step, {"model": model, "step": step})
        assert files.newest()[1]["step"] == step
        assert [path.name for path in (tmp_path / "bg").glob("epoch*")] == [f"epoch_{step // 2}.pth"]
    for part in ("model", "bg"):
        assert {path.name for path in (tmp_path / part).iterdir()} == {"epoch_2.pth", "training_end.pth"}
        state = torch.load(tmp_path / part / "training_end.pth", weights_only=True)
        assert (state["extras"], state["step"]) == ({"epoch": 3}, 5)
    assert list(state["model"]) == ["latent"]
    assert find(tmp_path) == tmp_path / "model/training_end.pth"
    files.path(2).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="epoch_2"), pytest.raises(CheckpointError, match="cannot be read"):
        files.newest()


def test_canvas_and_data_agree() -> None:
    assert framed("data", "clevrtex:full-crop", 48) == "clevrtex:full-crop-(48,48)"
    assert framed("data", "clevr-(48,48)", 48) == "clevr-(48,48)"
    with pytest.raises(ValueError, match=r"--data 'clevr-\(48,48\)': expected pictures of --canvas_size 32"):
        framed("data", "clevr-(48,48)", 32)


def test_pictures() -> None:
    model = marionette()
    found = training_pictures(model, images(2), noise_of(slice(2), 2))
    shapes = {name: tuple(picture.shape) for name, picture in found.items()}
    wide, high = 5 * (SIDE + 2) + 2, 2 * (SIDE + 2) + 2
    assert shapes == {
        "out_output_diff": (3, high, wide),
        "out_hard_output_diff": (3, high, wide),
        "dictionary": (3, 16 + 4, SPRITES * 18 + 2),
        "background": (3, SIDE, SIDE),
    }
    inputs = found["out_output_diff"][:, 2 : 2 + SIDE, 2 : 2 + SIDE]
    torch.testing.assert_close(inputs, (images()[0] * 255).byte())
    board = checkerboard(16, 24)
    assert board[0, [0, 0, 8], [0, 8, 16]].tolist() == pytest.approx([0.8, 1.0, 1.0])


def test_similar_sprites_stand_together() -> None:
    centres = torch.arange(60) % 3
    codes = 25 * F.one_hot(centres, 8) + torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    order = by_similarity(codes)
    assert sorted(order.tolist()) == list(range(60))
    assert (centres[order].diff() != 0).sum() == 2
    assert by_similarity(codes[:3]).tolist() == [0, 1, 2]


def test_pyramid() -> None:
    pictures = torch.rand(1, 2, 12, 20)
    torch.testing.assert_close(smooth(torch.ones(1, 2, 5, 7)), torch.ones(1, 2, 5, 7))
    torch.testing.assert_close(pyramid_loss(pictures + 0.5, pictures, power=2), torch.tensor(2 * 0.25))
    assert pyramid_loss(pictures, pictures) == 0
