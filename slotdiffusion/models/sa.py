"""Slot Attention (Locatello et al. 2020) as SlotDiffusion's baseline: slots that begin at learned places."""

from core.nn.conv_blocks import Norm
from slotdiffusion.models.pictures import OfPictures
from slotdiffusion.models.savi import SAVi


class SA(OfPictures, SAVi):
    """SAVi for pictures `batch["image"]` (B, 3, H, W) of `resolution` (h, w)."""

    def __init__(
        self,
        resolution: tuple[int, int] = (128, 128),
        num_slots: int = 11,
        slot_size: int = 192,
        slot_mlp_size: int = 384,
        num_iterations: int = 3,
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
        dec_channels: tuple[int, ...] = (192, 128, 128, 128, 128),
        dec_resolution: tuple[int, int] = (8, 8),
        dec_ks: int = 5,
        dec_norm: Norm = "",
        use_img_recon_loss: bool = True,
        img_recon_loss_w: float = 1.0,
        eps: float = 1e-6,
        frames_per_part: int | None = None,
    ):
        super().__init__(
            resolution=resolution,
            num_slots=num_slots,
            slot_size=slot_size,
            slot_mlp_size=slot_mlp_size,
            num_iterations=num_iterations,
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
            dec_channels=dec_channels,
            dec_resolution=dec_resolution,
            dec_ks=dec_ks,
            dec_norm=dec_norm,
            use_img_recon_loss=use_img_recon_loss,
            img_recon_loss_w=img_recon_loss_w,
            eps=eps,
            frames_per_part=frames_per_part,
            clip_len=1,
            pred_type="none",
        )
