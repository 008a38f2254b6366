"""Checks of SlotDiffusion's scores of segmentations and of pictures."""

from pathlib import Path

from core.metrics.reconstruction import reconstruction_scores
from core.metrics.segmentation import segmentation_scores
from tests.parity.golden import Case, Check
from tests.parity.slotdiffusion_cases import close


def check_segmentation(case: Case, tmp_path: Path) -> None:
    """Means over the batch, where a flag stands beside a NaN recorded as 0; of single samples NaN is recorded as -1."""
    names = {name.rpartition("/")[0] for name in case.tensors("in/")}
    assert names
    for name in names:
        given, recorded = case.tensors(f"in/{name}/"), set(case.tensors(f"out/{name}/"))
        scores = segmentation_scores(given["gt"], given["pred"], given.get("overlap"), as_original=True)
        for score, values in scores.items():
            mean = values.nanmean()
            ours = {
                score: mean.nan_to_num(),
                f"{score}_isnan": mean.isnan(),
                f"{score}_per_sample": values.nan_to_num(nan=-1.0),
            }
            for key in recorded & ours.keys():
                close(case, f"{name}/{key}", ours[key])
            recorded -= ours.keys()
        assert not recorded


def check_pictures(case: Case, tmp_path: Path) -> None:
    given = case.tensors("in/")
    truth = given.pop("gt")
    recorded = set(case.tensors("out/"))
    for name, recon in given.items():
        for score, values in reconstruction_scores(recon, truth).items():
            close(case, f"{name}/{score}", values.mean())
            recorded.remove(f"{name}/{score}")
    assert not recorded


CHECKS: dict[str, Check] = {
    "metrics-img": check_pictures,
    "metrics-seg": check_segmentation,
}
