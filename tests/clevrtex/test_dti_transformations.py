"""The transformations of DTI-Sprites, one by one and in chains, whatever their parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clevrtex.models.dti_transformations import (
    HIDDEN,
    KINDS,
    Morphological,
    Position,
    Projective,
    Regressors,
    Transformations,
    gaussian_mask,
    lattice,
    soft_clamp,
)

SIZE = (9, 12)


def pictures(groups: int = 3, together: int = 2, channels: int = 5, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand(groups, together, channels, *size, generator=torch.Generator().manual_seed(0))


def parameters(groups: int, count: int, scale: float = 0.3) -> Tensor:
    return scale * torch.randn(groups, count, generator=torch.Generator().manual_seed(1))


def by_sampling(given: Tensor, theta: Tensor, size: tuple[int, int], padding: str) -> Tensor:
    """Every picture on its own, by an affine grid."""
    grid = F.affine_grid(theta, [len(given), 1, *size], align_corners=False)
    found = [F.grid_sample(given[:, n], grid, padding_mode=padding, align_corners=False) for n in range(given.shape[1])]
    return torch.stack(found, dim=1)


def test_soft_clamp() -> None:
    values = torch.tensor([-2.0, 0.0, 0.3, 1.0, 3.0], requires_grad=True)
    clamped = soft_clamp(values)
    torch.testing.assert_close(clamped, torch.tensor([-0.02, 0.0, 0.3, 1.0, 1.02]))
    clamped.sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([0.01, 1.005, 1.0, 1.005, 0.01]))


@pytest.mark.parametrize("name", ["identity", "color", "affine", "similarity"])
def test_without_parameters_nothing_changes(name: str) -> None:
    given, kind = pictures(), KINDS[name](SIZE, "zeros")
    torch.testing.assert_close(kind(given, torch.zeros(3, kind.size)), given, rtol=0, atol=1e-4)


def test_position_begins_with_half_the_frame() -> None:
    given = pictures(size=(8, 6))
    found = Position((16, 12), "zeros")(given, torch.zeros(3, 3))
    torch.testing.assert_close(found, F.pad(given, (3, 3, 4, 4)))


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("size", [(14, 10), (5, 30)])
def test_position_samples_like_its_affine_matrix(size: tuple[int, int], padding: str) -> None:
    """Values and both gradients; in float64 no rounding moves a place across a pixel."""
    given, beta = pictures().double().requires_grad_(), parameters(3, 3).double().requires_grad_()
    zero = torch.zeros(3, dtype=torch.float64)
    weights = torch.rand(3, 2, 5, *size, dtype=torch.float64)
    scale, x, y = 1 + beta[:, 0].exp(), beta[:, 1], beta[:, 2]
    theta = torch.stack((scale, zero, x, zero, scale, y), dim=-1).view(3, 2, 3)
    results = []
    for found in (Position(size, padding)(given, beta), by_sampling(given, theta, size, padding)):
        results.append((found, *torch.autograd.grad((weights * found).sum(), (given, beta), retain_graph=True)))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs)


def test_similarity_turns_and_moves() -> None:
    given = pictures(size=(8, 8))
    quarter = torch.tensor([[-1.0, 1.0, 0.0, 0.0]]).expand(3, 4)  # [[0, -1], [1, 0]]
    kind = KINDS["similarity"]((8, 8), "zeros")
    torch.testing.assert_close(kind(given, quarter), given.rot90(1, dims=(-2, -1)), rtol=0, atol=1e-5)
    moved = kind(given, torch.tensor([[0.0, 0.0, 0.25, -0.5]]).expand(3, 4))  # reads one to the right, two above
    torch.testing.assert_close(moved[..., 2:, :-1], given[..., :-2, 1:], rtol=0, atol=1e-5)
    assert not moved[..., :2, :].any()


def test_thin_plate_spline_moves_its_points() -> None:
    """A picture that holds its own coordinates is read where each of the 4x4 points was sent."""
    rows, columns = (((2 * torch.arange(48) + 1) / 48 - 1) for _ in range(2))
    given = torch.stack((columns.expand(48, 48), rows[:, None].expand(48, 48)))[None, None]
    kind = KINDS["tps"]((4, 4), "border")
    beta = parameters(1, 32, 0.1)
    target = (lattice(4, 4) + beta.view(4, 4, 2)).clamp(-47 / 48, 47 / 48)
    torch.testing.assert_close(kind(given, beta)[0, 0].permute(1, 2, 0), target, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["projective", "tps"])
def test_others_magnify_a_little_without_parameters(name: str) -> None:
    """Positions stand on a lattice that reaches the frame, but pixels are areas."""
    given, kind = pictures(), KINDS[name](SIZE, "zeros")
    grid = lattice(*SIZE).expand(3, -1, -1, -1)
    expected = F.grid_sample(given.flatten(1, 2), grid, align_corners=False).view_as(given)
    torch.testing.assert_close(kind(given, torch.zeros(3, kind.size)), expected, rtol=0, atol=1e-4)


def test_projective_survives_points_at_infinity() -> None:
    beta = torch.zeros(3, 9)
    beta[:, 8] = -1.0  # the depth of every point becomes zero
    beta.requires_grad_()
    found = Projective(SIZE, "border")(pictures(), beta)
    found.sum().backward()
    assert found.isfinite().all()
    assert beta.grad.isfinite().all()


def test_colour_changes_colours_alone() -> None:
    given = pictures()
    beta = torch.tensor([[1.0, -0.25, -1.0, 0.5, 0.0, 0.0]]).expand(3, 6)
    found = KINDS["color"](SIZE, "zeros")(given, beta)
    torch.testing.assert_close(found[:, :, 0], soft_clamp(2 * given[:, :, 0] - 0.25))
    torch.testing.assert_close(found[:, :, 1], torch.full_like(given[:, :, 1], 0.5))
    torch.testing.assert_close(found[:, :, 2:], given[:, :, 2:])


def test_morphological_dilates() -> None:
    given = torch.zeros(1, 1, 1, 7, 7)
    given[..., 3, 3] = 1
    beta = torch.full((1, 10), 10.0)  # all nine pixels count, the brightest most
    beta[:, 0] = 30.0
    found = Morphological((7, 7), "zeros")(given, beta)
    expected = torch.zeros(7, 7)
    expected[2:5, 2:5] = 1
    torch.testing.assert_close(found[0, 0, 0], expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(Morphological((7, 7), "zeros")(given, torch.zeros(1, 10)), given, rtol=0, atol=0.06)
    with pytest.raises(ValueError, match="pictures of one channel, found 5"):
        Morphological(SIZE, "zeros")(pictures(), torch.zeros(3, 10))


def test_stacked_regressors_are_as_many_networks() -> None:
    torch.manual_seed(0)
    regressors, features = Regressors((2, 3), 5, 4), torch.randn(6, 5)
    assert regressors(features).shape == (2, 3, 6, 4)
    assert not regressors(features).any(), "at first they say zero"
    nn.init.normal_(regressors.layers[-1].weight)
    found = regressors(features)
    for i in range(2):
        for j in range(3):
            hidden = features
            for number, layer in enumerate(regressors.layers):
                hidden = F.linear(hidden, layer.weight[i, j], layer.bias[i, j])
                hidden = hidden.relu() if number < 2 else hidden
            torch.testing.assert_close(found[i, j], hidden)
    assert regressors.layers[1].weight.shape == (2, 3, HIDDEN, HIDDEN)


def test_chain_grows_at_its_milestones() -> None:
    chain = Transformations("identity_color_position", (2,), 4, (16, 16), milestones=(3, 5))
    assert [chain.num_active(epoch) for epoch in (0, 2, 3, 4, 5, 9)] == [1, 1, 2, 2, 3, 3]
    features, given = torch.randn(1, 4), pictures(2, 1, 4, (8, 8))
    for epoch, size in ((0, (8, 8)), (4, (8, 8)), (7, (16, 16))):
        betas = [beta.flatten(0, 1) for beta in chain.predict(features, epoch)]
        assert [beta.shape[1] for beta in betas] == [0, 6, 3][: len(betas)]
        assert chain(given, betas).shape[-2:] == size
    assert Transformations("color_position", (2,), 4, (16, 16)).num_active(0) == 2
    assert not list(chain.regressors[0].parameters()), "the identity has no parameters"


def test_unknown_names_and_wrong_milestones() -> None:
    with pytest.raises(ValueError, match="'projectiv': did you mean 'projective'"):
        Transformations("identity_projectiv", (1,), 4, (8, 8))
    with pytest.raises(ValueError, match="color_position: expected 1 milestones, one less than names"):
        Transformations("color_position", (1,), 4, (8, 8), milestones=(1, 2))


def test_gaussian_mask() -> None:
    mask = gaussian_mask(5, 9, 2.0)
    assert mask[2, 4] == 1
    torch.testing.assert_close(mask[0, 4], torch.tensor(-0.5).exp())
    torch.testing.assert_close(mask[2, 0], torch.tensor(-2.0).exp())
    torch.testing.assert_close(mask, mask.flip(0, 1))
