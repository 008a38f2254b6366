"""Traversals against a decoder that decodes every slot of every picture again."""

import pytest
import torch
from torch import nn

from core.metrics.activeness import activeness, linspaces, traverse

K, Z, SIDE = 3, 4, 5


class Decoder(nn.Module):
    """Some smooth function of the code, and how many slots it was asked for."""

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(Z, 4 * SIDE * SIDE, generator=generator, dtype=torch.float64)
        self.decoded = 0

    def forward(self, codes):
        self.decoded += len(codes)
        pictures = (codes @ self.weight).view(len(codes), 4, SIDE, SIDE)
        return pictures[:, :3].sigmoid(), pictures[:, 3]


def whole_picture(decoder, codes):
    rgb, logits = decoder(codes)
    return (logits.softmax(dim=0).unsqueeze(1) * rgb).sum(dim=0)


def some_codes(num_images=2, num_slots=K):
    return torch.randn(num_images, num_slots, Z, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("num_slots", [1, 2, K])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_traversal_is_the_whole_picture_with_one_number_changed(num_slots, chunk):
    decoder, codes = Decoder(), some_codes(1, num_slots)[0]
    slot, values = num_slots - 1, linspaces(torch.full((Z,), -2.0), torch.arange(Z) + 1.0, 3)
    found = traverse(decoder, codes, slot, values, chunk)
    assert found.shape == (Z, 3, 3, SIDE, SIDE)
    for dimension in range(Z):
        for t in range(3):
            changed = codes.clone()
            changed[slot, dimension] = values[dimension, t]
            torch.testing.assert_close(found[dimension, t], whole_picture(decoder, changed))


def test_activeness_is_the_unbiased_variance_over_six_pictures():
    decoder, codes = Decoder(), some_codes()
    low, high = torch.full((Z,), -1.0), torch.tensor([1.0, 2.0, 0.5, -1.0])
    found = activeness(decoder, codes, torch.tensor([2, 0]), low, high)
    assert found.shape == (2, Z)
    for n, slot in enumerate([2, 0]):
        for dimension in range(Z):
            pictures = []
            for value in torch.linspace(float(low[dimension]), float(high[dimension]), 6):
                changed = codes[n].clone()
                changed[slot, dimension] = value
                pictures.append(whole_picture(decoder, changed))
            wanted = torch.stack(pictures).var(dim=0, correction=1).mean()
            torch.testing.assert_close(found[n, dimension], wanted, rtol=1e-4, atol=1e-10)
    assert found[:, 3].abs().max() < 1e-12  # a range of one point changes nothing


def test_only_the_perturbed_slot_is_decoded_again():
    decoder, codes = Decoder(), some_codes(1, 10)
    activeness(decoder, codes, torch.tensor([4]), -torch.ones(Z), torch.ones(Z), num_values=6)
    assert decoder.decoded == 9 + 6 * Z


def test_a_dimension_that_the_decoder_ignores_is_not_active():
    decoder = Decoder()
    decoder.weight[2] = 0
    found = activeness(decoder, some_codes(), torch.tensor([0, 1]), -torch.ones(Z), torch.ones(Z))
    assert (found[:, 2] == 0).all()
    assert (found[:, [0, 1, 3]] > 1e-5).all()


def test_linspaces_end_where_told():
    found = linspaces(torch.tensor([-1.0, 3.0]), torch.tensor([1.0, 3.0]), 5)
    assert found.tolist() == [[-1, -0.5, 0, 0.5, 1], [3, 3, 3, 3, 3]]


@pytest.mark.parametrize("slot", [-1, K])
def test_a_slot_that_is_not_there_is_named(slot):
    with pytest.raises(ValueError, match=rf"slot {slot}: there are slots 0 to {K - 1}"):
        traverse(Decoder(), some_codes(1)[0], slot, torch.zeros(Z, 2, dtype=torch.float64))
