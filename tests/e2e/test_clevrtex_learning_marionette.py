"""MarioNette rebuilds pictures from sprites that it has learnt."""

import sys
from pathlib import Path

import pytest
import torch

from core.metrics.segmentation import foreground_ari, foreground_ari_of_blocks
from core.runs import load_model
from tests.clevrtex_runs import losses
from tests.conftest import Runner
from tests.learning_scores import held_out, visible_objects
from tests.toy_sprites import write_multi_dsprites

# On black, which is given: a learnt background takes the objects' colour, and black sprites hide it elsewhere.
DATA = "multi_dsprites-bbg"
SIZES = ("--canvas_size", 32, "--background", 0, "--layer_size", 4, "--num_layers", 1, "--num_classes", 16)
# A tenth of the published penalty on undecided choices: sprites need time to form before one is chosen.
RATE = ("--dim_z", 32, "--bs", 8, "--num_steps", 2500, "--lr", 1e-3, "--w_beta", 2e-4)


@pytest.mark.slow
def test_rebuilds_pictures(run: Runner, tmp_path: Path) -> None:
    """Two minutes on quiet cores."""
    write_multi_dsprites(tmp_path, count=3000, overlap=False)
    words = (sys.executable, "-m", "clevrtex.marionet.train", "--data", DATA, "--data_root", tmp_path)
    done = run(*words, *SIZES, *RATE, "--checkpoint_dir", tmp_path / "run", "--num_worker_threads", 0, timeout=3600)
    assert done.returncode == 0, done.stderr
    curve = losses(tmp_path / "run")
    begin, end = sum(curve[:50]) / 50, sum(curve[-50:]) / 50
    model, _ = load_model(tmp_path / "run")
    batch = held_out(f"{DATA}-(32,32)", tmp_path)
    image, masks = batch["image"], batch["mask"].long()
    torch.manual_seed(0)
    with torch.no_grad():
        found = model.decompose(batch)
    error = float((found.recon - image).square().mean())
    of_mean = float((image.mean(dim=0) - image).square().mean())
    of_background = float(image.square().mean())
    several = visible_objects(masks) > 1  # one object alone is not told apart from others
    score = float(foreground_ari(masks[several], found.masks[several].argmax(dim=1)).mean())
    baseline = float(foreground_ari_of_blocks(masks[several]))
    print(f"loss {begin:.4f} to {end:.4f}, FG-ARI {score:.3f}, blocks {baseline:.3f}")
    print(f"squared error {error:.4f}, of the mean picture {of_mean:.4f}, of the background {of_background:.4f}")
    assert end < begin / 3
    assert error < of_mean / 4
    assert error < of_background / 4
    assert score > baseline + 0.08
