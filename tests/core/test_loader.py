"""Batches are a pure function of (seed, step), whatever the number of workers, processes and interruptions."""

import os
import re
import time
from itertools import chain, islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from core.data.errors import DataError
from core.data.loader import TrainingLoader, epoch_order, evaluation_batches, to_device
from core.data.multi_object_h5 import MultiObjectH5

CPU = torch.device("cpu")


class Numbered:
    """Sample i is a picture of two pixels, both i, beside the number i."""

    path = Path("numbered.h5")

    def __init__(self, size: int, unreadable: int | None = None):
        self.size = size
        self.unreadable = unreadable

    def __len__(self) -> int:
        return self.size

    def read(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        if self.unreadable in indices:
            raise OSError("Input/output error")
        numbers = torch.from_numpy(np.asarray(indices))
        return {"image": numbers.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 1, 2), "number": numbers}


def add_noise(sample: dict, generator: np.random.Generator) -> dict:
    return sample | {"noise": torch.from_numpy(generator.standard_normal(4))}


class Varied(Numbered):
    """Reads with the draws of its samples."""

    def read_varied(self, indices: np.ndarray, generators: list[np.random.Generator]) -> dict[str, torch.Tensor]:
        draws = [add_noise({}, generator)["noise"] for generator in generators]
        return self.read(indices) | {"noise": torch.stack(draws)}


def loader(size: int = 23, batch_size: int = 4, seed: int = 5, **more) -> TrainingLoader:
    return TrainingLoader(Numbered(size), batch_size, seed=seed, device=CPU, **more)


def take(batches, count: int) -> list[dict]:
    taken = list(islice(batches, count))
    batches.close()
    return taken


def numbers(batches: list[dict]) -> list[list[int]]:
    return [batch["number"].tolist() for batch in batches]


def flat(lists: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


@pytest.mark.parametrize(("size", "batch_size"), [(24, 4), (24, 24), (23, 4), (15, 8)])
def test_every_epoch_is_a_permutation_without_its_incomplete_batch(size, batch_size):
    per_epoch = size // batch_size
    seen = numbers(take(loader(size, batch_size).batches(0), 3 * per_epoch))
    epochs = [flat(seen[epoch * per_epoch : (epoch + 1) * per_epoch]) for epoch in range(3)]
    for number, epoch in enumerate(epochs):
        assert len(set(epoch)) == len(epoch) == per_epoch * batch_size
        assert set(epoch) <= set(range(size))
        assert epoch == epoch_order(size, 5, number)[: len(epoch)].tolist()
    if size % batch_size == 0:
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_every_sample_is_left_out_now_and_then_only():
    left_out = [set(epoch_order(23, 5, epoch)[20:].tolist()) for epoch in range(200)]
    counts = np.bincount([sample for samples in left_out for sample in samples], minlength=23)
    # 200 epochs leave out 3 of 23 each: 26 times on average.
    assert counts.sum() == 600
    assert 10 <= counts.min() <= counts.max() <= 45


def test_another_seed_is_another_order():
    assert numbers(take(loader(seed=5).batches(0), 5)) != numbers(take(loader(seed=6).batches(0), 5))


@pytest.mark.parametrize(
    "how",
    [
        {"num_workers": 0},
        {"num_workers": 2},
        {"resident": True},
    ],
)
@pytest.mark.parametrize("first_step", [0, 1, 4, 5, 12, 1000])
def test_batches_depend_on_seed_and_step_only(how, first_step):
    # 5 batches an epoch: the steps cross the ends of two epochs.
    expected = [order for _, order in islice(loader().indices(0), first_step + 11)][first_step:]
    batches = take(loader(**how).batches(first_step), 11)
    assert numbers(batches) == [order.tolist() for order in expected]
    for batch in batches:
        assert torch.equal(batch["image"][:, 0, 0, 0], batch["number"].float() / 255)


@pytest.mark.parametrize("first_step", [0, 3, 7])
def test_slices_of_two_processes_make_the_batch_of_one(first_step):
    one = numbers(take(loader(batch_size=6).batches(first_step), 8))
    two = [
        numbers(take(loader(batch_size=3, process_index=index, num_processes=2).batches(first_step), 8))
        for index in range(2)
    ]
    assert one == [first + second for first, second in zip(*two)]


def test_three_processes_share_an_epoch_without_overlap():
    shares = [numbers(take(loader(24, 2, process_index=index, num_processes=3).batches(0), 4)) for index in range(3)]
    assert sorted(flat(flat(shares))) == list(range(24))


@pytest.mark.parametrize("kind", ["augmented", "varied"])
def test_augmentation_is_keyed_by_seed_epoch_and_sample(kind):
    def noise(seed: int, first_step: int, steps: int, **more) -> dict[tuple[int, int], list[float]]:
        """(epoch, sample) -> draws."""
        source, augment = (Numbered(23), add_noise) if kind == "augmented" else (Varied(23), None)
        made = TrainingLoader(source, **{"batch_size": 4, **more}, seed=seed, device=CPU, augment=augment)
        batches = take(made.batches(first_step), steps)
        return {
            ((first_step + position) // made.batches_per_epoch, number): draws
            for position, batch in enumerate(batches)
            for number, draws in zip(batch["number"].tolist(), batch["noise"].tolist())
        }

    plain = noise(5, 0, 10)
    assert len({tuple(draws) for draws in plain.values()}) == 40
    assert noise(5, 0, 10, num_workers=1) == noise(5, 0, 10, num_workers=2) == noise(5, 0, 10, num_workers=3) == plain
    # Another first step, another batch size, another number of processes: the same sample gets the same draws.
    for other in (noise(5, 3, 7), noise(5, 0, 4, batch_size=5), noise(5, 0, 9, batch_size=2, num_processes=2)):
        shared = plain.keys() & other.keys()
        assert len(shared) > 12
        assert all(plain[key] == other[key] for key in shared)
    assert not {tuple(draws) for draws in plain.values()} & {tuple(draws) for draws in noise(6, 0, 10).values()}


def test_augmentation_leaves_global_generators_alone():
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    expected = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    take(loader(augment=add_noise).batches(0), 7)
    assert (np.random.get_state()[1] == expected[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), expected[1])


def test_too_small_a_data_set():
    message = r"numbered\.h5: 23 samples are fewer than one global batch of 12 x 2\. Lower the batch size or use more"
    with pytest.raises(DataError, match=message):
        loader(batch_size=12, num_processes=2)
    assert loader(batch_size=23).batches_per_epoch == 1


def test_resident_data_cannot_be_augmented():
    with pytest.raises(ValueError, match="set resident=False"):
        loader(resident=True, augment=add_noise)
    with pytest.raises(ValueError, match="set resident=False"):
        TrainingLoader(Varied(23), 4, seed=0, device=CPU, resident=True)


@pytest.mark.parametrize(("size", "batch_size"), [(23, 4), (24, 4), (3, 8)])
def test_evaluation_skips_nothing(size, batch_size):
    batches = list(evaluation_batches(Numbered(size), batch_size, CPU))
    assert flat(numbers(batches)) == list(range(size))
    assert all(len(batch["number"]) == batch_size for batch in batches[:-1])


@pytest.mark.parametrize(("limit", "expected"), [(10, 10), (100, 23), (0, 0), (None, 23)])
def test_evaluation_may_stop_early(limit, expected):
    assert flat(numbers(list(evaluation_batches(Numbered(23), 4, CPU, limit)))) == list(range(expected))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_names_the_file_and_the_samples(num_workers):
    source = Numbered(23, unreadable=7)
    made = TrainingLoader(source, 4, seed=5, device=CPU, num_workers=num_workers)
    good = next(step for step, (_, order) in enumerate(made.indices(0)) if 7 in order)
    wanted = next(order for _, order in islice(made.indices(0), good, None)).tolist()
    batches = made.batches(0)
    for _ in range(good):
        assert 7 not in next(batches)["number"]
    message = f"numbered.h5: samples {wanted} cannot be read (Input/output error)"
    with pytest.raises(DataError, match=re.escape(message)):
        next(batches)


def test_workers_end_with_the_loader():
    before = children()
    batches = loader(num_workers=2).batches(0)
    next(batches)
    workers = children() - before
    assert len(workers) == 2
    batches.close()
    deadline = time.monotonic() + 10
    while workers & children() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not workers & children()


def children() -> set[int]:
    return {int(child) for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()}


def test_to_device_scales_bytes_and_nothing_else():
    batch = {
        "image": torch.tensor([[0, 51, 255]], dtype=torch.uint8),
        "video": torch.tensor([[255]], dtype=torch.uint8),
        "mask": torch.tensor([[3]], dtype=torch.uint8),
    }
    moved = to_device(batch, CPU)
    assert moved["image"].tolist() == [[0, pytest.approx(0.2), 1]]
    assert moved["video"].dtype == torch.float32
    assert torch.equal(moved["mask"], batch["mask"])
    already = to_device({"image": torch.full((1,), 0.5)}, CPU)
    assert already["image"].item() == 0.5


@pytest.mark.parametrize("batch_size", [32, 64])
def test_throughput_of_memory_mapped_files(tmp_path, batch_size):
    """More than 20,000 Tetrominoes pictures a second, read, shuffled and scaled by one core in the main process."""
    path = tmp_path / "tetrominoes.h5"
    with h5py.File(path, "w") as file:
        file["train/imgs"] = np.random.default_rng(0).integers(0, 256, (10000, 35, 35, 3), dtype=np.uint8)
    batches = TrainingLoader(MultiObjectH5(path, "train"), batch_size, seed=0, device=CPU).batches(0)
    next(batches)
    rates = []
    for _ in range(6):
        began = time.perf_counter()
        count = sum(len(batch["image"]) for batch in islice(batches, 4096 // batch_size))
        rates.append(count / (time.perf_counter() - began))
    assert max(rates) > 20_000, f"at best {max(rates):,.0f} images/s"
