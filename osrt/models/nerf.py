"""A volume behind the latents: densities and colours along rays (Mildenhall et al. 2020), as SRT's authors tried."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from osrt.models.decoder import Decoder, Prepared, Rendered
from osrt.models.encodings import PositionalEncoding
from osrt.models.linear import DecoderLinear
from osrt.models.transformer import Transformer


def stratified_depths(
    near: float,
    far: Float[Tensor, "*rays"],
    offsets: Float[Tensor, "*rays S"],
) -> Float[Tensor, "*rays S"]:
    """One distance in each of S equal parts of [near, far]; `offsets` in [0, 1] say where in its part it lies."""
    count = offsets.shape[-1]
    parts = (torch.arange(count, device=offsets.device) + offsets) / count
    return near + (far - near)[..., None] * parts


def distance_to_floor(
    camera_pos: Float[Tensor, "*rays 3"], rays: Float[Tensor, "*rays 3"], far: float, floor: float | None = None
) -> Float[Tensor, "*rays"]:
    """Where rays meet the plane z = `floor`, at most `far`."""
    if floor is None:
        return torch.full_like(rays[..., 2], far)
    distance = (floor - camera_pos[..., 2]) / rays[..., 2]
    return torch.where((distance > 0) & (distance < far), distance, far)


def points_at(
    camera_pos: Float[Tensor, "*rays 3"], rays: Float[Tensor, "*rays 3"], depths: Float[Tensor, "*rays S"]
) -> Float[Tensor, "*rays S 3"]:
    return camera_pos[..., None, :] + depths[..., None] * rays[..., None, :]


def composite(
    depths: Float[Tensor, "*rays S"], density: Float[Tensor, "*rays S"], values: Float[Tensor, "*rays S 3"]
) -> tuple[Float[Tensor, "*rays 4"], Float[Tensor, "*rays"], Float[Tensor, "*rays S"]]:
    """Colour and opacity of each ray, its expected distance, and how its light is spread over the samples.

    The last sample's part reaches to infinity.
    """
    steps = torch.cat((depths.diff(dim=-1), torch.full_like(depths[..., :1], 1e10)), dim=-1)
    passed = torch.exp(-density * steps)
    before = torch.cumprod(passed + 1e-10, dim=-1)
    before = torch.cat((torch.ones_like(before[..., :1]), before[..., :-1]), dim=-1)
    shares = (1 - passed) * before
    colours = (shares[..., None] * values).sum(dim=-2)
    rgba = torch.cat((colours, shares.sum(dim=-1, keepdim=True)), dim=-1)
    return rgba, (shares * depths).sum(dim=-1), shares


def depths_by_shares(
    near: float,
    far: float,
    depths: Float[Tensor, "*rays S"],
    shares: Float[Tensor, "*rays S"],
    quantiles: Float[Tensor, "*rays F"],
) -> Float[Tensor, "*rays F"]:
    """Distances at `quantiles` of the distribution `shares` over `depths`.

    Three quarters of a sample's share belong to the part of the ray before it, the rest to that after it.
    """
    none = torch.zeros_like(shares[..., :1])
    parts = 0.75 * torch.cat((shares, none), dim=-1) + 0.25 * torch.cat((none, shares), dim=-1) + 1e-5
    reached = torch.cat((none, parts.cumsum(dim=-1)), dim=-1)
    ends = torch.full_like(none, near), torch.full_like(none, far)
    edges = torch.cat((ends[0], depths, ends[1]), dim=-1)
    index = torch.searchsorted(reached, quantiles.contiguous(), right=True).clamp(1, parts.shape[-1])
    low, high = reached.gather(-1, index - 1), reached.gather(-1, index)
    within = (quantiles - low) / (high - low)
    start, stop = edges.gather(-1, index - 1), edges.gather(-1, index)
    return start + within.clamp(0, 1) * (stop - start)


class NeRFNet(nn.Module):
    """Density and colour at points that look at the latents of their scene."""

    def __init__(
        self,
        num_att_blocks: int,
        pos_start_octave: int,
        max_density: float | None,
        num_octaves: int,
        latent_dim: int,
        num_heads: int,
        dim_head: int,
        mlp_dim: int,
    ):
        super().__init__()
        self.max_density = max_density
        self.pos_encoding = PositionalEncoding(num_octaves, pos_start_octave)
        self.ray_encoding = PositionalEncoding(num_octaves)
        width = self.pos_encoding.out_features
        self.transformer = Transformer(width, num_att_blocks, num_heads, dim_head, mlp_dim, kv_dim=latent_dim)
        self.color_predictor = nn.Sequential(
            DecoderLinear(width - 1 + self.ray_encoding.out_features, 256), nn.ReLU(), DecoderLinear(256, 3)
        )

    def forward(
        self, prepared: Prepared, points: Float[Tensor, "B P S 3"], rays: Float[Tensor, "B P S 3"]
    ) -> tuple[Float[Tensor, "B P S"], Float[Tensor, "B P S 3"]]:
        found = self.transformer(self.pos_encoding(points).flatten(1, 2), prepared).unflatten(1, points.shape[1:3])
        density = found[..., 0].float()
        density = density.sigmoid() * self.max_density if self.max_density else density.relu()
        features = torch.cat((found[..., 1:], self.ray_encoding(rays).to(found.dtype)), dim=-1)
        return density, self.color_predictor(features).float().sigmoid()


class NeRFDecoder(Decoder):
    """Renders a volume twice: from samples spread evenly, then from these and others where the first found matter.

    `max_density` > 0 bounds the density by a sigmoid. `as_original` gives samples the directions of other rays, as
    the original code does, which tiles the directions of all rays where it should repeat each.
    """

    render_options = ("min_dist", "max_dist", "num_coarse_samples", "num_fine_samples")

    def __init__(
        self,
        num_att_blocks: int = 2,
        pos_start_octave: int = 0,
        max_density: float | None = None,
        *,
        as_original: bool = False,
        num_octaves: int = 15,
        latent_dim: int = 768,
        num_heads: int = 12,
        dim_head: int = 64,
        mlp_dim: int = 1536,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.as_original = as_original
        sizes = (num_octaves, latent_dim, num_heads, dim_head, mlp_dim)
        self.coarse_net = NeRFNet(num_att_blocks, pos_start_octave, max_density, *sizes)
        self.fine_net = NeRFNet(num_att_blocks, pos_start_octave, max_density, *sizes)

    def rows_per_ray(self, prepared: Prepared, **render_options: float) -> int:
        return self.num_draws(**render_options)

    def num_draws(self, num_coarse_samples: int = 128, num_fine_samples: int = 64, **render_options: float) -> int:
        """One for each sample."""
        return num_coarse_samples + num_fine_samples

    def prepare(self, latents: Float[Tensor, "B S Z"]) -> Prepared:
        return *self.coarse_net.transformer.prepare(latents), *self.fine_net.transformer.prepare(latents)

    def forward(
        self,
        prepared: Prepared,
        camera_pos: Float[Tensor, "B P 3"],
        rays: Float[Tensor, "B P 3"],
        min_dist: float = 0.035,
        max_dist: float = 35.0,
        num_coarse_samples: int = 128,
        num_fine_samples: int = 64,
        draws: Float[Tensor, "B P S"] | None = None,
    ) -> Rendered:
        """Colours on a white ground and expected distances.

        draws: in [0, 1], where coarse samples lie in their parts of the ray and which quantiles the fine ones are;
        without them the middles, and quantiles at equal steps.
        """
        if draws is None:
            offsets = rays.new_full((*rays.shape[:2], num_coarse_samples), 0.5)
            quantiles = torch.linspace(0, 1, num_fine_samples, device=rays.device).expand(*rays.shape[:2], -1)
        else:
            offsets, quantiles = draws.split((num_coarse_samples, num_fine_samples), dim=-1)
        middle = len(prepared) // 2
        with torch.no_grad():
            depths = stratified_depths(min_dist, distance_to_floor(camera_pos, rays, max_dist), offsets)
        coarse, coarse_distance, shares = self._render(self.coarse_net, prepared[:middle], camera_pos, rays, depths)
        with torch.no_grad():
            fine = depths_by_shares(min_dist, max_dist, depths, shares.detach(), quantiles)
            depths = torch.cat((depths, fine), dim=-1).sort(dim=-1).values
        pixels, distance, _ = self._render(self.fine_net, prepared[middle:], camera_pos, rays, depths)
        return Rendered(pixels, None, distance, coarse, coarse_distance)

    def _render(
        self,
        net: NeRFNet,
        prepared: Prepared,
        camera_pos: Float[Tensor, "B P 3"],
        rays: Float[Tensor, "B P 3"],
        depths: Float[Tensor, "B P S"],
    ) -> tuple[Float[Tensor, "B P 3"], Float[Tensor, "B P"], Float[Tensor, "B P S"]]:
        count = depths.shape[-1]
        if self.as_original:
            directions = rays.repeat(1, count, 1).unflatten(1, (*rays.shape[1:2], count))
        else:
            directions = rays[:, :, None].expand(-1, -1, count, -1)
        density, colours = net(prepared, points_at(camera_pos, rays, depths), directions)
        rgba, distance, shares = composite(depths, density, colours)
        # The shares weigh the colours already; the original weighs them by the opacity once more.
        return rgba[..., 3:] * rgba[..., :3] + (1 - rgba[..., 3:]), distance, shares
