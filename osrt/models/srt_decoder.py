"""SRT's decoders: rays look at the latents of their scene (Sajjadi et al. 2022a)."""

from jaxtyping import Float
from torch import Tensor

from osrt.models.decoder import Decoder, Prepared, Rendered
from osrt.models.ray_predictor import RayPredictor, RenderMLP


class SRTDecoder(Decoder):
    """The improved decoder: an MLP gives the colour of what a ray found. It knows no slots."""

    def __init__(
        self,
        num_att_blocks: int = 2,
        pos_start_octave: int = 0,
        *,
        num_octaves: int = 15,
        latent_dim: int = 768,
        num_heads: int = 12,
        hidden_dim: int = 1536,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.allocation_transformer = RayPredictor(num_att_blocks, pos_start_octave, num_octaves, latent_dim, num_heads)
        self.render_mlp = RenderMLP(self.allocation_transformer.out_features, hidden_dim)

    def prepare(self, latents: Float[Tensor, "B S Z"]) -> Prepared:
        return self.allocation_transformer.prepare(latents)

    def forward(self, prepared: Prepared, camera_pos: Float[Tensor, "B P 3"], rays: Float[Tensor, "B P 3"]) -> Rendered:
        found, _ = self.allocation_transformer(prepared, camera_pos, rays)
        return Rendered(self.render_mlp(found))


class OldSRTDecoder(Decoder):
    """The decoder of the paper's first version, with a small MLP for the colour."""

    def __init__(
        self,
        num_att_blocks: int = 2,
        pos_start_octave: int = 0,
        *,
        num_octaves: int = 15,
        latent_dim: int = 768,
        num_heads: int = 12,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.ray_predictor = RayPredictor(
            num_att_blocks, pos_start_octave, num_octaves, latent_dim, num_heads, output_features=3
        )

    def prepare(self, latents: Float[Tensor, "B S Z"]) -> Prepared:
        return self.ray_predictor.prepare(latents)

    def forward(self, prepared: Prepared, camera_pos: Float[Tensor, "B P 3"], rays: Float[Tensor, "B P 3"]) -> Rendered:
        found, _ = self.ray_predictor(prepared, camera_pos, rays)
        return Rendered(self.ray_predictor.output_mlp(found).float().sigmoid())
