"""What the configurations for MOVi have in common: which of two data sets, and how slots look at it."""

from typing import Any

STEVE_LEVELS = ("solid", "tex")


def dataset_of(level: str) -> str:
    """MOVi-Solid and MOVi-Tex, which STEVE came with, lie on disk in another way than MOVi-A to E."""
    return "steve_movi" if level in STEVE_LEVELS else "movi"


def level_of(level: str) -> str:
    """As the data sets call it."""
    return level.capitalize() if level in STEVE_LEVELS else level


def slots_of(level: str) -> int:
    """Objects and background: MOVi-D and E show up to 23 objects, most of them at rest, the others 10."""
    return 12 if level in STEVE_LEVELS else 15


def encoder_of(level: str, channels: int) -> dict[str, Any]:
    """What slots look through: convolutions, or for the harder MOVi-D and E the first three stages of a ResNet-18."""
    if level in STEVE_LEVELS:
        return dict(enc_channels=(3, 64, 64, 64, 64), enc_ks=5, enc_out_channels=channels, enc_norm="")
    return dict(
        resnet="resnet18",
        use_layer4=False,
        replace_stride_with_dilation=[False, False, False],
        enc_out_channels=channels,
    )
