"""The slot mixer: slots are mixed for each ray, and the mixture is rendered (Sajjadi et al. 2022b)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from osrt.models.decoder import Decoder, Prepared, Rendered
from osrt.models.linear import DecoderLinear, linear
from osrt.models.ray_predictor import RayPredictor, RenderMLP


class MixingBlock(nn.Module):
    """How much of each slot a ray sees: softmax over slots of products of what the ray found with the slots.

    `layer_norm` normalises what the ray found, and the mixed slots.
    """

    def __init__(self, query_dim: int, slot_dim: int, layer_norm: bool):
        super().__init__()
        self.to_q = DecoderLinear(query_dim, slot_dim, bias=False)
        self.to_k = DecoderLinear(slot_dim, slot_dim, bias=False)
        if layer_norm:
            self.norm1 = nn.LayerNorm(query_dim)
            self.norm2 = nn.LayerNorm(slot_dim)

    def prepare(self, slots: Float[Tensor, "B K Z"]) -> Float[Tensor, "B K D"]:
        """The slots' keys in the space of what rays find, so that no ray's query need be made."""
        return torch.matmul(self.to_k(slots), self.to_q.weight) * self.to_k.out_features**-0.5

    def forward(self, found: Float[Tensor, "B P D"], keys: Float[Tensor, "B K D"]) -> Float[Tensor, "B P K"]:
        """Weights that sum to one over slots, float32."""
        return torch.bmm(found.to(keys.dtype), keys.transpose(1, 2)).float().softmax(dim=-1)


class SlotMixerDecoder(Decoder):
    """Rays look at the slots, mix them, and an MLP gives the colour of the mixture and the ray.

    The first layer of that MLP is linear in the mixture: without `layer_norm` it acts on the K slots of a scene in
    place of its P rays, with equal numbers.
    """

    def __init__(
        self,
        num_att_blocks: int = 2,
        pos_start_octave: int = 0,
        layer_norm: bool = False,
        *,
        num_octaves: int = 15,
        latent_dim: int = 1536,
        num_heads: int = 12,
        hidden_dim: int = 1536,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.layer_norm = layer_norm
        self.allocation_transformer = RayPredictor(num_att_blocks, pos_start_octave, num_octaves, latent_dim, num_heads)
        query_dim = self.allocation_transformer.out_features
        self.mixing_block = MixingBlock(query_dim, latent_dim, layer_norm)
        self.render_mlp = RenderMLP(latent_dim + query_dim, hidden_dim)

    def prepare(self, latents: Float[Tensor, "B K Z"]) -> Prepared:
        slots = latents if self.layer_norm else linear(latents, self._of_slots())
        return self.mixing_block.prepare(latents), slots, *self.allocation_transformer.prepare(latents)

    def _of_slots(self) -> Float[Tensor, "H Z"]:
        return self.render_mlp.net[0].weight[:, : self.latent_dim]

    def forward(self, prepared: Prepared, camera_pos: Float[Tensor, "B P 3"], rays: Float[Tensor, "B P 3"]) -> Rendered:
        keys, slots, *looked = prepared
        found, queries = self.allocation_transformer(tuple(looked), camera_pos, rays)
        if self.layer_norm:
            found = self.mixing_block.norm1(found)
        weights = self.mixing_block(found, keys)
        mixed = torch.bmm(weights.to(slots.dtype), slots)
        if self.layer_norm:
            mixed = linear(self.mixing_block.norm2(mixed), self._of_slots())
        first = self.render_mlp.net[0]
        mixed = mixed + linear(queries, first.weight[:, self.latent_dim :], first.bias)
        return Rendered(self.render_mlp.after_first(mixed), segmentation=weights)
