"""SLATE (Singh et al. 2022, "Illiterate DALL-E learns to compose") as SlotDiffusion's baseline: STEVE for pictures."""

from core.nn.conv_blocks import Norm
from slotdiffusion.models.pictures import OfPictures
from slotdiffusion.models.steve import STEVE


class SLATE(OfPictures, STEVE):
    """STEVE for pictures `batch["image"]` (B, 3, H, W) of `resolution` (h, w); their words are `token_id` (B, L)."""

    def __init__(
        self,
        resolution: tuple[int, int] = (128, 128),
        num_slots: int = 11,
        slot_size: int = 192,
        slot_mlp_size: int = 384,
        num_iterations: int = 3,
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
        use_img_recon_loss: bool = False,
        token_recon_loss_w: float = 1.0,
        img_recon_loss_w: float = 1.0,
        eps: float = 1e-6,
        dropout: float = 0.1,
    ):
        super().__init__(
            resolution=resolution,
            num_slots=num_slots,
            slot_size=slot_size,
            slot_mlp_size=slot_mlp_size,
            num_iterations=num_iterations,
            down_factor=down_factor,
            vocab_size=vocab_size,
            enc_channels=enc_channels,
            enc_ks=enc_ks,
            enc_out_channels=enc_out_channels,
            enc_norm=enc_norm,
            resnet=resnet,
            use_layer4=use_layer4,
            replace_stride_with_dilation=replace_stride_with_dilation,
            dino=dino,
            patch_size=patch_size,
            small_size=small_size,
            dec_num_layers=dec_num_layers,
            dec_num_heads=dec_num_heads,
            dec_d_model=dec_d_model,
            use_img_recon_loss=use_img_recon_loss,
            token_recon_loss_w=token_recon_loss_w,
            img_recon_loss_w=img_recon_loss_w,
            eps=eps,
            dropout=dropout,
            clip_len=1,
            pred_type="none",
        )
