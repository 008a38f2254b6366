"""SlotDiffusion for pictures (Wu et al. 2023)."""

from collections.abc import Mapping
from typing import Any

from core.nn.conv_blocks import Norm
from slotdiffusion.models.pictures import OfPictures
from slotdiffusion.models.savi_diffusion import SAViDiffusion


class SADiffusion(OfPictures, SAViDiffusion):
    """SAViDiffusion for pictures `batch["image"]` (B, 3, H, W) of `resolution` (h, w); `latents` are (B, C, h, w)."""

    def __init__(
        self,
        dec_dict: Mapping[str, Any],
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
        use_denoise_loss: bool = True,
        denoise_loss_w: float = 1.0,
        eps: float = 1e-6,
        as_original: bool = False,
    ):
        super().__init__(
            dec_dict=dec_dict,
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
            use_denoise_loss=use_denoise_loss,
            denoise_loss_w=denoise_loss_w,
            eps=eps,
            as_original=as_original,
            clip_len=1,
            pred_type="none",
        )
