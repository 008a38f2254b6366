"""SPAIR counts objects, and tells them apart, without having been told of any."""

from pathlib import Path

import pytest
import torch

from core.metrics.segmentation import foreground_ari, foreground_ari_of_blocks
from core.runs import load_model
from tests.clevrtex_runs import losses
from tests.conftest import Runner
from tests.learning_scores import best_constant_count, count_scores, held_out, visible_objects
from tests.toy_sprites import write_multi_dsprites

# On black: objects begin grey, so that on grey it does not show where they ought to be.
DATA = "multi_dsprites-bbg"
SIZES = ("--nolarge", "--bg_dim", 0, "--patch_shape", 8, "--what_dim", 16, "--batch_size", 8)
# Objects become dear in the end, unlike under the published prior: else several cells share one in so short a run.
PRIORS = ("--prior", "itr_lin(1000,.99,.001)", "--beta_what", 1, "--beta_depth", 1)
RATE = ("--max_steps", 4000, "--learning_rate", 1e-3, "--lr", "none")


@pytest.mark.slow
def test_counts_and_separates_objects(run: Runner, tmp_path: Path) -> None:
    """Three minutes on quiet cores."""
    write_multi_dsprites(tmp_path, count=4000, side=36, most=3, overlap=False)
    words = ("clevrtex/experiments/spair.py", "run", "--data", DATA, "--data_root", tmp_path)
    more = ("--dir", tmp_path / "out", "--resident", "--workers", "no", "--quiet", "--nowatermark")
    done = run(*words, *SIZES, *PRIORS, *RATE, *more, timeout=3600)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out").glob("*/spair/test")
    curve = losses(folder)
    begin, end = sum(curve[:10]) / 10, sum(curve[-10:]) / 10
    model, _ = load_model(folder)
    batch = held_out(DATA, tmp_path)
    masks = batch["mask"].long()
    torch.manual_seed(0)
    with torch.no_grad():
        found = model.decompose(batch)
    true = visible_objects(masks)
    error, share = count_scores(found.extras["counts"], true)
    least_error, largest_share = best_constant_count(true)
    several = true > 1  # one object alone is not told apart from others
    score = float(foreground_ari(masks[several], found.masks[several].argmax(dim=1)).mean())
    baseline = float(foreground_ari_of_blocks(masks[several]))
    print(f"loss {begin:.0f} to {end:.0f}, FG-ARI {score:.3f}, blocks {baseline:.3f}")
    print(f"counts off by {error:.3f}, right {share:.3f}; best constants {least_error:.3f}, {largest_share:.3f}")
    assert end < begin - 1000
    assert error < 0.75 * least_error
    assert share > largest_share + 0.15
    assert score > baseline + 0.05
