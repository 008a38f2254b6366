"""Frames and masks of videos as the originals prepare them for their models."""

import numpy as np
from torch import Tensor

from core.data.clevrer import label_map, mask_boxes
from core.data.run_length import decode_run_lengths, encode_run_lengths
from core.data.video import bilinear, resize_labels
from tests.parity.emorl_metrics import close


def check_bilinear(image: np.ndarray, size: tuple[int, int], theirs: Tensor, rtol: float, atol: float) -> None:
    """`theirs` [3, H, W] is in [-1, 1]."""
    ours = bilinear(image, size).transpose(2, 0, 1) / 127.5 - 1
    close(ours, theirs, rtol=rtol, atol=atol)


def within_rounding(ours: Tensor, theirs: Tensor) -> None:
    """uint8 against the same in [-1, 1] before it is rounded."""
    np.testing.assert_allclose(ours.numpy(), (theirs.numpy() + 1) * 127.5, rtol=0, atol=0.501)


def check_masks(proposals: list[dict], masks: Tensor, size: tuple[int, int], stack: Tensor, resized: Tensor) -> None:
    """Run-length strings of CLEVRER's proposals; `stack` and `resized` have the background as first row."""
    decoded = [decode_run_lengths(item["mask"]["counts"], tuple(item["mask"]["size"])) for item in proposals]
    ours = np.stack(decoded).astype(np.uint8)
    np.testing.assert_array_equal(ours, masks.numpy())
    assert [encode_run_lengths(mask) for mask in decoded] == [item["mask"]["counts"] for item in proposals]
    ours = np.concatenate((ours.max(axis=0, keepdims=True) == 0, ours)).astype(np.uint8)
    np.testing.assert_array_equal(ours, stack.numpy())
    np.testing.assert_array_equal(resize_labels(ours, size), resized.numpy())


def check_boxes(resized: Tensor, boxes: Tensor, present: Tensor, labels: Tensor) -> None:
    """Of the objects, without the background."""
    objects = resized.numpy()[1:] != 0
    ours = mask_boxes(objects)
    np.testing.assert_array_equal(ours, boxes.numpy()[: len(ours)])
    assert present.tolist() == [True] * len(ours) + [False] * (len(present) - len(ours))
    np.testing.assert_array_equal(label_map(objects), labels.numpy())
