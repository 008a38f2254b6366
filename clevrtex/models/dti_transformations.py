"""Transformations of sprites, with parameters predicted from an image (Monnier et al. 2020, 2021).

Shapes: G groups of N pictures that share their parameters; D parameters; C channels, colours first; h, w before and
H, W after. Coordinates are in [-1, 1], x to the right and y down. All parameters zero give the transformation that a
module begins with.
"""

import difflib
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Padding = Literal["zeros", "border"]
HIDDEN = 128
COLOURS = 3
TPS_POINTS = 4
"""Control points of a thin-plate spline, along each side."""


def soft_clamp(values: Float[Tensor, "*shape"], slope: float = 0.01) -> Float[Tensor, "*shape"]:
    """Values within [0, 1] as they are, others continued with `slope`."""
    zero = values.new_zeros(())
    return values.clamp(0, 1) + slope * (torch.minimum(values, zero) + torch.maximum(values - 1, zero))


def sample(
    pictures: Float[Tensor, "G N C h w"], grid: Float[Tensor, "G H W 2"], padding: Padding
) -> Float[Tensor, "G N C H W"]:
    """Pictures read at the positions (x, y) of `grid`, bilinearly; pixels are areas."""
    found = F.grid_sample(pictures.flatten(1, 2), grid, padding_mode=padding, align_corners=False)
    return found.unflatten(1, pictures.shape[1:3])


def lattice(height: int, width: int, device: torch.device | None = None) -> Float[Tensor, "H W 2"]:
    """Positions (x, y) whose outermost ones lie on the frame."""
    rows, columns = (torch.linspace(-1, 1, size, device=device) for size in (height, width))
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)


class Identity(nn.Module):
    """Nothing changes."""

    size = 0

    def __init__(self, output_size: tuple[int, int], padding: Padding):
        super().__init__()

    def forward(self, pictures: Float[Tensor, "G N C h w"], beta: Float[Tensor, "G D"]) -> Float[Tensor, "G N C h w"]:
        return pictures


class Colour(nn.Module):
    """A gain and a shift of each colour; channels after the colours stay."""

    size = 2 * COLOURS

    def __init__(self, output_size: tuple[int, int], padding: Padding):
        super().__init__()

    def forward(self, pictures: Float[Tensor, "G N C h w"], beta: Float[Tensor, "G D"]) -> Float[Tensor, "G N C h w"]:
        gain, shift = beta.view(-1, 1, COLOURS, 1, 1, 2).unbind(dim=-1)
        coloured = soft_clamp((1 + gain) * pictures[:, :, :COLOURS] + shift)
        return torch.cat((coloured, pictures[:, :, COLOURS:]), dim=2) if pictures.shape[2] > COLOURS else coloured


class Affine(nn.Module):
    """The six parameters are added to the identity's matrix."""

    size = 6

    def __init__(self, output_size: tuple[int, int], padding: Padding):
        super().__init__()
        self.output_size = output_size
        self.padding = padding

    def forward(self, pictures: Float[Tensor, "G N C h w"], beta: Float[Tensor, "G D"]) -> Float[Tensor, "G N C H W"]:
        theta = beta.view(-1, 2, 3) + torch.eye(2, 3, device=beta.device)
        grid = F.affine_grid(theta, [len(beta), 1, *self.output_size], align_corners=False)
        return sample(pictures, grid, self.padding)


class Similarity(nn.Module):
    """Rotation and scaling [[1 + a, -b], [b, 1 + a]], then a translation; the parameters are a, b, x, y."""

    size = 4

    def __init__(self, output_size: tuple[int, int], padding: Padding):
        super().__init__()
        self.affine = Affine(output_size, padding)

    def forward(self, pictures: Float[Tensor, "G N C h w"], beta: Float[Tensor, "G D"]) -> Float[Tensor, "G N C H W"]:
        a, b, x, y = beta.unbind(dim=-1)
        return self.affine(pictures, torch.stack((a, -b, x, b, a, y), dim=-1))


class Position(nn.Module):
    """Scaling by 1 + exp(s), then a translation; the parameters are s, x, y. At first a picture fills half the frame.

    Rows and columns are read apart: two small matrix products in place of a sampling of every pixel.
    """

    size = 3

    def __init__(self, output_size: tuple[int, int], padding: Padding):
        super().__init__()
        self.output_size = output_size
        self.padding = padding

    def forward(self, pictures: Float[Tensor, "G N C h w"], beta: Float[Tensor, "G D"]) -> Float[Tensor, "G N C H W"]:
        scale, x, y = 1 + beta[:, :1].exp(), beta[:, 1:2], beta[:, 2:]
        (height, width), (rows, columns) = self.output_size, pictures.shape[-2:]
        along_columns = self._reading(scale, x, width, columns)
        along_rows = self._reading(scale, y, height, rows)
        wide = torch.bmm(pictures.flatten(1, 3), along_columns.transpose(1, 2))
        return along_rows[:, None, None] @ wide.unflatten(1, pictures.shape[1:4])

    def _reading(
        self, scale: Float[Tensor, "G 1"], shift: Float[Tensor, "G 1"], after: int, before: int
    ) -> Float[Tensor, "G after before"]:
        """Bilinear weights of every old pixel in every new one along one axis."""
        here = {"dtype": scale.dtype, "device": scale.device}
        centres = (2 * torch.arange(after, **here) + 1) / after - 1
        places = ((scale * centres + shift + 1) * before - 1) / 2
        if self.padding == "border":
            places = places.clamp(0, before - 1)
        beyond = places[..., None] - torch.arange(before, **here)
        # A place on a pixel belongs to what follows it, as in torch's sampling: that decides its gradient.
        return torch.where(beyond >= 0, 1 - beyond, 1 + beyond) * ((beyond >= -1) & (beyond < 1))


class Projective(nn.Module):
    """A homography, whose nine parameters are added to the identity's.

    As in the original, positions stand on a lattice that reaches the frame, but are read as if pixels were areas: with
    all parameters zero a picture still grows a little, by one part in its side.
    """

    size = 9

    def __init__(self, output_size: tuple[int, int], padding: Padding):
        super().__init__()
        self.padding = padding

    def forward(self, pictures: Float[Tensor, "G N C h w"], beta: Float[Tensor, "G D"]) -> Float[Tensor, "G N C h w"]:
        homography = beta.view(-1, 3, 3) + torch.eye(3, device=beta.device)
        points = F.pad(lattice(*pictures.shape[-2:], beta.device), (0, 1), value=1.0)
        x, y, depth = (points.flatten(0, 1) @ homography.transpose(1, 2)).unbind(dim=-1)
        far = depth.abs() > 1e-8
        scale = torch.where(far, 1 / torch.where(far, depth + 1e-8, 1.0), 1.0)
        grid = torch.stack((x * scale, y * scale), dim=-1).unflatten(1, pictures.shape[-2:])
        return sample(pictures, grid, self.padding)


class ThinPlateSpline(nn.Module):
    """4x4 points, each moved by its (x, y), and everything between them smoothly (Bookstein 1989)."""

    size = 2 * TPS_POINTS**2

    def __init__(self, output_size: tuple[int, int], padding: Padding):
        super().__init__()
        self.output_size = output_size
        self.padding = padding
        points = lattice(TPS_POINTS, TPS_POINTS).flatten(0, 1).double()
        count = len(points)
        system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
        system[:count] = self._terms(points, points)
        system[count:, :count] = system[:count, count:].T
        spline = torch.linalg.inv(system)[:, :count]
        to_places = self._terms(lattice(*output_size).flatten(0, 1).double(), points) @ spline
        self.register_buffer("points", points.float(), persistent=False)
        self.register_buffer("to_places", to_places.float(), persistent=False)

    def forward(self, pictures: Float[Tensor, "G N C h w"], beta: Float[Tensor, "G D"]) -> Float[Tensor, "G N C H W"]:
        moved = self.points + beta.unflatten(1, (-1, 2))
        return sample(pictures, (self.to_places @ moved).unflatten(1, self.output_size), self.padding)

    @staticmethod
    def _terms(places: Float[Tensor, "P 2"], points: Float[Tensor, "Q 2"]) -> Float[Tensor, "P Q3"]:
        """r^2 log(r^2) / 2 of the distance to every point, then 1, x and y."""
        squares = (places[:, None] - points).square().sum(dim=-1)
        radial = torch.where(squares > 0, squares * squares.clamp(min=1e-30).log() / 2, 0.0)
        return torch.cat((radial, torch.ones_like(places[:, :1]), places), dim=1)


class Morphological(nn.Module):
    """Dilation or erosion as a mean of 3x3 pixels p, weighted by exp(alpha p) and by learned weights.

    The parameters are alpha and the logits of the weights, first that of the centre alone. For pictures of one channel.
    """

    size = 10

    def __init__(self, output_size: tuple[int, int], padding: Padding):
        super().__init__()
        first = torch.full((10,), -5.0)
        first[0], first[5] = 0.0, 5.0
        self.register_buffer("first", first, persistent=False)

    def forward(self, pictures: Float[Tensor, "G N C h w"], beta: Float[Tensor, "G D"]) -> Float[Tensor, "G N C h w"]:
        if pictures.shape[2] != 1:
            raise ValueError(f"morphological: expected pictures of one channel, found {pictures.shape[2]}")
        parameters = self.first + beta
        alpha, weights = parameters[:, :1, None, None], parameters[:, 1:, None].sigmoid()
        patches = F.unfold(pictures.flatten(0, 1), 3, padding=1)
        patches = patches.unflatten(0, pictures.shape[:2])
        weights = weights[:, None] * (alpha * patches).exp()
        return ((weights * patches).sum(dim=2) / weights.sum(dim=2)).view(pictures.shape)


KINDS: dict[str, type[nn.Module]] = {
    "identity": Identity,
    "color": Colour,
    "affine": Affine,
    "position": Position,
    "similarity": Similarity,
    "projective": Projective,
    "tps": ThinPlateSpline,
    "morphological": Morphological,
}


class StackedLinear(nn.Module):
    """A linear layer for each of `branches`; `weight` is (*branches, out, in)."""

    def __init__(self, branches: tuple[int, ...], num_inputs: int, num_outputs: int):
        super().__init__()
        bound = num_inputs**-0.5
        self.weight = nn.Parameter(torch.empty(*branches, num_outputs, num_inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*branches, num_outputs).uniform_(-bound, bound))

    def of_all(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "R B D"]:
        """R branches, in one piece, of the same features."""
        weight = self.weight.flatten(0, -3)
        found = F.linear(features, weight.flatten(0, 1), self.bias.flatten())
        return found.unflatten(1, weight.shape[:2]).transpose(0, 1)

    def forward(self, features: Float[Tensor, "R B F"]) -> Float[Tensor, "R B D"]:
        weight, bias = self.weight.flatten(0, -3), self.bias.flatten(0, -2)
        return torch.baddbmm(bias[:, None], features, weight.transpose(1, 2))


class Regressors(nn.Module):
    """For each of `branches` an MLP with two hidden layers, all of the same features; at first it says zero."""

    def __init__(self, branches: tuple[int, ...], num_features: int, num_outputs: int):
        super().__init__()
        self.branches = branches
        sizes = (num_features, HIDDEN, HIDDEN, num_outputs) if num_outputs else ()
        self.layers = nn.ModuleList(StackedLinear(branches, *pair) for pair in pairwise(sizes))
        for value in self.layers[-1:].parameters():
            nn.init.zeros_(value)

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "*branches B D"]:
        if not self.layers:
            return features.new_zeros(*self.branches, len(features), 0)
        first, second, last = self.layers
        hidden = second(first.of_all(features).relu()).relu()
        with torch.autocast(features.device.type, enabled=False):
            return last(hidden.float()).unflatten(0, self.branches)


class Transformations(nn.Module):
    """The same transformations, one after the other, for each of `branches`, with regressors of their own.

    text: names of `KINDS` with underscores between them, as in `color_position`.
    output_size: height and width that affine, position, similarity and tps make; the others keep the size.
    milestones: after how many epochs the second, third, ... of them begin; without them all do at once.

    Raises ValueError for an unknown name, and where milestones are too many or too few.
    """

    def __init__(
        self,
        text: str,
        branches: tuple[int, ...],
        num_features: int,
        output_size: tuple[int, int],
        padding: Padding = "zeros",
        milestones: Sequence[int] = (),
    ):
        super().__init__()
        names = text.split("_")
        for name in names:
            if name not in KINDS:
                near = difflib.get_close_matches(name, KINDS, 1, cutoff=0)[0]
                raise ValueError(f"transformation {name!r}: did you mean {near!r}? Known are {', '.join(KINDS)}")
        if milestones and len(milestones) != len(names) - 1:
            raise ValueError(f"{text}: expected {len(names) - 1} milestones, one less than names, found {milestones}")
        self.milestones = tuple(milestones)
        self.kinds = nn.ModuleList(KINDS[name](output_size, padding) for name in names)
        self.regressors = nn.ModuleList(Regressors(branches, num_features, kind.size) for kind in self.kinds)

    def num_active(self, epoch: int) -> int:
        """How many take part in `epoch`."""
        if not self.milestones:
            return len(self.kinds)
        return 1 + sum(epoch >= milestone for milestone in self.milestones)

    def predict(self, features: Float[Tensor, "B F"], epoch: int) -> list[Float[Tensor, "*branches B _"]]:
        """The parameters of those that take part in `epoch`."""
        return [regressor(features) for regressor in self.regressors[: self.num_active(epoch)]]

    def forward(
        self, pictures: Float[Tensor, "G N C h w"], betas: Sequence[Float[Tensor, "G _"]]
    ) -> Float[Tensor, "G N C H W"]:
        """Pictures after as many transformations as there are `betas`."""
        for kind, beta in zip(self.kinds, betas):
            pictures = kind(pictures, beta)
        return pictures


def gaussian_mask(height: int, width: int, std: float) -> Float[Tensor, "H W"]:
    """One in the middle, falling off with the standard deviation `std` in pixels."""
    rows, columns = ((torch.arange(size) - (size - 1) / 2) / std for size in (height, width))
    return torch.exp(-(rows[:, None].square() + columns.square()) / 2)
