import colorsys

import numpy as np
import pytest

from core.synth import multi_dsprites
from core.synth.multi_dsprites import ORIENTATIONS, SCALES, VARIANTS, sprite

SQUARE, ELLIPSE, HEART = 1, 2, 3


def scene(variant: str, background: tuple, *sprites: tuple) -> np.ndarray:
    """Factors of a hand-written scene; a sprite is (x, y, shape, colour, orientation, scale)."""
    factors = np.zeros((1 + VARIANTS[variant].most, 9), np.float32)
    factors[0, 3:7] = (*background, 1)
    for row, (x, y, shape, colour, orientation, scale) in zip(factors[1:], sprites):
        row[:] = (x, y, shape, *colour, 1, orientation, scale)
    return factors


def draw(variant: str, count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [multi_dsprites.sample_factors(rng, variant) for _ in range(count)]


@pytest.fixture(scope="module")
def grayscale_factors() -> np.ndarray:
    return np.stack(draw("colored_on_grayscale", 6000, seed=21))


def test_hand_written_scene_with_occlusion():
    factors = scene(
        "colored_on_grayscale",
        (0.2, 0.2, 0.2),
        (0.5, 0.25, SQUARE, (1, 0, 0), 0, 1),  # canvas at column 20, row 10: square on 24..39 x 14..29
        (0.6, 0.26, SQUARE, (0, 1, 0.5), 0, 0.5),  # canvas at column 24, row 10: square on 32..39 x 18..25
    )
    image, masks = multi_dsprites.render(factors, "colored_on_grayscale")
    expected = np.full((64, 64, 3), 51, np.uint8)
    expected[14:30, 24:40] = (255, 0, 0)
    expected[18:26, 32:40] = (0, 255, 128)
    np.testing.assert_array_equal(image, expected)
    front = np.zeros((64, 64), bool)
    front[18:26, 32:40] = True
    back = np.zeros((64, 64), bool)
    back[14:30, 24:40] = True
    np.testing.assert_array_equal(masks[2] == 255, front)
    np.testing.assert_array_equal(masks[1] == 255, back & ~front)
    np.testing.assert_array_equal(masks[0] == 255, ~back)
    assert not masks[3:].any()


def test_hidden_sprite_has_an_empty_mask_and_stays_in_the_scene():
    factors = scene("binarized", (0, 0, 0), (0.5, 0.5, HEART, (1, 1, 1), 0, 0.5), (0.5, 0.5, SQUARE, (1, 1, 1), 0, 1))
    image, masks = multi_dsprites.render(factors, "binarized")
    assert (masks == 255).sum(axis=(1, 2)).tolist() == [4096 - 256, 0, 256, 0]
    assert image.shape == (64, 64, 1)
    assert np.unique(image).tolist() == [0, 255]
    assert factors[:, 6].tolist() == [1, 1, 1, 0]


def test_placement_reaches_the_ends_of_its_range():
    last = np.nextafter(np.float32(1), np.float32(0))
    for x, column in ((0.0, 0), (0.025, 1), (0.0249, 0), (last, 39)):
        factors = scene("binarized", (0, 0, 0), (x, 0, SQUARE, (1, 1, 1), 0, 1))
        _, masks = multi_dsprites.render(factors, "binarized")
        assert np.nonzero(masks[1].any(axis=0))[0].tolist() == list(range(column + 4, column + 20))


def test_sprites():
    np.testing.assert_array_equal(sprite(SQUARE, 0.0, 1.0), np.pad(np.ones((16, 16), bool), 4))
    heart = sprite(HEART, 0.0, 1.0)
    np.testing.assert_array_equal(heart, heart[:, ::-1])
    widths = heart.sum(axis=1)[heart.any(axis=1)]
    assert widths[-1] <= 4 < widths[2]  # the tip points down
    assert sprite(ELLIPSE, 0.0, 1.0).any(axis=0).sum() == 24
    assert sprite(ELLIPSE, 0.0, 1.0).any(axis=1).sum() == 12
    up = sprite(ELLIPSE, float(ORIENTATIONS[5]), 1.0)  # an eighth of a turn anticlockwise: rises to the right
    assert up[:12, 12:].sum() > 2 * up[:12, :12].sum()
    for shape in (SQUARE, ELLIPSE, HEART):
        full = sprite(shape, 0.0, 1.0).sum()
        for orientation in ORIENTATIONS.tolist():
            assert abs(sprite(shape, orientation, 1.0).sum() - full) <= 12  # no turn leaves the canvas
        for scale in SCALES.tolist():
            assert sprite(shape, 0.0, scale).sum() == pytest.approx(full * scale**2, rel=0.15)


@pytest.mark.parametrize("variant", VARIANTS)
def test_image_follows_from_masks_and_colours(variant):
    most, channels = VARIANTS[variant].most, VARIANTS[variant].channels
    rng = np.random.default_rng(22)
    for _ in range(150):
        image, masks, factors = multi_dsprites.sample(rng, variant)
        assert (image.shape, masks.shape, factors.shape) == (
            (64, 64, channels),
            (1 + most, 64, 64),
            (1 + most, 9),
        )
        assert image.dtype == masks.dtype == np.uint8
        assert factors.dtype == np.float32
        assert np.unique(masks).tolist() == [0, 255]
        assert ((masks == 255).sum(axis=0) == 1).all()
        assert not masks[factors[:, 6] == 0].any()
        colours = np.rint(factors[:, 3 : 3 + channels] * 255)
        np.testing.assert_array_equal(image, np.einsum("ehw,ec->hwc", masks / 255, colours))
        again, _ = multi_dsprites.render(factors, variant)
        np.testing.assert_array_equal(again, image)


@pytest.mark.parametrize(
    ("variant", "fewest", "most"),
    [("binarized", 2, 3), ("colored_on_grayscale", 2, 5), ("colored_on_colored", 1, 4)],
)
def test_number_of_sprites_is_uniform(variant, fewest, most):
    factors = np.stack(draw(variant, 4000, seed=23))
    assert factors.shape[1] == 1 + most
    present = factors[:, :, 6]
    assert (np.diff(present, axis=1) <= 0).all()  # sprites first, then padding
    assert (factors[present == 0] == 0).all()
    values, counts = np.unique(present[:, 1:].sum(axis=1), return_counts=True)
    assert values.tolist() == list(range(fewest, most + 1))
    share = 1 / len(values)
    np.testing.assert_allclose(counts / 4000, share, atol=4 * np.sqrt(share * (1 - share) / 4000))


def test_factors_are_uniform(grayscale_factors):
    sprites = grayscale_factors[:, 1:][grayscale_factors[:, 1:, 6] == 1]
    n = len(sprites)
    assert ((sprites[:, :2] >= 0) & (sprites[:, :2] < 1)).all()
    np.testing.assert_allclose(sprites[:, :2].mean(axis=0), 0.5, atol=4 / np.sqrt(12 * n))
    for column, values in ((2, np.array([1, 2, 3], np.float32)), (7, ORIENTATIONS), (8, SCALES)):
        found, counts = np.unique(sprites[:, column], return_counts=True)
        np.testing.assert_array_equal(found, values)
        share = 1 / len(values)
        np.testing.assert_allclose(counts / n, share, atol=4.5 * np.sqrt(share * (1 - share) / n))
    assert len(SCALES) == 6
    assert len(ORIENTATIONS) == 40
    assert ORIENTATIONS.max() < 2 * np.pi


def test_grayscale_colours_agree_with_the_published_set(grayscale_factors):
    """A public count says 817,352 of 1,000,000 pictures hold no green square; 4 standard errors."""
    background = grayscale_factors[:, 0, 3:6]
    assert (background == background[:, :1]).all()
    assert background.mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * 6000))
    present = grayscale_factors[:, 1:, 6] == 1
    hsv = np.zeros((*present.shape, 3))
    hsv[present] = [colorsys.rgb_to_hsv(*colour) for colour in grayscale_factors[:, 1:, 3:6][present].tolist()]
    assert hsv[present][:, 1:].min() >= 0.5 - 1e-6
    hue_counts, _ = np.histogram(hsv[present][:, 0], bins=6, range=(0, 1))
    np.testing.assert_allclose(hue_counts / present.sum(), 1 / 6, atol=4 * np.sqrt(5 / 36 / present.sum()))
    green_square = present & (grayscale_factors[:, 1:, 2] == SQUARE) & (hsv[..., 0] >= 0.25) & (hsv[..., 0] <= 0.42)
    without = (~green_square.any(axis=1)).mean()
    assert without == pytest.approx(0.8171, abs=4 * np.sqrt(0.8171 * 0.1829 / 6000))


def test_colours_of_the_other_variants():
    coloured = np.concatenate([factors[factors[:, 6] == 1][:, 3:6] for factors in draw("colored_on_colored", 2000, 24)])
    for channel in coloured.T:
        counts, _ = np.histogram(channel, bins=4, range=(0, 1))
        np.testing.assert_allclose(counts / len(coloured), 0.25, atol=4 * np.sqrt(3 / 16 / len(coloured)))
    assert np.abs(np.corrcoef(coloured.T) - np.eye(3)).max() < 4 / np.sqrt(len(coloured))
    for factors in draw("binarized", 50, 25):
        np.testing.assert_array_equal(factors[:, 3:6], np.repeat(factors[:, 6:7] * (np.arange(4)[:, None] > 0), 3, 1))


def test_impossible_scenes_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"expected one of binarized, .*found 'grayscale'"):
        multi_dsprites.sample_factors(rng, "grayscale")
    with pytest.raises(ValueError, match=r"expected 1 \(square\), 2 \(ellipse\) or 3 \(heart\), found 4"):
        multi_dsprites.render(scene("binarized", (0, 0, 0), (0, 0, 4, (1, 1, 1), 0, 1)), "binarized")
    with pytest.raises(ValueError, match=r"factors\[1\]: expected x and y in \[0,1\), found x=1.0"):
        multi_dsprites.render(scene("binarized", (0, 0, 0), (1, 0, 1, (1, 1, 1), 0, 1)), "binarized")
