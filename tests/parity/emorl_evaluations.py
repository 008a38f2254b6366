"""EfficientMORL's evaluation routines, DCI and the ClevrTex statistics against the original's."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import torch
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from torch import nn

from core.data.multi_object_h5 import MultiObjectH5
from core.data.safe_pickle import load_pickle
from core.metrics.clevrtex import clevrtex_statistics
from core.metrics.disentanglement import completeness, dci, disentanglement, fit_dci
from core.nn.noise import Noise
from emorl.evals import latents, sample_viz
from emorl.evals.task import Task
from tests.parity.emorl_metrics import close
from tests.parity.golden import Case


def recorded(case: Case, routine: str):
    """The draws of a routine, image by image."""

    def of_images(indices: range) -> Noise:
        prefix = f"in/noise/{routine}/{{}}/"
        return lambda name, shape: torch.cat(
            [case[prefix.format(index) + name].view(1, *shape[1:]) for index in indices]
        )

    return of_images


def check_routines(case: Case, model: nn.Module, tmp_path: Path) -> None:
    """z_range.txt, activeness.npy, the traversal and rinfo_0.pkl, through the files that they are written to."""
    images, test = case.arrays["in/image_u8"], case.info["test"]
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["test/imgs"] = images
        file["test/masks"] = np.moveaxis(case.arrays["in/true_masks"], 2, -1)
    task = Task(
        model=model.eval(),
        source=MultiObjectH5(tmp_path / "images.h5", "test", masks=True),
        folder=tmp_path,
        device=torch.device("cpu"),
        noise=recorded(case, "preprocessing"),
        range_images=len(images),
        num_images=1,
        slot=test["disentangle_slot"],
        as_original=True,
    )
    latents.preprocess(task)
    lines = (tmp_path / "z_range.txt").read_text().splitlines()
    ranges = np.array([[float(number) for number in line.split(",")] for line in lines])
    close(ranges, case["out/z_range"])
    for line, theirs in zip(lines, case.info["z_range_txt_first_lines"]):
        np.testing.assert_allclose(*([float(number) for number in text.split(",")] for text in (line, theirs)), 1e-4)

    latents.measure_activeness(replace(task, noise=recorded(case, "activeness")), case["in/activeness_slot"])
    ours = np.load(tmp_path / "activeness.npy")
    assert ours.dtype == np.float32
    close(ours, case["out/activeness"])
    # The values are about 1e-5, the advised absolute tolerance; they agree far better than that.
    np.testing.assert_allclose(ours, case.arrays["out/activeness"], rtol=2e-2, atol=1e-9)

    latents.traverse_slot(replace(task, noise=recorded(case, "viz")))
    close(np.load(tmp_path / f"slots_{task.slot}_disentanglement.npy"), case["out/viz/slots_disentanglement"])
    close(np.load(tmp_path / "masks.npy"), case["out/viz/masks"])
    close(np.load(tmp_path / "ground_truth.npy"), case["out/viz/ground_truth"])

    sample_viz.export(replace(task, noise=recorded(case, "sample_viz")))
    rinfo = load_pickle(tmp_path / "rinfo_0.pkl")
    theirs = case.tensors("out/rinfo/")
    assert theirs
    for key, value in theirs.items():
        part, name = key.split("/")
        assert rinfo[part][name].dtype == np.float32
        assert rinfo[part][name].shape == tuple(value.shape)
        close(rinfo[part][name], value)


def check_dci(case: Case, tmp_path: Path) -> None:
    """DCI as the original computes it, and with the estimator that suits each factor."""
    data = [case.arrays[f"in/{name}"].T for name in ("codes_train", "factors_train", "codes_test", "factors_test")]
    discrete = [kind == "discrete" for kind in case.info["factor_types"]]
    for seed, (scores, importance) in enumerate(
        zip(case.arrays["out/legacy/scores"], case.arrays["out/legacy/importance"])
    ):
        ours = dci(*data, discrete, seed=seed, as_original=True)
        found = (ours.informativeness_train, ours.informativeness_test, ours.disentanglement, ours.completeness)
        np.testing.assert_allclose(found, scores, atol=1e-6)
        np.testing.assert_allclose(ours.importance, importance, atol=1e-6)

    for seed, importance in enumerate(case.arrays["out/per_factor/importance"]):
        theirs = case.arrays[f"out/per_factor/scores_seed{seed}"]
        stream = np.random.RandomState(seed)
        kinds = (GradientBoostingClassifier if category else GradientBoostingRegressor for category in discrete)
        ours = fit_dci([kind(random_state=stream) for kind in kinds], *data, num_workers=1, exact_match=True)
        found = (ours.informativeness_train, ours.informativeness_test, ours.disentanglement, ours.completeness)
        np.testing.assert_allclose(found, theirs, atol=1e-6)
        np.testing.assert_allclose(ours.importance, importance, atol=1e-6)
        np.testing.assert_allclose(ours.train_scores, case.arrays[f"out/per_factor/train_acc_seed{seed}"], atol=1e-6)
        np.testing.assert_allclose(ours.test_scores, case.arrays[f"out/per_factor/test_acc_seed{seed}"], atol=1e-6)
        # Ours by default: another stream of random numbers per factor, which matters for ties only, and R2.
        default = dci(*data, discrete, seed=seed, num_workers=1)
        np.testing.assert_allclose((default.disentanglement, default.completeness), theirs[2:], atol=0.03)
        np.testing.assert_allclose(default.test_scores[discrete], ours.test_scores[discrete], atol=0.03)

    matrices = case.tensors("in/matrix/")
    assert matrices
    for name, matrix in matrices.items():
        found = (disentanglement(matrix.numpy()), completeness(matrix.numpy()))
        np.testing.assert_allclose(found, case.arrays[f"out/matrix/{name}"], atol=1e-9)


def check_clevrtex(case: Case, tmp_path: Path) -> None:
    """The running means after every update."""
    values: dict[str, list[torch.Tensor]] = {}
    num_updates = len({key.split("/")[1] for key in case.arrays if key.startswith("in/")})
    assert num_updates
    for update in range(num_updates):
        inputs = case.tensors(f"in/{update}/")
        masks, labels = inputs["pred_masks"].flatten(1, -3), inputs["true_labels"].flatten(1, -3)[:, 0]
        statistics = clevrtex_statistics(inputs["pred_image"], masks, inputs["true_image"], labels)
        for name, of_images in statistics.items():
            values.setdefault(name, []).append(of_images)
        for name, mean in case.tensors(f"out/{update}/").items():
            close(torch.cat(values[name]).mean(), mean, rtol=1e-5, atol=1e-9)
