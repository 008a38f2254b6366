"""The spatial broadcast decoder: every slot is rendered by itself, and the pictures are mixed."""

from jaxtyping import Float
from torch import Tensor

from osrt.models.decoder import Decoder, Prepared, Rendered
from osrt.models.encodings import RayEncoder
from osrt.models.linear import linear
from osrt.models.ray_predictor import after_first, render_layers


class SpatialBroadcastDecoder(Decoder):
    """An MLP on each pair of a ray and a slot gives a colour and a logit; a softmax over slots mixes the colours.

    Its first layer acts on rays and slots apart, with equal numbers, so that only their sum is made per pair.
    """

    def __init__(
        self,
        pos_start_octave: int = 0,
        *,
        num_octaves: int = 15,
        latent_dim: int = 1536,
        hidden_dim: int = 1536,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.query_encoder = RayEncoder(num_octaves, pos_start_octave, num_octaves)
        self.render_mlp = render_layers(self.query_encoder.out_features + latent_dim, hidden_dim, 4)

    def prepare(self, latents: Float[Tensor, "B K Z"]) -> Prepared:
        return (linear(latents, self.render_mlp[0].weight[:, -self.latent_dim :]),)

    def rows_per_ray(self, prepared: Prepared, **render_options: float) -> int:
        return prepared[0].shape[1]

    def forward(self, prepared: Prepared, camera_pos: Float[Tensor, "B P 3"], rays: Float[Tensor, "B P 3"]) -> Rendered:
        (of_slots,) = prepared
        first = self.render_mlp[0]
        of_rays = linear(self.query_encoder(camera_pos, rays), first.weight[:, : -self.latent_dim], first.bias)
        outputs = after_first(self.render_mlp, of_rays[:, None] + of_slots[:, :, None]).float()
        weights, colours = outputs[..., 0].softmax(dim=1), outputs[..., 1:].sigmoid()
        pixels = (weights[..., None] * colours).sum(dim=1)
        return Rendered(pixels, segmentation=weights.transpose(1, 2))
