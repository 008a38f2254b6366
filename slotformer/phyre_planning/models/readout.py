"""The transformer of SlotFormer (Wu et al. 2023) that tells from predicted slots whether a task of PHYRE is solved.

Shapes: B trials, T frames, of which S are looked at, N slots, D slot size. Differs from the original code, with equal
numbers: it is given the S frames alone, and the last layer makes only the token that is read.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.data.loader import Batch
from core.nn.transformer import TransformerEncoder
from slotformer.framework.answers import answer_losses
from slotformer.video_prediction.models.rollouter import position_codes

KINDS_OF_CODES = ("sin", "learnable")


class PHYREReadout(nn.Module):
    """Looks at all slots of the frames `sel_slots` of a video at once; a token of its own gathers the answer.

    Codes of kind `t_pe`, "sin" or "learnable", tell the frames apart by their places in `sel_slots`, whatever their
    numbers; of sinusoidal ones the last has position 0. Slots have no order. Raises ValueError for another kind, and
    for negative numbers of frames.
    """

    def __init__(
        self,
        slot_size: int,
        t_pe: str = "sin",
        d_model: int = 128,
        num_layers: int = 4,
        num_heads: int = 8,
        ffn_dim: int = 512,
        norm_first: bool = True,
        sel_slots: tuple[int, ...] = (0, 3),
        vqa_loss_w: float = 1.0,
        dropout: float = 0.1,
    ):
        if t_pe not in KINDS_OF_CODES:
            raise ValueError(f"t_pe {t_pe!r} is not one of {', '.join(KINDS_OF_CODES)}")
        if not sel_slots or min(sel_slots) < 0:
            raise ValueError(f"sel_slots={tuple(sel_slots)}: expected numbers of frames, from 0")
        super().__init__()
        self.sel_slots = tuple(sel_slots)
        self.vqa_loss_w = vqa_loss_w
        self.in_proj = nn.Linear(slot_size, d_model)
        self.CLS = nn.Parameter(torch.zeros(1, 1, d_model))
        self.enc_t_pe = position_codes(t_pe, len(sel_slots), d_model)
        self.transformer_encoder = TransformerEncoder(d_model, num_layers, num_heads, ffn_dim, norm_first, dropout)
        self.cls_mlp = nn.Sequential(nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, 1))

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`vqa_loss`, the cross-entropy of `label` (B,) given `slots` (B, S, N, D), and its share of `loss`."""
        vqa_loss = answer_losses(self.answer(batch["slots"]), batch["label"]).mean()
        return {"vqa_loss": vqa_loss, "loss": self.vqa_loss_w * vqa_loss}

    def select(self, slots: Float[Tensor, "B T N D"]) -> Float[Tensor, "B S N D"]:
        """The frames that are looked at."""
        return slots[:, list(self.sel_slots)]

    def answer(self, slots: Float[Tensor, "B S N D"]) -> Float[Tensor, "B"]:
        """The logit of success, from the frames `sel_slots`. Float32 also under autocast."""
        tokens = (self.in_proj(slots) + self.enc_t_pe[:, :, None]).flatten(1, 2)
        # The original's token comes first. It has no position, so that its place is free: the encoder can stop at it.
        tokens = torch.cat([tokens, self.CLS.expand(len(slots), -1, -1).to(tokens)], dim=1)
        return self.cls_mlp(self.transformer_encoder(tokens, last=1)).flatten().float()
