"""A model of Tetrominoes that knows the answers."""

import numpy as np
import torch
from torch import Tensor, nn

from core.data.multi_object_h5 import MultiObjectH5
from core.synth.tetrominoes import BLOCK, FACTOR_NAMES, SHAPES, SIDE, TILE
from core.types import Decomposition

CELLS = [np.array([[cell == "#" for cell in row] for row in rows.split("/")]) for rows in SHAPES.values()]


class Oracle(nn.Module):
    """Looks every picture up in its data set; a slot's code is the factors of its object, and is drawn as they say.

    Slots are not in the order of the objects: object e is in slot `order[e]`. The last number of a code, `visibility`,
    is 0 and changes nothing. `shuffle` gives pixels to random slots in `decompose`, `noisy_codes` gives codes that say
    nothing, of which only those of a whole batch can be drawn.
    """

    def __init__(self, source: MultiObjectH5, shuffle: bool = False, noisy_codes: bool = False):
        super().__init__()
        everything = source.read(np.arange(len(source)))
        self.images, self.factors = everything["image"].float() / 255, everything["factors"]
        self.labels = everything["mask"].long()
        if shuffle:
            pixels = torch.randperm(self.labels[0].numel(), generator=torch.Generator().manual_seed(0))
            self.labels = self.labels.flatten(1)[:, pixels].view_as(self.labels)
        self.num_slots = self.factors.shape[1]
        self.order = torch.tensor([2, 0, 3, 1])
        self.noisy_codes = noisy_codes

    def _look_up(self, image: Tensor) -> Tensor:
        differences = (image[:, None] - self.images).abs().flatten(2).amax(dim=2)
        assert (differences.amin(dim=1) < 1e-6).all()
        return differences.argmin(dim=1)

    def decompose(self, batch, noise=None) -> Decomposition:
        labels = self.labels[self._look_up(batch["image"])]
        masks = nn.functional.one_hot(self.order[labels], self.num_slots).permute(0, 3, 1, 2).float()
        rgb = batch["image"][:, None].expand(-1, self.num_slots, -1, -1, -1)
        return Decomposition((masks.unsqueeze(2) * rgb).sum(dim=1), masks, rgb)

    def infer_codes(self, image, noise=None, *, sample=False) -> Tensor:
        codes = torch.empty_like(self.factors[: len(image)])
        codes[:, self.order] = self.factors[self._look_up(image)]
        codes[..., FACTOR_NAMES.index("visibility")] = 0
        self.codes = codes.flatten(0, 1)
        return torch.randn(codes.shape) if self.noisy_codes else codes

    def decode_slots(self, codes: Tensor):
        rgb, logits = zip(*(self._draw(code) for code in (self.codes if self.noisy_codes else codes)))
        return torch.stack(rgb), torch.stack(logits)

    def _draw(self, code: Tensor) -> tuple[Tensor, Tensor]:
        x, y, shape = (round(float(value)) for value in code[:3])
        if shape < 0:  # the background: everywhere, behind everything
            return torch.zeros(3, SIDE, SIDE), torch.full((SIDE, SIDE), 20.0)
        cells = CELLS[min(shape, len(CELLS) - 1)]
        height, width = (BLOCK * length for length in cells.shape)
        x, y = min(x, SIDE - width), min(y, SIDE - height)
        shading, logits = torch.zeros(SIDE, SIDE), torch.zeros(SIDE, SIDE)
        shading[y : y + height, x : x + width] = torch.from_numpy(np.kron(cells, TILE / 255)).float()
        logits[y : y + height, x : x + width] = torch.from_numpy(np.kron(cells, np.full((BLOCK, BLOCK), 40.0))).float()
        return code[3:6, None, None] * shading, logits
