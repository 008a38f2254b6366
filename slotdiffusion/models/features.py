"""The nets that slot attention looks through, by what `enc_dict` says of them."""

from torch import nn

from core.nn.conv_blocks import Norm
from slotdiffusion.models.dino import build_dino
from slotdiffusion.models.resnet import ResNet
from slotformer.base_slots.models.encoder import ConvEncoder


def build_features(
    resolution: tuple[int, int],
    enc_channels: tuple[int, ...],
    enc_ks: int,
    enc_norm: Norm,
    resnet: str,
    use_layer4: bool,
    replace_stride_with_dilation: tuple[bool, ...],
    dino: str,
    patch_size: int,
    small_size: bool,
) -> nn.Module:
    """A frozen vision transformer if `dino` names one, else a residual net if `resnet` does, else convolutions.

    `patch_size` and `small_size` must be those of the transformer's name. Raises ValueError.
    """
    if dino and resnet:
        raise ValueError(f"enc_dict has both resnet={resnet!r} and dino={dino!r}: slots look through one of them")
    if dino:
        if dino != (name := f"dino-vit{'s' if small_size else 'b'}{patch_size}"):
            raise ValueError(f"dino={dino!r}, but patch_size={patch_size} and small_size={small_size} make {name!r}")
        return build_dino(dino, resolution)
    if resnet:
        return ResNet(resnet, resolution, use_layer4, replace_stride_with_dilation)
    return ConvEncoder(enc_channels, enc_ks, enc_norm, resolution)
