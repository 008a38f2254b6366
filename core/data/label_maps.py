"""The indices of objects in label maps, as metrics want them."""

import numpy as np
from jaxtyping import UInt8


def numbered_without_gaps(
    labels: UInt8[np.ndarray, "*pixels"], as_original: bool = False
) -> UInt8[np.ndarray, "*pixels"]:
    """The labels of one picture or clip replaced by their ranks; 0 stays 0.

    `as_original`: if 0 does not occur, the smallest label becomes 0, which makes its object the background
    (SlotDiffusion's original code).
    """
    occurs = np.bincount(labels.ravel(), minlength=256) > 0
    occurs[0] |= not as_original
    return (np.cumsum(occurs) - 1).astype(np.uint8)[labels]
