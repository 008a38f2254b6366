"""Predictors of SAVi (Kipf et al. 2022): where slots of one frame begin in the next.

A predictor is called once per frame with the slots and what it remembers, and gives both back. Only a recurrent one
remembers anything; memory begins as None.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from core.nn.transformer import TransformerEncoder


class Memory(NamedTuple):
    """What a recurrent predictor hands from frame to frame."""

    hidden: tuple[Float[Tensor, "layers S H"], ...]
    """Hidden and cell state of an LSTM, hidden state of a GRU, of all S = B N slots."""
    steps: int
    """Calls so far."""

    def detach(self) -> "Memory":
        return Memory(tuple(value.detach() for value in self.hidden), self.steps)


Prediction = tuple[Float[Tensor, "B N D"], Memory | None]


class TransformerPredictor(nn.Module):
    """Slots look at each other."""

    def __init__(
        self,
        d_model: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        ffn_dim: int = 512,
        norm_first: bool = True,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.transformer_encoder = TransformerEncoder(d_model, num_layers, num_heads, ffn_dim, norm_first, dropout)

    def forward(self, slots: Float[Tensor, "B N D"], memory: Memory | None = None) -> Prediction:
        return self.transformer_encoder(slots), memory


class ResidualMLPPredictor(nn.Module):
    """Every slot by itself, through linear layers of `channels` (first and last: the slot size) with ReLU between.

    What is added to the result is the slot, or, if `norm_first`, the slot after its layer norm, as in the original.
    """

    def __init__(self, channels: Sequence[int], norm_first: bool = True):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.ln = nn.LayerNorm(channels[0])
        self.mlp = nn.Sequential(*layers[:-1])
        self.norm_first = norm_first

    def forward(self, slots: Float[Tensor, "B N D"], memory: Memory | None = None) -> Prediction:
        normed = self.ln(slots)
        return self.mlp(normed) + (normed if self.norm_first else slots), memory


class RNNPredictorWrapper(nn.Module):
    """What another predictor says goes through an LSTM or a GRU, which follows each slot by itself.

    With `sg_every` = k no gradient passes calls number k, 2 k, ... of a video (counted from 0).
    """

    def __init__(
        self,
        base_predictor: nn.Module,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        rnn_cell: Literal["LSTM", "GRU"] = "LSTM",
        sg_every: int | None = None,
    ):
        super().__init__()
        self.base_predictor = base_predictor
        self.rnn = {"LSTM": nn.LSTM, "GRU": nn.GRU}[rnn_cell](input_size, hidden_size, num_layers)
        self.out_projector = nn.Linear(hidden_size, input_size)
        self.sg_every = sg_every

    def forward(self, slots: Float[Tensor, "B N D"], memory: Memory | None = None) -> Prediction:
        steps = memory.steps if memory else 0
        if memory and self.sg_every and steps % self.sg_every == 0:
            slots, memory = slots.detach(), memory.detach()
        predicted, _ = self.base_predictor(slots)
        outputs, hidden = self.rnn(predicted.flatten(0, 1)[None], self._for_rnn(memory))
        found = self.out_projector(outputs[0]).view_as(slots)
        return found, Memory(hidden if isinstance(hidden, tuple) else (hidden,), steps + 1)

    def burnin(self, slots: Float[Tensor, "B T N D"]) -> Memory:
        """What is remembered after `slots` of T frames."""
        predicted, _ = self.base_predictor(slots.flatten(0, 1))
        _, hidden = self.rnn(predicted.view_as(slots).transpose(0, 1).flatten(1, 2))
        return Memory(hidden if isinstance(hidden, tuple) else (hidden,), slots.shape[1])

    def _for_rnn(self, memory: Memory | None) -> Tensor | tuple[Tensor, ...] | None:
        if memory is None:
            return None
        return memory.hidden if isinstance(self.rnn, nn.LSTM) else memory.hidden[0]


class Restart(nn.Module):
    """Predicts nothing: slots of every frame begin where those of the first do, as if each were a video of its own.

    That is Slot Attention (Locatello et al. 2020) of single frames. Slots keep their places as far as these tell
    objects apart.
    """


def build_predictor(
    slot_size: int,
    rnn_hidden_size: int,
    pred_type: str = "transformer",
    pred_rnn: bool = True,
    pred_norm_first: bool = True,
    pred_num_layers: int = 2,
    pred_num_heads: int = 4,
    pred_ffn_dim: int = 512,
    pred_sg_every: int | None = None,
    dropout: float = 0.1,
) -> nn.Module | None:
    """The predictor that `pred_dict` describes: `transformer` or `mlp`, with an LSTM after it if `pred_rnn`.

    Or, without `pred_rnn`, `none`, where slots go on from those of the frame before, or `restart` (see `Restart`).
    Raises ValueError on another `pred_type`.
    """
    if not pred_rnn and pred_type in ("none", "restart"):
        return None if pred_type == "none" else Restart()
    if pred_type == "transformer":
        sizes = (slot_size, pred_num_layers, pred_num_heads, pred_ffn_dim)
        predictor: nn.Module = TransformerPredictor(*sizes, pred_norm_first, dropout)
    elif pred_type == "mlp":
        predictor = ResidualMLPPredictor([slot_size, 2 * slot_size, slot_size], pred_norm_first)
    else:
        known = "'transformer', 'mlp', nor 'none' or 'restart' without pred_rnn"
        raise ValueError(f"pred_type={pred_type!r} is not one of {known}")
    if not pred_rnn:
        return predictor
    return RNNPredictorWrapper(predictor, slot_size, rnn_hidden_size, sg_every=pred_sg_every)
