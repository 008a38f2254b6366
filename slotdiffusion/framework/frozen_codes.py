"""What a frozen autoencoder says of the training pictures, which it is asked once, not at every step.

Of pictures that training always sees alike; then nothing is lost. One of 128x128 pixels takes 12 kB as latents, 4 kB as
words.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int32, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from core.data.cache import cached_rows
from core.training.checkpoint import CheckpointError, load_weights
from core.training.launch import is_main_process
from slotdiffusion.models.latent_diffusion import build_vae
from slotdiffusion.models.vqvae import VQVAE, FrozenVQVAE, load_vqvae
from slotformer import original
from slotformer.base_slots.models.dvae import DOWN_FACTOR, dVAE
from slotformer.framework.params import BaseParams

OF_WORDS, OF_LATENTS = ("STEVE", "SLATE"), ("SAViDiffusion", "SADiffusion")
"""Models that stand on a dVAE, and on a VQ-VAE."""
Encoder = Callable[[Float[Tensor, "F 3 H W"]], Float[Tensor, "F C h w"] | Int32[Tensor, "F L"]]
"""Of pictures in [-1, 1]."""


class Codes(NamedTuple):
    """How an autoencoder encodes pictures of one size."""

    key: str
    """Of a batch: `latents` or `token_id`."""
    model: nn.Module
    encode: Encoder
    shape: tuple[int, ...]
    """Of the codes of a picture."""
    kind: type

    @property
    def what(self) -> str:
        return "words" if self.key == "token_id" else self.key


def codes_of(params: BaseParams) -> Codes | None:
    """How the frozen autoencoder of the configuration encodes.

    None for models without one, and where its weights are not there: a fresh training needs them and says so, a
    continued one has them in its checkpoint, and a note says that it goes on in another way.
    """
    model = read_autoencoder(params)
    if model is None:
        if (named := named_autoencoder(params)) and is_main_process():
            print(
                f"note: {named[0]}: {named[1] or 'no path'}: no such file. What the frozen autoencoder says of the "
                "training data is computed at every step, not once: slower, and not bit for bit as a training that "
                "began with the file",
                file=sys.stderr,
            )
        return None
    height, width = params.resolution
    if isinstance(model, VQVAE):
        shape = (model.quantize.embedding.embedding_dim, height // model.factor, width // model.factor)
        return Codes("latents", model, FrozenVQVAE(model).encode, shape, np.float32)

    def tokenize(pictures: Float[Tensor, "F 3 H W"]) -> Int32[Tensor, "F L"]:
        return model.tokenize(pictures).flatten(1).int()

    words = (height // DOWN_FACTOR) * (width // DOWN_FACTOR)
    return Codes("token_id", model, tokenize, (words,), np.int32)


def encoded_once(
    codes: Codes, path: Path, recipe: str, count: int, pictures: Callable[[int, int], UInt8[Tensor, "F 3 H W"]]
) -> np.ndarray:
    """Read-only memory map [count, *shape] of the codes of pictures, which `pictures(a, b)` reads from a to b.

    They are made on the first call with these weights, on the GPU if there is one. `recipe` says which pictures those
    of the data set at `path` are, and in what state.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    size = int(np.prod(codes.shape)) * np.dtype(codes.kind).itemsize
    is_there = False

    @torch.inference_mode()
    def rows(begin: int, end: int) -> UInt8[np.ndarray, "R S"]:
        nonlocal is_there
        if not is_there:
            tqdm.write(f"{path}: {codes.what} of {count:,} pictures are kept; --set cache_latents=False goes without")
            codes.model.to(device)
            is_there = True
        found = codes.encode(2 * pictures(begin, end).to(device).float().div_(255) - 1)
        return found.cpu().contiguous().numpy().astype(codes.kind, copy=False).reshape(end - begin, -1).view(np.uint8)

    stored = cached_rows(path, f"{codes.what}-{recipe}-{weights_digest(codes.model)[:16]}", (count, size), rows)
    return stored.view(codes.kind).reshape(count, *codes.shape)


def named_autoencoder(params: BaseParams) -> tuple[str, str | None] | None:
    """The entry of the configuration that names the weights of the frozen autoencoder, and its value.

    None for models without one, such as latent diffusion that denoises the pictures themselves.
    """
    if params.model in OF_WORDS:
        return "dvae_dict.dvae_ckp_path", params.dvae_dict.get("dvae_ckp_path")
    if params.model in OF_LATENTS and (vae_dict := params.dec_dict.get("vae_dict")):
        return "dec_dict.vae_dict.vqvae_ckp_path", vae_dict.get("vqvae_ckp_path")
    return None


def autoencoder_path(params: BaseParams) -> Path | None:
    """The weights of the frozen autoencoder that the configuration names; None where there are none."""
    _, path = named_autoencoder(params) or (None, None)
    return Path(path) if path and Path(path).is_file() else None


def read_autoencoder(params: BaseParams) -> VQVAE | dVAE | None:
    """It, with its trained weights; None where there are none."""
    path = autoencoder_path(params)
    if path is None:
        return None
    if params.model in OF_WORDS:
        model = dVAE(params.dvae_dict["vocab_size"])
        load_weights(model, original.read_weights(path, model), path)
    else:
        model = build_vae(params.dec_dict["vae_dict"], 1.0).vqvae
        load_vqvae(model, path)
    return model.eval()


def check_autoencoder(params: BaseParams, model: nn.Module) -> None:
    """Raises CheckpointError if `model` has another frozen autoencoder than the one whose codes its training reads."""
    trained = read_autoencoder(params) if params.get("cache_latents", True) else None
    if trained is None:
        return
    own = model.dvae if params.model in OF_WORDS else model.dm_decoder.vae.vqvae
    if weights_digest(own) != weights_digest(trained):
        raise CheckpointError(
            f"{autoencoder_path(params)}: holds another autoencoder than the checkpoint of this training. Name the one "
            "that it began with, or give --set cache_latents=False"
        )


def weights_digest(model: nn.Module) -> str:
    """The same for the same weights, whatever file they come from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
