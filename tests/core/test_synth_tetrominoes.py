import numpy as np
import pytest

from core.synth import tetrominoes
from core.synth.tetrominoes import COLOURS, SHAPE_NAMES, SHAPES, TILE

CODE = {name: code for code, name in enumerate(SHAPE_NAMES)}


def scene(*objects: tuple[int, int, str, str]) -> np.ndarray:
    """Factors of a hand-written scene: x, y, shape name, colour name of each object."""
    factors = np.zeros((4, 7), np.float32)
    factors[0] = (0, 0, -1, 0, 0, 0, 1)
    for row, (x, y, shape, colour) in zip(factors[1:], objects):
        row[:] = (x, y, CODE[shape], *COLOURS[colour], 1)
    return factors


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(11)
    return [tetrominoes.sample(rng) for _ in range(400)]


@pytest.fixture(scope="module")
def factors_of_many() -> np.ndarray:
    rng = np.random.default_rng(12)
    return np.stack([tetrominoes.sample_factors(rng)[1:] for _ in range(6000)])


def test_hand_written_scene():
    factors = scene((0, 0, "O", "red"), (30, 15, "I90", "yellow"), (10, 3, "T180", "cyan"))
    image, masks = tetrominoes.render(factors)
    tile = [
        [191, 255, 255, 255, 223],
        [127, 159, 159, 159, 191],
        [127, 159, 159, 159, 191],
        [127, 159, 159, 159, 191],
        [95, 63, 63, 63, 127],
    ]
    blocks = {  # (x, y) of the four blocks of each object, and the channels that it lights
        1: ([(0, 0), (5, 0), (0, 5), (5, 5)], [0]),
        2: ([(30, 15), (30, 20), (30, 25), (30, 30)], [0, 1]),
        3: ([(15, 3), (10, 8), (15, 8), (20, 8)], [1, 2]),
    }
    expected_image = np.zeros((35, 35, 3), np.uint8)
    expected_masks = np.zeros((4, 35, 35), np.uint8)
    expected_masks[0] = 255
    for entity, (corners, channels) in blocks.items():
        for x, y in corners:
            for channel in channels:
                expected_image[y : y + 5, x : x + 5, channel] = tile
            expected_masks[entity, y : y + 5, x : x + 5] = 255
            expected_masks[0, y : y + 5, x : x + 5] = 0
    np.testing.assert_array_equal(image, expected_image)
    np.testing.assert_array_equal(masks, expected_masks)
    assert image.dtype == masks.dtype == np.uint8


def test_shapes_are_the_nineteen_fixed_tetrominoes():
    cells = {
        name: np.array([[cell == "#" for cell in row] for row in text.split("/")]) for name, text in SHAPES.items()
    }
    assert len({text.replace("/", "|") for text in SHAPES.values()}) == len(SHAPES) == 19
    assert all(shape.sum() == 4 for shape in cells.values())
    for name, shape in cells.items():
        if len(name) > 1:  # the number in the name is the clockwise turn from the shape's first entry
            np.testing.assert_array_equal(shape, np.rot90(cells[name[0] + "0"], -int(name[1:]) // 90))
    assert [CODE[name] for name in ("S0", "S90", "Z0", "Z90")] == [11, 12, 13, 14]


def test_masks_partition_the_picture(scenes):
    for _, masks, factors in scenes:
        assert np.unique(masks).tolist() == [0, 255]
        assert (masks == 255).sum(axis=(1, 2)).tolist() == [925, 100, 100, 100]
        assert ((masks == 255).sum(axis=0) == 1).all()
        assert factors.dtype == np.float32


def test_objects_stand_where_their_factors_say(scenes):
    for _, masks, factors in scenes:
        assert factors[0].tolist() == [0, 0, -1, 0, 0, 0, 1]
        for mask, (x, y, code, *_, visibility) in zip(masks[1:], factors[1:]):
            rows, columns = np.nonzero(mask)
            assert (columns.min(), rows.min(), visibility) == (x, y, 1)
            pattern = SHAPES[SHAPE_NAMES[int(code)]].split("/")
            box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert ["".join("#" if value else "." for value in row) for row in box[::5, ::5]] == pattern


def test_image_follows_from_masks_and_colours(scenes):
    for image, masks, factors in scenes:
        expected = np.zeros((35, 35, 3), np.uint8)
        for mask, row in zip(masks[1:], factors[1:]):
            columns, rows = (np.arange(35) - int(row[axis]) for axis in (0, 1))
            shading = TILE[rows[:, None] % 5, columns[None, :] % 5] * (mask == 255)
            expected += shading[..., None] * row[3:6].astype(np.uint8)
        np.testing.assert_array_equal(image, expected)


def test_every_offset_and_contact_occurs(scenes, factors_of_many):
    touching = 0
    for _, masks, _ in scenes:
        entity = (masks[1:] == 255).transpose(1, 2, 0) @ np.array([1, 2, 3])
        for left, right in ((entity[:, :-1], entity[:, 1:]), (entity[:-1], entity[1:])):
            if ((left != right) & (left > 0) & (right > 0)).any():
                touching += 1
                break
    assert 0.1 < touching / len(scenes) < 0.4
    assert set(np.unique(factors_of_many[..., 0])) == set(range(31))  # 30 for the upright bar only
    assert set(np.unique(factors_of_many[..., 1])) == set(range(31))


def test_frequencies_agree_with_the_published_set(factors_of_many):
    """Public counts over 1,000,000 pictures: 503,318 without S or Z, 900,936 without a green one; 4 standard errors."""
    shape, colour = factors_of_many[..., 2], factors_of_many[..., 3:6]
    twisted = (shape >= 11) & (shape <= 14)
    green = (colour == COLOURS["green"]).all(axis=-1)
    assert (~twisted.any(axis=1)).mean() == pytest.approx(0.5033, abs=4 * np.sqrt(0.5033 * 0.4967 / 6000))
    assert (~(twisted & green).any(axis=1)).mean() == pytest.approx(0.9009, abs=4 * np.sqrt(0.9009 * 0.0991 / 6000))
    assert set(np.unique(shape)) == set(range(19))


def test_colours_are_uniform_and_independent(factors_of_many):
    number = factors_of_many[..., 3:6] @ np.array([1, 2, 4])
    values, counts = np.unique(number, return_counts=True)
    assert values.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(counts / 18000, 1 / 6, atol=4 * np.sqrt(5 / 36 / 18000))
    all_differ = (np.diff(np.sort(number, axis=1), axis=1) > 0).all(axis=1).mean()
    assert all_differ == pytest.approx(20 / 36, abs=4 * np.sqrt(20 * 16 / 36**2 / 6000))


def test_seventeen_shapes():
    rng = np.random.default_rng(13)
    shape = np.stack([tetrominoes.sample_factors(rng, num_shapes=17)[1:, 2] for _ in range(6000)])
    assert set(range(19)) - set(np.unique(shape).astype(int)) == {CODE["J0"], CODE["T180"]}
    without = (~((shape >= 11) & (shape <= 14)).any(axis=1)).mean()
    assert without == pytest.approx(0.460, abs=4 * np.sqrt(0.46 * 0.54 / 6000))


def test_same_generator_state_same_sample():
    first, second = (tetrominoes.sample(np.random.default_rng(14)) for _ in range(2))
    for left, right in zip(first, second):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([(0, 0, "O", "red"), (9, 9, "O", "red"), (20, 20, "O", "red")], r"factors\[2\].*shares a pixel"),
        ([(0, 0, "O", "red"), (16, 20, "I0", "red"), (20, 0, "O", "red")], r"factors\[2\]: I0 at x=16, y=20"),
        ([(0, -1, "O", "red"), (9, 20, "I0", "red"), (20, 0, "O", "red")], r"factors\[1\]: O at x=0, y=-1"),
    ],
)
def test_impossible_scenes_are_refused(objects, message):
    with pytest.raises(ValueError, match=message):
        tetrominoes.render(scene(*objects))


def test_unknown_codes_are_refused():
    factors = scene((0, 0, "O", "red"), (0, 15, "O", "red"), (20, 0, "O", "red"))
    factors[3, 2] = 19
    with pytest.raises(ValueError, match=r"factors\[3\]: expected a shape code 0\.\.18, found 19"):
        tetrominoes.render(factors)
    with pytest.raises(ValueError, match="expected 17 or 19, found 18"):
        tetrominoes.sample_factors(np.random.default_rng(0), num_shapes=18)
