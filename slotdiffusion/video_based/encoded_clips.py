"""Clips with what a frozen autoencoder says of their frames, which is asked once, not at every step.

There is no augmentation, so nothing is lost. A frame of 128x128 pixels takes 12 kB as latents, 4 kB as words.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int32, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from core.data.cache import cached_rows
from core.data.clip_reader import ClipReader
from core.data.clips import cut_clips
from core.data.loader import Batch, BatchSource
from core.data.video import stamp
from core.training.checkpoint import CheckpointError, load_weights
from slotdiffusion.models.latent_diffusion import build_vae
from slotdiffusion.models.vqvae import VQVAE, FrozenVQVAE, load_vqvae
from slotformer import original
from slotformer.base_slots.models.dvae import DOWN_FACTOR, dVAE
from slotformer.framework.params import BaseParams

Encoder = Callable[[Float[Tensor, "F 3 H W"]], Float[Tensor, "F C h w"] | Int32[Tensor, "F L"]]
"""Of frames in [-1, 1]."""


class EncodedClips:
    """`clips` that also give `key`, (n, T, *shape): what an encoder has said of the frames, which `codes` holds.

    codes: [V, L, *shape] of all frames of all videos.
    """

    def __init__(self, clips: ClipReader, key: str, codes: np.ndarray):
        self.source = clips
        self.key = key
        self.codes = codes
        self.path = clips.path

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: np.ndarray) -> Batch:
        """The samples of `indices`, in that order."""
        source = self.source
        codes = cut_clips(self.codes, source.clips[indices], source.num_frames, source.frame_offset)
        return {**source.read(indices), self.key: torch.from_numpy(codes)}


def encoded_clips(params: BaseParams, clips: ClipReader, frames: ClipReader) -> BatchSource:
    """`clips` with `latents` for SAViDiffusion, with `token_id` for STEVE; as they are for other models.

    `frames` are the videos that they are cut from. What is not in the cache yet is made now, on the GPU if there is
    one. Where the weights of the autoencoder are not there, clips stay as they are, too: a fresh training needs them
    and says so, a continued one has them in its checkpoint.
    """
    model = read_autoencoder(params)
    if model is None:
        return clips
    height, width = params.resolution
    if params.model == "STEVE":

        def tokenize(pictures: Float[Tensor, "F 3 H W"]) -> Int32[Tensor, "F L"]:
            return model.tokenize(pictures).flatten(1).int()

        words = (height // DOWN_FACTOR) * (width // DOWN_FACTOR)
        return EncodedClips(clips, "token_id", encoded_once(frames, "words", model, tokenize, (words,), np.int32))
    shape = (model.quantize.embedding.embedding_dim, height // model.factor, width // model.factor)
    codes = encoded_once(frames, "latents", model, FrozenVQVAE(model).encode, shape, np.float32)
    return EncodedClips(clips, "latents", codes)


def autoencoder_path(params: BaseParams) -> Path | None:
    """The weights of the frozen autoencoder that the configuration names; None where there are none."""
    if params.model == "STEVE":
        path = params.dvae_dict.get("dvae_ckp_path")
    elif params.model == "SAViDiffusion":
        path = params.dec_dict.get("vae_dict", {}).get("vqvae_ckp_path")
    else:
        path = None
    return Path(path) if path and Path(path).is_file() else None


def read_autoencoder(params: BaseParams) -> VQVAE | dVAE | None:
    """It, with its trained weights; None where there are none."""
    path = autoencoder_path(params)
    if path is None:
        return None
    if params.model == "STEVE":
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
    own = model.dvae if params.model == "STEVE" else model.dm_decoder.vae.vqvae
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


def encoded_once(
    frames: ClipReader, what: str, model: nn.Module, encode: Encoder, shape: tuple[int, ...], kind: type
) -> np.ndarray:
    """Read-only memory map [V, L, *shape] of `encode(frame)`, made on the first call with these weights and frames."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    length, count = frames.num_frames, len(frames)
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    is_there = False

    @torch.inference_mode()
    def rows(begin: int, end: int) -> UInt8[np.ndarray, "R S"]:
        nonlocal is_there
        if not is_there:
            tqdm.write(
                f"{frames.path}: {what} of {count * length:,} frames are kept; --set cache_latents=False goes without"
            )
            model.to(device)
            is_there = True
        videos = np.arange(begin // length, (end - 1) // length + 1)
        pictures = frames.read(videos)["video"].flatten(0, 1)[begin - videos[0] * length :][: end - begin]
        found = encode(2 * pictures.to(device).float().div_(255) - 1)
        return found.cpu().contiguous().numpy().astype(kind, copy=False).reshape(end - begin, -1).view(np.uint8)

    height, width = frames.image_size
    stamped = stamp(frames.path, frames.sources, frames.stems)
    recipe = f"{what}-{height}x{width}-{weights_digest(model)[:16]}-{stamped}"
    stored = cached_rows(frames.path, recipe, (count * length, size), rows)
    return stored.view(kind).reshape(count, length, *shape)
