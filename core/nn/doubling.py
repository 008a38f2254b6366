"""Maps that are doubled by nearest neighbours and then convolved."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def doubling_kernel(weight: Float[Tensor, "O C 3 3"]) -> Float[Tensor, "C O 4 4"]:
    """The transposed kernel of stride 2 that doubles maps and convolves them with `weight` in one, channels last.

    It costs 4/9: taps that meet equal neighbours are summed beforehand.
    """
    taps = torch.eye(3, dtype=weight.dtype, device=weight.device).flip(0)
    sums = F.pad(taps, (0, 0, 0, 1)) + F.pad(taps, (0, 0, 1, 0))
    with torch.autocast(weight.device.type, enabled=False):
        kernel = torch.kron(sums, sums) @ weight.permute(1, 2, 3, 0).flatten(1, 2)
    return kernel.unflatten(1, (4, 4)).permute(0, 3, 1, 2)
