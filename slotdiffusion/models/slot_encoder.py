"""From videos to slots, as all models of SlotDiffusion do it."""

from core.nn.conv_blocks import Norm
from slotdiffusion.models.features import build_features
from slotformer.base_slots.models.encoder import SlotVideoEncoder
from slotformer.base_slots.models.predictors import build_predictor


class SlotEncoder(SlotVideoEncoder):
    """The slot encoder of videos of `resolution` (h, w) that configurations describe; decoders come by inheritance.

    `num_slots` of `slot_size`; `enc_*`, `resnet` and `dino` and what belongs to them as `build_features` takes them,
    `pred_*` as `build_predictor` does; `dropout` is the predictor's.
    """

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
        pred_type: str = "transformer",
        pred_rnn: bool = False,
        pred_norm_first: bool = True,
        pred_num_layers: int = 2,
        pred_num_heads: int = 4,
        pred_ffn_dim: int = 768,
        pred_sg_every: int | None = None,
        eps: float = 1e-6,
        dropout: float = 0.1,
    ):
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
