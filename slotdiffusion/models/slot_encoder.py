"""From videos to slots, as all models of SlotDiffusion do it."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from core.nn.conv_blocks import Norm
from core.nn.noise import standard_normal
from slotdiffusion.models.features import build_features
from slotformer.base_slots.models.encoder import SlotVideoEncoder, Track
from slotformer.base_slots.models.predictors import build_predictor


class SlotEncoder(SlotVideoEncoder):
    """The slot encoder of videos of `resolution` (h, w) that configurations describe; decoders come by inheritance.

    `num_slots` of `slot_size`; `enc_*`, `resnet` and `dino` and what belongs to them as `build_features` takes them,
    `pred_*` as `build_predictor` does; `dropout` is the predictor's. A model says its `terms(slots, batch, step)`.
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

    def loss(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """The model's `terms` for `batch["video"]` (B, T, 3, H, W) in [0, 1], in one pass whatever T."""
        return self.terms(self._track(batch).slots, batch, step)

    def loss_and_masks(
        self, batch: dict[str, Tensor], step: int
    ) -> tuple[dict[str, Tensor], Float[Tensor, "B T N H W"]]:
        """What `loss` and `segment` give, from one look at the video."""
        track = self._track(batch)
        return self.terms(track.slots, batch, step), self.segmentation(track, batch["video"].shape[-2:])

    def segmentation(self, track: Track, size: Sequence[int]) -> Float[Tensor, "B T N H W"]:
        """Masks of pictures of `size` (H, W): the attention of every frame's last iteration."""
        return self.masks(track, size)

    def _track(self, batch: dict[str, Tensor]) -> Track:
        video = 2 * batch["video"] - 1
        return self.track(video, standard_normal(video.device))
