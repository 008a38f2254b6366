"""The encoders of SRT (Sajjadi et al. 2022a) and OSRT (Sajjadi et al. 2022b): from posed views to a set of latents."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from osrt.models.encodings import RayEncoder
from osrt.models.linear import linear
from osrt.models.recomputation import again
from osrt.models.slot_attention import SlotAttention
from osrt.models.transformer import Transformer


class ConvBlock(nn.Module):
    """Two 3x3 convolutions without bias, each followed by ReLU; the second halves the picture."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden_channels, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden_channels, out_channels, 3, stride=2, padding=1, bias=False),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        return self.layers(features)


class PosedConvBlock(ConvBlock):
    """A block whose input has channels that are the same for all pixels of a picture, given apart.

    They come after the first `num_before` of the others. What a convolution makes of them is the same for all pixels
    but at the border, where the padding counts: nine numbers per picture and channel.
    """

    def __init__(self, num_before: int, num_constant: int, num_after: int, hidden_channels: int, out_channels: int):
        super().__init__(num_before + num_constant + num_after, hidden_channels, out_channels)
        self.sections = num_before, num_constant, num_after

    def forward(self, features: Float[Tensor, "N C H W"], constant: Float[Tensor, "N P"]) -> Float[Tensor, "N D h w"]:
        """`features` are the channels that vary."""
        before, shared, after = self.layers[0].weight.split(self.sections, dim=1)
        found = F.conv2d(features, torch.cat((before, after), dim=1), padding=1)
        # By kernel element (y, x), then by pixel: an element counts where it meets the picture.
        by_element = torch.einsum("np,opyx->nyxo", constant.to(shared.dtype), shared)
        rows, columns = (_meets_picture(size, by_element) for size in features.shape[2:])
        by_pixel = torch.einsum("hy,nyxo,wx->nhwo", rows, by_element, columns)
        found = found.add_(by_pixel.permute(0, 3, 1, 2))
        return self.layers[1:](found)


def _meets_picture(size: int, like: Tensor) -> Float[Tensor, "{size} 3"]:
    """1 where element j of a kernel of three, at place i, lies inside; else 0."""
    places = torch.arange(size, device=like.device)[:, None] + torch.arange(-1, 2, device=like.device)
    return ((places >= 0) & (places < size)).to(like.dtype)


class SRTEncoder(nn.Module):
    """SRT's improved encoder: convolutions of each view with its rays, then a transformer over the tokens of all views.

    A view becomes ceil(H / 2^n) ceil(W / 2^n) tokens of width `dim`, in rows, and views follow one another.
    he_init: convolutions begin as He et al. (2015) have it. As published each makes its input smaller by about the root
    of six, and after six of them what scenes differ in is a thousandth of a token: small models then learn the mean
    picture for thousands of steps.
    """

    def __init__(
        self,
        num_conv_blocks: int = 3,
        num_att_blocks: int = 5,
        pos_start_octave: int = 0,
        *,
        num_octaves: int = 15,
        base_channels: int = 96,
        dim: int = 768,
        num_heads: int = 12,
        dim_head: int = 64,
        mlp_dim: int = 1536,
        he_init: bool = False,
    ):
        super().__init__()
        self.out_features = dim
        self.ray_encoder = RayEncoder(num_octaves, pos_start_octave, num_octaves)
        encodings = (self.ray_encoder.pos_encoding.out_features, self.ray_encoder.ray_encoding.out_features)
        width = 2 * base_channels
        self.conv_blocks = nn.ModuleList([PosedConvBlock(3, *encodings, base_channels, width)])
        for _ in range(num_conv_blocks - 1):
            self.conv_blocks.append(ConvBlock(width, width, 2 * width))
            width *= 2
        self.per_patch_linear = nn.Conv2d(width, dim, 1)
        self.transformer = Transformer(dim, num_att_blocks, num_heads, dim_head, mlp_dim)
        if he_init:
            for layer in (*self.conv_blocks.modules(), self.per_patch_linear):
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(
        self,
        images: Float[Tensor, "B V 3 H W"],
        camera_pos: Float[Tensor, "B V 3"],
        rays: Float[Tensor, "B V H W 3"],
        checkpointing: bool = False,
    ) -> Float[Tensor, "B N D"]:
        """`checkpointing` computes each block again in the backward pass, which changes no number and saves memory."""
        directions = self.ray_encoder.ray_encoding(rays)
        # In memory channels come last from the beginning.
        features = torch.cat((images.movedim(2, -1), directions), dim=-1).flatten(0, 1).permute(0, 3, 1, 2)
        position = self.ray_encoder.pos_encoding(camera_pos).flatten(0, 1)
        first, *others = self.conv_blocks
        features = again(first, features, position, when=checkpointing)
        for block in others:
            features = again(block, features, when=checkpointing)
        patches = features.permute(0, 2, 3, 1).unflatten(0, images.shape[:2]).flatten(1, 3)
        tokens = linear(patches, self.per_patch_linear.weight.flatten(1), self.per_patch_linear.bias)
        return self.transformer(tokens, checkpointing=checkpointing)


class OSRTEncoder(nn.Module):
    """SRT's encoder and slot attention on its tokens: a slot for each object, it is hoped."""

    def __init__(
        self,
        pos_start_octave: int = 0,
        num_slots: int = 6,
        slot_dim: int = 1536,
        slot_iters: int = 1,
        *,
        slot_hidden_dim: int = 3072,
        **srt_options: int | bool,
    ):
        super().__init__()
        self.out_features = slot_dim
        self.srt_encoder = SRTEncoder(pos_start_octave=pos_start_octave, **srt_options)
        self.slot_attention = SlotAttention(
            num_slots, self.srt_encoder.out_features, slot_dim, slot_hidden_dim, slot_iters
        )

    def forward(
        self,
        images: Float[Tensor, "B V 3 H W"],
        camera_pos: Float[Tensor, "B V 3"],
        rays: Float[Tensor, "B V H W 3"],
        checkpointing: bool = False,
    ) -> Float[Tensor, "B K D"]:
        return self.slot_attention(self.srt_encoder(images, camera_pos, rays, checkpointing))
