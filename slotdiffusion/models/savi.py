"""SAVi (Kipf et al. 2022) as SlotDiffusion's baseline: learned slots, pictures by a spatial broadcast decoder.

Shapes: B videos, T frames, N slots, D slot size.
"""

from torch import Tensor

from core.nn.conv_blocks import Norm
from core.nn.noise import standard_normal
from slotdiffusion.models.features import build_features
from slotformer.base_slots.models.pixel_autoencoder import PixelAutoencoder
from slotformer.base_slots.models.predictors import build_predictor


class SAVi(PixelAutoencoder):
    """SAVi for videos of `resolution` (h, w); nothing is drawn. See `build_features` for what it looks through."""

    def __init__(
        self,
        resolution: tuple[int, int] = (128, 128),
        clip_len: int = 3,
        num_slots: int = 15,
        slot_size: int = 192,
        slot_mlp_size: int = 384,
        num_iterations: int = 2,
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
        dec_channels: tuple[int, ...] = (192, 64, 64, 64, 64),
        dec_resolution: tuple[int, int] = (8, 8),
        dec_ks: int = 5,
        dec_norm: Norm = "",
        pred_type: str = "transformer",
        pred_rnn: bool = False,
        pred_norm_first: bool = True,
        pred_num_layers: int = 2,
        pred_num_heads: int = 4,
        pred_ffn_dim: int = 768,
        pred_sg_every: int | None = None,
        use_img_recon_loss: bool = True,
        img_recon_loss_w: float = 1.0,
        eps: float = 1e-6,
        dropout: float = 0.1,
        frames_per_part: int | None = None,
    ):
        if not use_img_recon_loss:
            raise ValueError("loss_dict: use_img_recon_loss=False leaves SAVi without a loss")
        convolutions = (enc_channels, enc_ks, enc_norm)
        residual, transformer = (resnet, use_layer4, replace_stride_with_dilation), (dino, patch_size, small_size)
        predictor = (pred_type, pred_rnn, pred_norm_first, pred_num_layers, pred_num_heads, pred_ffn_dim, pred_sg_every)
        super().__init__(
            lambda: build_features(resolution, *convolutions, *residual, *transformer),
            build_predictor(slot_size, slot_mlp_size, *predictor, dropout),
            clip_len,
            num_slots,
            slot_size,
            slot_mlp_size,
            num_iterations,
            enc_out_channels,
            eps,
        )
        self.add_decoder(dec_channels, dec_resolution, dec_ks, dec_norm, resolution, frames_per_part)
        self.img_recon_loss_w = img_recon_loss_w

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """`img_recon_loss`, the mean squared error in [-1, 1], for `batch["video"]` (B, T, 3, H, W) in [0, 1]."""
        video = 2 * batch["video"] - 1
        slots = self.track(video, standard_normal(video.device)).slots
        error = self.reconstruction_error(slots, video)
        return {"loss": self.img_recon_loss_w * error, "img_recon_loss": error}
