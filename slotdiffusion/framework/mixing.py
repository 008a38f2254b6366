"""Compositional generation: every slot of a sample comes from another sample (Wu et al. 2023, section 4.3).

Shapes: V videos or pictures, T frames, N slots, D slot size.
"""

import numpy as np
from jaxtyping import Float32, Int64

from core.nn.noise import derive_seed

Donors = Int64[np.ndarray, "V N"]
"""Of which sample each slot is."""


def donors_of_set(num_samples: int, num_slots: int, seed: int) -> Donors:
    """All samples stand in a circle in a random order; a sample's slot i comes from the one i places further on.

    So every slot is used once, and with as many samples as slots no two slots of a sample have one origin.
    """
    order = np.random.default_rng(derive_seed(seed)).permutation(num_samples)
    donors = np.empty((num_samples, num_slots), np.int64)
    for slot in range(num_slots):
        donors[order, slot] = np.roll(order, -slot)
    return donors


def donors_of_original(num_samples: int, num_slots: int, batch_size: int) -> Donors:
    """The circle is a batch, and slots from number `batch_size` on stay: of a batch of one all of them."""
    donors = np.repeat(np.arange(num_samples)[:, None], num_slots, axis=1)
    for begin in range(0, num_samples, batch_size):
        batch = donors[begin : begin + batch_size]
        for slot in range(min(len(batch), num_slots)):
            batch[:, slot] = np.roll(batch[:, slot], -slot)
    return donors


def mixed(slots: Float32[np.ndarray, "V T N D"], donors: Int64[np.ndarray, "W N"]) -> Float32[np.ndarray, "W T N D"]:
    """The slots of W samples, from those of all."""
    return np.stack([slots[donors[:, slot], :, slot] for slot in range(slots.shape[2])], axis=2)
