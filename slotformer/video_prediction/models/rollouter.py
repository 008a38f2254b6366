"""The transformer of SlotFormer (Wu et al. 2023) that predicts the slots of the next frame from those before it.

Shapes: B videos, P past and K predicted frames, N slots, D slot size. Differs from the original code, with equal
numbers: the last layer makes only the tokens of the newest frame, and a frame is projected once, however many windows
it is seen in. Keys and values are not kept, since positions shift with the window.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.nn.transformer import TransformerEncoder


def sinusoidal_codes(length: int, size: int) -> Float[Tensor, "1 length size"]:
    """Sines, then cosines, of position times 10000^(-2 j / size) (Vaswani et al. 2017); the last position is 0."""
    positions = torch.arange(length - 1, -1, -1, dtype=torch.float64)
    frequencies = 10000 ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = positions[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()[None]


def position_codes(kind: str, length: int, size: int) -> nn.Parameter | None:
    """`learnable` codes, which begin at zero; fixed ones if `kind` contains `sin`; none if it is empty.

    Raises ValueError for another kind.
    """
    if not kind:
        return None
    if kind == "learnable":
        return nn.Parameter(torch.zeros(1, length, size))
    if "sin" not in kind:
        raise ValueError(f"position codes {kind!r} are not 'sin', 'learnable' or '' for none")
    if size % 2:
        raise ValueError(f"d_model={size} is odd, but sinusoidal codes have as many sines as cosines")
    return nn.Parameter(sinusoidal_codes(length, size), requires_grad=False)


class SlotRollouter(nn.Module):
    """Predicts frame after frame from a window of at most `window_len` frames, its own predictions among them.

    Codes of kind `t_pe` tell how far a frame lies before the newest one, codes of kind `slots_pe` the slots of a frame
    apart; without the latter slots that change places change places in the prediction.
    """

    def __init__(
        self,
        num_slots: int,
        slot_size: int,
        window_len: int,
        t_pe: str = "sin",
        slots_pe: str = "",
        d_model: int = 128,
        num_layers: int = 4,
        num_heads: int = 8,
        ffn_dim: int = 512,
        norm_first: bool = True,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.window_len = window_len
        self.in_proj = nn.Linear(slot_size, d_model)
        self.enc_t_pe = position_codes(t_pe, window_len, d_model)
        self.enc_slots_pe = position_codes(slots_pe, num_slots, d_model)
        self.transformer_encoder = TransformerEncoder(d_model, num_layers, num_heads, ffn_dim, norm_first, dropout)
        self.out_proj = nn.Linear(d_model, slot_size)

    def forward(self, past: Float[Tensor, "B P N D"], num_steps: int) -> Float[Tensor, "B K N D"]:
        """The slots of `num_steps` frames that follow `past`. Float32 also under autocast."""
        if not num_steps:
            return past[:, :0]
        frames = list(self.in_proj(past[:, -self.window_len :]).unbind(dim=1))
        predictions = []
        for step in range(num_steps):
            frames = frames[-self.window_len :]
            predictions.append(self._next(torch.stack(frames, dim=1)))
            if step < num_steps - 1:
                frames.append(self.in_proj(predictions[-1]))
        return torch.stack(predictions, dim=1).float()

    def _next(self, window: Float[Tensor, "B L N C"]) -> Float[Tensor, "B N D"]:
        if self.enc_t_pe is not None:
            window = window + self.enc_t_pe[:, -window.shape[1] :, None]
        if self.enc_slots_pe is not None:
            window = window + self.enc_slots_pe[:, None]
        return self.out_proj(self.transformer_encoder(window.flatten(1, 2), last=window.shape[2]))
