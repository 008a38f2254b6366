"""Vision transformers (Dosovitskiy et al. 2021) that DINO (Caron et al. 2021) trained: frozen features of photographs.

Shapes: B pictures, L = 1 + h * w tokens (of the class, then of the patches row by row), D width, e heads of E = D / e.
Parameters are named as in Hugging Face's `transformers`, whose pooler, which nobody reads, is left out.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.metrics.pretrained import in_hub_folder, missing, read_weights
from core.training.checkpoint import CheckpointError, load_weights

WIDTHS = {"s": (384, 6), "b": (768, 12)}
"""Of the small and the base transformer: width and number of heads."""
FILES = {
    "dino-vits8": "dino_deitsmall8_pretrain",
    "dino-vits16": "dino_deitsmall16_pretrain",
    "dino-vitb8": "dino_vitbase8_pretrain",
    "dino-vitb16": "dino_vitbase16_pretrain",
}
"""What the authors call the backbone's weights."""
ADDRESS = "https://dl.fbaipublicfiles.com/dino/{0}/{0}.pth"


class Embeddings(nn.Module):
    """Patches, a class token before them, and learned positions, those of a square picture of `image_size`."""

    def __init__(self, hidden_size: int, image_size: int, patch_size: int):
        super().__init__()
        self.side = image_size // patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + self.side**2, hidden_size))
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, hidden_size, patch_size, patch_size)})
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.position_embeddings, std=0.02)

    def forward(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B L D"]:
        patches = self.patch_embeddings["projection"](pictures)
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls_token.to(tokens.dtype).expand(len(tokens), -1, -1), tokens), dim=1)
        return tokens + self.positions(patches.shape[2], patches.shape[3])

    def positions(self, height: int, width: int) -> Float[Tensor, "1 L D"]:
        """Interpolated for patches of another number than those that were learned."""
        if (height, width) == (self.side, self.side):
            return self.position_embeddings
        of_class, of_patches = self.position_embeddings.split((1, self.side**2), dim=1)
        grid = of_patches.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
        return torch.cat((of_class, grid.flatten(2).transpose(1, 2)), dim=1)


class Attention(nn.Module):
    """Every token looks at every token; the names nest as the published weights' do."""

    def __init__(self, hidden_size: int, num_attention_heads: int, qkv_bias: bool):
        super().__init__()
        self.num_heads = num_attention_heads
        names = ("query", "key", "value")
        self.attention = nn.ModuleDict({name: nn.Linear(hidden_size, hidden_size, qkv_bias) for name in names})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden_size, hidden_size)})

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        projected = (layer(tokens) for layer in self.attention.values())
        queries, keys, values = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in projected)
        found = F.scaled_dot_product_attention(queries, keys, values)
        return self.output["dense"](found.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and a net of two layers with GELU, each on a residual branch behind a layer norm."""

    def __init__(self, hidden_size: int, heads: int, intermediate_size: int, layer_norm_eps: float, qkv_bias: bool):
        super().__init__()
        self.attention = Attention(hidden_size, heads, qkv_bias)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden_size, intermediate_size)})
        self.output = nn.ModuleDict({"dense": nn.Linear(intermediate_size, hidden_size)})
        self.layernorm_before = nn.LayerNorm(hidden_size, layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(hidden_size, layer_norm_eps)

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        tokens = tokens + self.attention(self.layernorm_before(tokens))
        hidden = F.gelu(self.intermediate["dense"](self.layernorm_after(tokens)))
        return tokens + self.output["dense"](hidden)


class VisionTransformer(nn.Module):
    """Tokens of all patches, after the last layer norm; arguments are called as in Hugging Face's configurations."""

    def __init__(
        self,
        hidden_size: int = 384,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 6,
        intermediate_size: int = 1536,
        image_size: int = 224,
        patch_size: int = 8,
        layer_norm_eps: float = 1e-12,
        qkv_bias: bool = True,
    ):
        super().__init__()
        self.hidden_size, self.patch_size = hidden_size, patch_size
        sizes = (hidden_size, num_attention_heads, intermediate_size)
        layers = [Layer(*sizes, layer_norm_eps, qkv_bias) for _ in range(num_hidden_layers)]
        self.embeddings = Embeddings(hidden_size, image_size, patch_size)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self.layernorm = nn.LayerNorm(hidden_size, layer_norm_eps)

    def forward(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B L D"]:
        tokens = self.embeddings(pictures)
        for layer in self.encoder["layer"]:
            tokens = layer(tokens)
        return self.layernorm(tokens)


class DINOEncoder(nn.Module):
    """The frozen tokens of the patches as features; `resolution` (h, w) must be a multiple of the patch size.

    Pictures are in [-1, 1], as SlotDiffusion gives them; DINO itself was trained with the mean and the deviation of
    ImageNet. It begins untrained: see `load_dino`.
    """

    def __init__(self, dino: VisionTransformer, resolution: tuple[int, int]):
        if any(length % dino.patch_size for length in resolution):
            raise ValueError(f"resolution={tuple(resolution)} does not divide into patches of {dino.patch_size} pixels")
        super().__init__()
        self.dino = dino.requires_grad_(False)
        self.channels = dino.hidden_size
        self.grid: tuple[int, int] = (resolution[0] // dino.patch_size, resolution[1] // dino.patch_size)
        """Rows and columns of the features."""

    @torch.no_grad()
    def forward(self, pictures: Float[Tensor, "S 3 H W"]) -> Float[Tensor, "S C h w"]:
        # [S, h, w, C] is channels-last memory of [S, C, h, w].
        return self.dino(pictures)[:, 1:].unflatten(1, self.grid).permute(0, 3, 1, 2)


def build_dino(name: str, resolution: tuple[int, int]) -> DINOEncoder:
    """`dino-vits8` and its like, untrained. Raises ValueError for another name."""
    if name not in FILES:
        raise ValueError(f"dino={name!r} is not one of {', '.join(FILES)}")
    width, heads = WIDTHS[name[len("dino-vit")]]
    patch_size = int(name[len("dino-vits") :])
    return DINOEncoder(VisionTransformer(width, 12, heads, 4 * width, patch_size=patch_size), resolution)


def load_dino(encoder: DINOEncoder, name: str, path: Path | None = None) -> None:
    """Load the published weights of `name`, the authors' file or Hugging Face's pytorch_model.bin.

    Without a path the authors' file is looked for in torch hub's cache. Raises MissingWeightsError if it is not there,
    CheckpointError if the file is absent, damaged, or of another transformer.
    """
    file = f"{FILES[name]}.pth"
    path = path or in_hub_folder(file)
    if path is None:
        raise missing(f"the encoder {name}", [(file, ADDRESS.format(FILES[name]))])
    state = read_weights(path)
    state = _from_authors(state) if "patch_embed.proj.weight" in state else _from_hugging_face(state)
    if not state:
        raise CheckpointError(f"{path}: holds no vision transformer, neither DINO's own nor Hugging Face's")
    load_weights(encoder.dino, state, path)


def _from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bare or as part of a larger model; the pooler is dropped."""
    keys = {key: re.search(r"(?:^|\.)((?:embeddings|encoder\.layer|layernorm)\..+)", key) for key in state}
    return {found[1]: state[key] for key, found in keys.items() if found}


_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "blocks": "encoder.layer",
    "norm": "layernorm",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""Parts of the authors' names."""


def _from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their matrices of queries, keys and values are one."""
    pattern, result = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in _NAMES)), {}
    for key, value in state.items():
        renamed = pattern.sub(lambda found: _NAMES[found[0]], key)
        if "attn.qkv" not in renamed:
            result[renamed] = value
            continue
        for name, part in zip(("query", "key", "value"), value.chunk(3)):
            result[renamed.replace("attn.qkv", f"attention.attention.{name}")] = part
    return result
