"""Rays that look at the latents of their scene, and the network that turns what they found into colours."""

from jaxtyping import Float
from torch import Tensor, nn

from osrt.models.decoder import Prepared
from osrt.models.encodings import RayEncoder
from osrt.models.linear import DecoderLinear
from osrt.models.transformer import Transformer


class RayPredictor(nn.Module):
    """Encoded rays as queries of a transformer over latents of width `latent_dim` (Sajjadi et al. 2022a).

    `output_features`, if given, are made by an MLP of what the rays found.
    """

    def __init__(
        self,
        num_att_blocks: int,
        pos_start_octave: int,
        num_octaves: int,
        latent_dim: int,
        num_heads: int,
        output_features: int | None = None,
    ):
        super().__init__()
        self.query_encoder = RayEncoder(num_octaves, pos_start_octave, num_octaves)
        self.out_features = width = self.query_encoder.out_features
        self.input_mlp = nn.Sequential(DecoderLinear(width, 2 * width), nn.ReLU(), DecoderLinear(2 * width, width))
        self.transformer = Transformer(
            width, num_att_blocks, num_heads, latent_dim // num_heads, 2 * latent_dim, kv_dim=latent_dim
        )
        if output_features is not None:
            self.output_mlp = nn.Sequential(DecoderLinear(width, 128), nn.ReLU(), DecoderLinear(128, output_features))

    def prepare(self, latents: Float[Tensor, "B S Z"]) -> Prepared:
        return self.transformer.prepare(latents)

    def forward(
        self, prepared: Prepared, camera_pos: Float[Tensor, "B P 3"], rays: Float[Tensor, "B P 3"]
    ) -> tuple[Float[Tensor, "B P D"], Float[Tensor, "B P D"]]:
        """What the rays found, and what they asked."""
        queries = self.input_mlp(self.query_encoder(camera_pos, rays))
        return self.transformer(queries, prepared), queries


def render_layers(in_features: int, hidden_dim: int, out_features: int) -> nn.Sequential:
    """Four hidden layers with leaky ReLU after each, and an output layer."""
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [DecoderLinear(in_features, hidden_dim), nn.LeakyReLU(inplace=True)]
        in_features = hidden_dim
    return nn.Sequential(*layers, DecoderLinear(hidden_dim, out_features))


def after_first(layers: nn.Sequential, hidden: Float[Tensor, "*batch H"]) -> Float[Tensor, "*batch C"]:
    """What `layers` give where the first of them gave `hidden`, which is overwritten."""
    rows = hidden.flatten(0, -2)  # an activation that overwrites a view would cost a copy
    for layer in layers[1:]:
        rows = layer(rows)
    return rows.float().unflatten(0, hidden.shape[:-1])


class RenderMLP(nn.Module):
    """Colours in [0, 1], float32, of features of rays."""

    def __init__(self, in_features: int, hidden_dim: int):
        super().__init__()
        self.net = render_layers(in_features, hidden_dim, 3)

    def forward(self, features: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch 3"]:
        return self.after_first(self.net[0](features))

    def after_first(self, hidden: Float[Tensor, "*batch H"]) -> Float[Tensor, "*batch 3"]:
        """As `forward`, from what the first layer gave, which is overwritten."""
        return after_first(self.net, hidden).sigmoid()
