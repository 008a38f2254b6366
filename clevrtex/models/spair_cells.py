"""SPAIR's encoder: what is in every cell of a grid, given the image and the cells before it.

Shapes: B images, N cells row by row, M of them at a time, F features of a cell, P length of what a cell tells those
after it, D size of an object's appearance `what`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.glimpses import read_glimpses
from clevrtex.models.presence import Presence, PresenceName
from clevrtex.models.spair_backbones import FEATURES
from core.nn.noise import Noise
from emorl.models.gaussian import DiagonalGaussian

LEAST_STD, LARGEST_STD = 1e-21, 1e19
LARGEST_LOGIT = 10.0
BOX_RANGE = ((0.0, 0.0, -0.5, -0.5), (1.0, 1.0, 1.5, 1.5))
"""Least and largest width and height in anchors, and x and y in cells from the upper left corner of the cell."""


class MLP(nn.Module):
    """Linear layers with ReLU between them; the last gives `outputs` numbers and `passed` features after a ReLU."""

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int], passed: int = 0):
        super().__init__()
        widths = (inputs, *hidden, outputs + passed)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.outputs = outputs
        self.passed = passed

    def forward(
        self, values: Float[Tensor, "*batch D_in"]
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch R"]]:
        for layer in self.layers[:-1]:
            values = layer(values).relu()
        outputs, passed = self.layers[-1](values).split((self.outputs, self.passed), dim=-1)
        return outputs, passed.relu()


@dataclass
class Cells:
    """Posteriors and samples of the cells' latent variables."""

    where_mean: Float[Tensor, "B N 4"]
    where_std: Float[Tensor, "B N 4"]
    where: Float[Tensor, "B N 4"]
    """Of width, height, x and y, before they are squashed,"""
    window: Float[Tensor, "B N 4"]
    """and the window that they give, as in glimpses.py."""
    what_mean: Float[Tensor, "B N D"]
    what_std: Float[Tensor, "B N D"]
    what: Float[Tensor, "B N D"]
    depth_mean: Float[Tensor, "B N 1"]
    depth_std: Float[Tensor, "B N 1"]
    depth: Float[Tensor, "B N 1"]
    """In (0, 1)."""
    probability: Float[Tensor, "B N 1"]
    presence: Float[Tensor, "B N 1"]
    glimpse: Float[Tensor, "B N 3 h w"]
    inputs: Float[Tensor, "B N D_in"]
    """Features of the cell and what the cells before it tell."""


@dataclass(frozen=True)
class Waves:
    """Cells in an order in which every wave depends on those before it only."""

    order: list[int]
    sizes: list[int]
    neighbours: dict[int, list[int | None]]
    """Of every cell, those that it depends on; None beyond the edge of the grid."""


def waves(rows: int, columns: int, reach: int) -> Waves:
    """Each cell depends on those before it, row by row, that are at most `reach` rows and columns away.

    The last of these that is computed is `reach` columns to the right in the row above. So all cells with the same
    column + (reach + 1) * row can be computed at once.
    """
    cells = sorted(range(rows * columns), key=lambda cell: cell % columns + (reach + 1) * (cell // columns))
    times = [cell % columns + (reach + 1) * (cell // columns) for cell in cells]
    window = range(-reach, reach + 1)
    before = [(row, column) for row in window for column in window if (row, column) < (0, 0)]
    neighbours = {}
    for cell in cells:
        places = [(cell // columns + row, cell % columns + column) for row, column in before]
        neighbours[cell] = [
            row * columns + column if row >= 0 and 0 <= column < columns else None for row, column in places
        ]
    return Waves(cells, [times.count(time) for time in sorted(set(times))], neighbours)


def posterior(parameters: Float[Tensor, "*batch D2"]) -> DiagonalGaussian:
    """From (mean | standard deviation before softplus)."""
    mean, scale = parameters.float().chunk(2, dim=-1)
    return DiagonalGaussian(mean, F.softplus(scale).clamp(LEAST_STD, LARGEST_STD))


def squash(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return values.clamp(-LARGEST_LOGIT, LARGEST_LOGIT).sigmoid()


class CellEncoder(nn.Module):
    """Box, appearance, depth and presence of every cell, one after the other.

    `passed` features go from the box's network to the depth's and on to the presence's. `reach` is how far a cell sees
    others. With `together` one network gives box, depth and presence (the benchmark's simple SPAIR).
    """

    def __init__(
        self,
        grid_size: tuple[int, int],
        cell_size: int,
        anchor: float,
        image_size: tuple[int, int],
        glimpse_size: tuple[int, int],
        what_size: int,
        passed: int,
        reach: int,
        together: bool,
    ):
        super().__init__()
        self.grid_size = grid_size
        self.glimpse_size = glimpse_size
        self.plan = waves(*grid_size, reach)
        message = 6 + what_size
        # The original leaves room for earlier objects of the same cell, of which there are none.
        inputs = FEATURES + ((2 * reach + 1) ** 2 // 2 + 1) * message
        self.num_inputs = inputs
        self.draws = {"where": 4, "what": what_size, "depth": 1, "presence": 1}
        self.edge = nn.Parameter(torch.zeros(message))
        self.together = self.box = self.depth = self.presence = None
        if together:
            self.together = MLP(inputs, 11, (256, 128, 128, 64, 64, 32, 32))
        else:
            self.box = MLP(inputs, 8, (100, 100), passed)
            self.depth = MLP(inputs + 4 + what_size + passed, 2, (100, 100), passed)
            self.presence = MLP(inputs + 5 + what_size + passed, 1, (100, 100))
        self.what = MLP(FEATURES + 4 + 3 * glimpse_size[0] * glimpse_size[1], 2 * what_size, (256, 128))
        low, high = torch.tensor(BOX_RANGE)
        rows, columns = torch.meshgrid(torch.arange(grid_size[0]), torch.arange(grid_size[1]), indexing="ij")
        corners = torch.stack((columns, rows), dim=-1).flatten(0, 1)
        extent = torch.tensor(image_size[::-1])
        # window = scale * box + offset
        scale = torch.cat((anchor / extent, 2 * cell_size / extent))
        offset = torch.cat((torch.zeros(len(corners), 2), 2 * cell_size / extent * corners - 1), dim=1)
        order = torch.tensor(self.plan.order)
        for name, value in (
            ("box_low", low),
            ("box_range", high - low),
            ("window_scale", scale),
            ("window_offset", offset[order]),
            ("order", order),
            ("row_by_row", order.argsort()),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(
        self,
        image: Float[Tensor, "B 3 H W"],
        features: Float[Tensor, "B N F"],
        noise: Noise,
        presence_name: PresenceName,
        temperature: Float[Tensor, ""],
    ) -> Cells:
        """The draws are `where` (B, N, 4), `what` (B, N, D), `depth` and `presence` (B, N, 1).

        Presences are hard in evaluation.
        """
        # Wave by wave, since the networks of a cell see all that is sampled of those before it: their boxes, through
        # these its own box and glimpse, and so on. Decoding, divergences and the presences' prior come afterwards.
        batch, count = features.shape[:2]
        plan = self.plan
        draws = [noise(name, (batch, count, size)) for name, size in self.draws.items()]
        edge = self.edge.expand(batch, -1)
        messages: dict[int | None, Tensor] = {}
        parts, first = [], 0
        per_wave = [value[:, self.order].split(plan.sizes, dim=1) for value in (features, *draws)]
        for offset, of_cells, *draw in zip(self.window_offset.split(plan.sizes), *per_wave):
            cells = plan.order[first : first + len(offset)]
            first += len(cells)
            told = [messages.get(place, edge) for cell in cells for place in (*plan.neighbours[cell], None)]
            told = torch.stack(told, dim=1).unflatten(1, (len(cells), -1)).flatten(2)
            found = self._infer(image, of_cells, told, offset, draw, presence_name, temperature)
            told = torch.cat((found.presence, found.where, found.depth, found.what), dim=-1)
            messages.update(zip(cells, told.unbind(dim=1)))
            parts.append(found)
        fields = zip(*(vars(part).values() for part in parts))
        return Cells(*(torch.cat(values, dim=1)[:, self.row_by_row] for values in fields))

    def _infer(
        self,
        image: Float[Tensor, "B 3 H W"],
        features: Float[Tensor, "B M F"],
        told: Float[Tensor, "B M P_all"],
        offset: Float[Tensor, "M 4"],
        draws: Sequence[Tensor],
        presence_name: PresenceName,
        temperature: Float[Tensor, ""],
    ) -> Cells:
        """Cells that do not depend on each other."""
        of_where, of_what, of_depth, of_presence = draws
        inputs = torch.cat((features, told), dim=-1)
        if self.together is not None:
            numbers, _ = self.together(inputs)
            where_numbers, depth_numbers, logit = numbers.split((8, 2, 1), dim=-1)
        else:
            where_numbers, passed = self.box(inputs)
        where_posterior = posterior(where_numbers)
        where = where_posterior.sample(of_where)
        box = self.box_low + self.box_range * squash(where)
        window = self.window_scale * box + offset
        glimpse = read_glimpses(image, window, self.glimpse_size)
        what_numbers, _ = self.what(torch.cat((features, box, glimpse.flatten(2)), dim=-1))
        what_posterior = posterior(what_numbers)
        what = what_posterior.sample(of_what)
        if self.together is None:
            depth_numbers, passed = self.depth(torch.cat((inputs, box, what, passed), dim=-1))
        depth_posterior = posterior(depth_numbers)
        depth = squash(depth_posterior.sample(of_depth))
        if self.together is None:
            logit, _ = self.presence(torch.cat((inputs, box, what, depth, passed), dim=-1))
        probability = logit.float().sigmoid()
        presence = Presence(probability, presence_name, temperature).sample(of_presence, hard=not self.training)
        return Cells(
            where_mean=where_posterior.mean,
            where_std=where_posterior.std,
            where=where,
            window=window,
            what_mean=what_posterior.mean,
            what_std=what_posterior.std,
            what=what,
            depth_mean=depth_posterior.mean,
            depth_std=depth_posterior.std,
            depth=depth,
            probability=probability,
            presence=presence,
            glimpse=glimpse,
            inputs=inputs,
        )
