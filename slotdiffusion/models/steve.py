"""STEVE (Singh et al. 2022) as SlotDiffusion's baseline: slots from which a transformer predicts a frame's words."""

from core.nn.conv_blocks import Norm
from slotdiffusion.models.features import build_features
from slotformer.base_slots.models.predictors import build_predictor
from slotformer.base_slots.models.token_autoencoder import TokenAutoencoder


class STEVE(TokenAutoencoder):
    """STEVE for videos of `resolution` (h, w), over the words of a frozen dVAE of `vocab_size`.

    See `build_features` for what it looks through.
    """

    def __init__(
        self,
        resolution: tuple[int, int] = (128, 128),
        clip_len: int = 3,
        num_slots: int = 15,
        slot_size: int = 192,
        slot_mlp_size: int = 384,
        num_iterations: int = 2,
        down_factor: int = 4,
        vocab_size: int = 4096,
        enc_channels: tuple[int, ...] = (3, 64, 64, 64, 64),
        enc_ks: int = 5,
        enc_out_channels: int = 192,
        enc_norm: Norm = "",
        resnet: str = "",
        use_layer4: bool = False,
        replace_stride_with_dilation: tuple[bool, ...] = (False, False, False),
        dino: str = "",
        patch_size: int = 8,
        small_size: bool = True,
        dec_num_layers: int = 8,
        dec_num_heads: int = 4,
        dec_d_model: int = 192,
        pred_type: str = "transformer",
        pred_rnn: bool = False,
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
        convolutions = (enc_channels, enc_ks, enc_norm)
        residual, transformer = (resnet, use_layer4, replace_stride_with_dilation), (dino, patch_size, small_size)
        predictor = (pred_type, pred_rnn, pred_norm_first, pred_num_layers, pred_num_heads, pred_ffn_dim, pred_sg_every)
        super().__init__(
            lambda: build_features(resolution, *convolutions, *residual, *transformer),
            build_predictor(slot_size, slot_mlp_size, *predictor, dropout),
            resolution,
            clip_len,
            num_slots,
            slot_size,
            slot_mlp_size,
            num_iterations,
            enc_out_channels,
            down_factor,
            vocab_size,
            dec_num_layers,
            dec_num_heads,
            dec_d_model,
            use_img_recon_loss,
            token_recon_loss_w,
            img_recon_loss_w,
            eps,
            dropout,
        )
