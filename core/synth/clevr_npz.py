"""CLEVR with masks as the ClevrTex benchmark stores it: one .npz per picture and a manifest (core/data/clevr.py)."""

import io
import json
from pathlib import Path

import numpy as np

from core.synth import clevr
from core.synth.h5_writer import sample_rng
from core.synth.scene_writer import Files, Options

PER_FOLDER = 10_000


def make_npz(index: int, *, seed: int, samples: int, width: int, height: int, fewest: int, most: int) -> Files:
    """Picture, masks and factors of scene `index`."""
    rng = sample_rng(seed, "clevr", index)
    image, masks, factors = clevr.sample(rng, fewest, most, samples, width, height)
    columns = dict(zip(clevr.FACTOR_NAMES, factors.T))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, image=image, mask=masks[..., None], **columns)
    return {path_of(index): buffer.getvalue()}


def path_of(index: int) -> str:
    return f"{index // PER_FOLDER}/{index}.npz"


def manifest(root: Path, count: int, options: Options) -> Files:
    """manifest_ind.json: the path of every index."""
    return {"manifest_ind.json": json.dumps({str(index): path_of(index) for index in range(count)}).encode()}
