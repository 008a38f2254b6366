"""Scores of predicted videos against scikit-image, scikit-learn and plain loops."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import adjusted_rand_score

from core.metrics.detection import boxes_of_labels
from core.metrics.segmentation import matched_iou
from core.metrics.video_prediction import (
    RunningMean,
    StepMeans,
    confident_labels,
    object_scores,
    picture_scores,
)


def frames(batch=2, steps=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = 2 * torch.rand(batch, steps, 3, 16, 20, generator=generator) - 1
    return truth + 0.4 * torch.randn(truth.shape, generator=generator), truth


def label_videos(batch=3, steps=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 5, (batch, steps, 6, 7), generator=generator)
    wrong = torch.rand(truth.shape, generator=generator) < 0.3
    pred = torch.where(wrong, torch.randint(0, 6, truth.shape, generator=generator), (truth + 1) % 6)
    return pred, truth


def scores_of(pred, truth, **options):
    boxes = boxes_of_labels(truth, 5)[..., 1:, :]
    return object_scores(pred, truth, boxes_of_labels(pred, 7), boxes, boxes[..., 0] >= 0, **options)


def test_pictures_are_scored_frame_by_frame():
    pred, truth = frames()
    scores = picture_scores(pred, truth, lambda x, y: (x - y).abs().mean(dim=(1, 2, 3)))
    assert list(scores) == ["mse", "ssim", "psnr", "percept_dist"]
    for index in np.ndindex(2, 3):
        x, y = ((video[index].double() / 2 + 0.5).clip(0, 1).numpy() for video in (pred, truth))
        found = {name: values[index].item() for name, values in scores.items()}
        assert found["mse"] == pytest.approx(((x - y) ** 2).sum(axis=(1, 2)).mean(), rel=1e-5)
        assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(y, x, data_range=1), rel=1e-5)
        expected = structural_similarity(
            255 * x,
            255 * y,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=0,
        )
        assert found["ssim"] == pytest.approx(expected, abs=1e-5)
        # The perceptual distance sees what the others cut off.
        assert found["percept_dist"] == pytest.approx((pred[index] - truth[index]).abs().mean().item(), rel=1e-5)
    assert "percept_dist" not in picture_scores(pred, truth)
    assert picture_scores(truth, truth)["psnr"].isposinf().all()


def test_a_batch_is_its_videos_one_by_one():
    (pred, truth), (pred_labels, true_labels) = frames(), label_videos()
    whole, whole_objects = picture_scores(pred, truth), scores_of(pred_labels, true_labels, as_original=True)
    for video in range(2):
        one = slice(video, video + 1)
        for name, values in picture_scores(pred[one], truth[one]).items():
            assert torch.equal(values, whole[name][one]), name
        for name, values in scores_of(pred_labels[one], true_labels[one], as_original=True).items():
            assert torch.equal(values, whole_objects[name][one]), name


def loop_confident_labels(masks):
    masks = masks.clone()
    background = min(range(len(masks)), key=lambda slot: masks[slot].max())
    for y, x in np.ndindex(*masks.shape[1:]):
        if masks[:, y, x].max() < 0.5:
            masks[background, y, x] = 1
    return masks.argmax(dim=0)


def test_confident_labels():
    generator = torch.Generator().manual_seed(0)
    masks = (3 * torch.randn(2, 3, 4, 5, 6, generator=generator)).softmax(dim=2)
    labels = confident_labels(masks)
    assert labels.shape == (2, 3, 5, 6)
    for index in np.ndindex(2, 3):
        assert torch.equal(labels[index], loop_confident_labels(masks[index]))
    assert (labels != masks.argmax(dim=2)).any()


def test_objects_are_scored_frame_by_frame():
    pred, truth = label_videos()
    scores = scores_of(pred, truth)
    for index in np.ndindex(3, 4):
        p, t = pred[index].flatten().numpy(), truth[index].flatten().numpy()
        assert scores["ari"][index].item() == pytest.approx(adjusted_rand_score(t, p))
        assert scores["fari"][index].item() == pytest.approx(adjusted_rand_score(t[t > 0], p[t > 0]))
        expected = matched_iou(truth[index][None], pred[index][None], ignore_background=True)
        assert scores["miou"][index] == expected
    assert scores["ar"].mean() > 0.3
    assert scores["ap"].mean() > 0.3


def test_labels_that_do_not_occur():
    truth = torch.tensor([[[[0, 1, 1, 4, 4, 4]]]])
    pred = torch.tensor([[[[2, 0, 0, 1, 1, 3]]]])
    assert scores_of(pred, truth)["miou"].item() == pytest.approx((1 + 2 / 3) / 2)
    assert scores_of(pred, truth, as_original=True)["miou"].item() == pytest.approx((1 + 2 / 3) / 4)


def test_frames_without_objects():
    pred, truth = label_videos(batch=2, steps=2)
    truth[0, 1] = 0
    scores, original = scores_of(pred, truth), scores_of(pred, truth, as_original=True)
    for name in ("fari", "miou", "ar"):
        assert scores[name].isnan().tolist() == [[False, True], [False, False]]
    assert original["fari"][0, 1] == 1
    assert original["miou"][0, 1].isnan()
    assert original["ar"][0, 1].isnan()
    assert scores["ap"][0, 1] == 0

    means, means_original = StepMeans(), StepMeans(as_original=True)
    means.update(scores)
    means_original.update(original)
    assert means.means()["miou"].tolist() == [scores["miou"][:, 0].mean(), scores["miou"][1, 1]]
    assert means.counts()["miou"].tolist() == [2, 1]
    assert means.counts()["ari"].tolist() == [2, 2]
    assert means_original.means()["miou"].isnan().tolist() == [False, True]
    assert means_original.means()["fari"][1] == original["fari"][:, 1].mean()


def test_step_means_are_means_over_videos_in_any_split():
    pred, truth = label_videos(batch=5)
    scores = scores_of(pred, truth)
    processes = [StepMeans(), StepMeans()]
    for number, (start, stop) in enumerate([(0, 2), (2, 3), (3, 5)]):
        processes[number % 2].update({name: values[start:stop] for name, values in scores.items()})
    merged = StepMeans()
    for process in [*processes, StepMeans()]:
        merged.merge(process.state())
    for name, mean in merged.means().items():
        torch.testing.assert_close(mean, scores[name].mean(dim=0), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="cannot be merged"):
        merged.merge(StepMeans(as_original=True).state())


def test_running_mean():
    mean = RunningMean()
    assert mean.mean().isnan()
    mean.update(torch.tensor([[1.0, math.nan], [2.0, math.nan]]))
    mean.update(torch.tensor([[5.0, math.nan]]), weight=2)
    assert mean.mean(undefined=-1.0).tolist() == [13 / 4, -1]
    mean.update(torch.tensor([[math.inf, 3.0]]))
    assert mean.mean().tolist() == [math.inf, 3]
    keeping = RunningMean(keep_nan=True)
    keeping.update(torch.tensor([[1.0, math.nan], [2.0, 1.0]]))
    assert keeping.mean()[0] == 1.5
    assert keeping.mean()[1].isnan()
