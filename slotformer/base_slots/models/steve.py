"""STEVE (Singh et al. 2022) as SlotFormer trains it: slots of a video from which a transformer predicts its words."""

from typing import Any

from torch import nn

from core.nn.conv_blocks import Norm
from slotformer.base_slots.models.encoder import ConvEncoder
from slotformer.base_slots.models.predictors import build_predictor
from slotformer.base_slots.models.token_autoencoder import TokenAutoencoder


def parameter_groups(
    model: nn.Module, lr: float, dec_lr: float, decoder: str = "trans_decoder"
) -> list[dict[str, Any]]:
    """What of STEVE is trained, for an optimiser: all but the token decoder at `lr`, then this one at `dec_lr`.

    Of models alike, `decoder` is the name of that part.
    """
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[decoder in name].append(parameter)
    return [{"params": groups[False], "lr": lr}, {"params": groups[True], "lr": dec_lr}]


class STEVE(TokenAutoencoder):
    """STEVE for videos of `resolution` (h, w), over the words of a frozen dVAE of `vocab_size`."""

    def __init__(
        self,
        resolution: tuple[int, int] = (128, 128),
        clip_len: int = 6,
        num_slots: int = 6,
        slot_size: int = 192,
        slot_mlp_size: int = 384,
        num_iterations: int = 2,
        down_factor: int = 4,
        vocab_size: int = 4096,
        enc_channels: tuple[int, ...] = (3, 64, 64, 64, 64),
        enc_ks: int = 5,
        enc_out_channels: int = 192,
        enc_norm: Norm = "",
        dec_num_layers: int = 4,
        dec_num_heads: int = 4,
        dec_d_model: int = 192,
        pred_type: str = "transformer",
        pred_rnn: bool = True,
        pred_norm_first: bool = True,
        pred_num_layers: int = 2,
        pred_num_heads: int = 4,
        pred_ffn_dim: int = 768,
        pred_sg_every: int | None = None,
        use_img_recon_loss: bool = False,
        token_recon_loss_w: float = 1.0,
        img_recon_loss_w: float = 1.0,
        eps: float = 1e-6,
        dropout: float = 0.1,
    ):
        transformer = (pred_norm_first, pred_num_layers, pred_num_heads, pred_ffn_dim)
        super().__init__(
            lambda: ConvEncoder(enc_channels, enc_ks, enc_norm, resolution),
            build_predictor(slot_size, slot_mlp_size, pred_type, pred_rnn, *transformer, pred_sg_every, dropout),
            clip_len,
            num_slots,
            slot_size,
            slot_mlp_size,
            num_iterations,
            enc_out_channels,
            eps,
        )
        decoder = (dec_num_layers, dec_num_heads, dec_d_model, dropout)
        self.add_token_decoder(resolution, down_factor, vocab_size, *decoder)
        self.set_losses(use_img_recon_loss, token_recon_loss_w, img_recon_loss_w)
