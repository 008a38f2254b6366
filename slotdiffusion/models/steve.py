"""STEVE (Singh et al. 2022) as SlotDiffusion's baseline: slots from which a transformer predicts a frame's words."""

from typing import Any

from slotdiffusion.models.slot_encoder import SlotEncoder
from slotformer.base_slots.models.token_autoencoder import TokenAutoencoder


class STEVE(SlotEncoder, TokenAutoencoder):
    """STEVE for videos of `resolution` (h, w), over the words of a frozen dVAE of `vocab_size`.

    `options` are those of `SlotEncoder`.
    """

    def __init__(
        self,
        resolution: tuple[int, int] = (128, 128),
        down_factor: int = 4,
        vocab_size: int = 4096,
        dec_num_layers: int = 8,
        dec_num_heads: int = 4,
        dec_d_model: int = 192,
        use_img_recon_loss: bool = False,
        token_recon_loss_w: float = 1.0,
        img_recon_loss_w: float = 1.0,
        dropout: float = 0.1,
        **options: Any,
    ):
        super().__init__(resolution=resolution, dropout=dropout, **options)
        transformer = (dec_num_layers, dec_num_heads, dec_d_model, dropout)
        self.add_token_decoder(resolution, down_factor, vocab_size, *transformer)
        self.set_losses(use_img_recon_loss, token_recon_loss_w, img_recon_loss_w)
