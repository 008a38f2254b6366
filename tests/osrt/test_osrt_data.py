"""The data sets of OSRT's configurations, and the order in which training sees them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.errors import DataError
from core.data.msn import interleaved_order
from osrt.config import ConfigError, DataConfig, load_config
from osrt.data import ShardOrderLoader, open_split, training_batches, training_loader
from tests.osrt_runs import FOLDERS, config_in, settings

CPU = torch.device("cpu")


def data_of(views: Path, folder: Path, name: str, *overrides: str) -> DataConfig:
    return load_config(config_in(folder, name), [*settings(views / FOLDERS[name]), *overrides]).data


@pytest.mark.parametrize(
    ("name", "num_samples", "num_views", "size"),
    [("clevr3d", 24, 1, (12, 16)), ("obsurf_msn", 24, 1, (12, 16)), ("msn", 16, 5, (24, 24))],
)
def test_batches_for_the_model(views: Path, tmp_path: Path, name, num_samples, num_views, size) -> None:
    data = data_of(views, tmp_path, name)
    source = open_split(data, "train")
    assert len(source) == num_samples
    batch = next(training_batches(training_loader(data, source, 4, seed=0, device=CPU), 0))
    shapes = {key: tuple(value.shape) for key, value in batch.items() if key != "sceneid"}
    assert shapes == {
        "input_images": (4, num_views, 3, *size),
        "input_masks": (4, num_views, *size),
        "input_camera_pos": (4, num_views, 3),
        "input_rays": (4, num_views, *size, 3),
        "target_pixels": (4, 48, 3),
        "target_masks": (4, 48),
        "target_camera_pos": (4, 48, 3),
        "target_rays": (4, 48, 3),
    }
    assert batch["target_masks"].max() > 0
    assert 0 <= batch["target_pixels"].min() < batch["target_pixels"].max() <= 1


def test_evaluation_of_all_rays_and_of_few_samples(views: Path, tmp_path: Path) -> None:
    data = data_of(views, tmp_path, "msn")
    whole = open_split(data, "val", full_scale=True)
    (scene,) = [{key: value[0] for key, value in whole.read(np.array([0])).items()}]
    assert whole.draw(scene, np.random.default_rng(0))["target_pixels"].shape == (5 * 24 * 24, 3)
    assert len(open_split(data, "test", max_len=1)) == 1
    assert len(open_split(data, "test", max_len=1000)) == 2


def test_msn_without_masks(views: Path) -> None:
    source = open_split(DataConfig("msn", str(views / "msn")), "val")
    assert "masks" not in source.read(np.array([0]))


@pytest.mark.parametrize("shuffle", [0, 5])
def test_msn_is_shuffled_unless_told_otherwise(views: Path, tmp_path: Path, shuffle: int) -> None:
    data = data_of(views, tmp_path, "msn", f"data.kwargs.shuffle={shuffle}")
    source = open_split(data, "train")
    loaders = [
        training_loader(data, source, 2, seed=0, device=CPU, process_index=process, num_processes=2)
        for process in range(2)
    ]
    walks = [loader.indices(2) for loader in loaders]
    seen = [np.concatenate([next(walk)[1] for walk in walks]).tolist() for _ in range(6)]
    order = interleaved_order(source.shard_lengths).tolist()
    in_shards = [order[start : start + 4] for start in (8, 12, 0, 4, 8, 12)]
    assert (seen == in_shards) == (shuffle == 0)
    assert sorted(np.concatenate(seen[2:6])) == list(range(16)), "an epoch shows every scene once"
    assert isinstance(loaders[0], ShardOrderLoader) == (shuffle == 0)


def test_rays_depend_on_epoch_and_sample_alone(views: Path, tmp_path: Path) -> None:
    data = data_of(views, tmp_path, "clevr3d")
    source = open_split(data, "train")

    def first(step: int, batch_size: int, process: int = 0, processes: int = 1, workers: int = 0) -> dict:
        options = {"process_index": process, "num_processes": processes, "num_workers": workers}
        return next(training_batches(training_loader(data, source, batch_size, seed=3, device=CPU, **options), step))

    whole, half = first(1, 8), first(1, 4, process=1, processes=2, workers=1)
    for key, value in half.items():
        assert torch.equal(value, whole[key][4:]), key
    later = first(1 + 3, 8)
    assert later["target_rays"].ne(whole["target_rays"]).any()


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        (
            "clevr3d",
            "data.kwargs.downsampel=2",
            r"max_objects, canonical_view; did you mean 'downsample'\?",
        ),
        ("msn", "data.kwargs.downsample=1", r"data.kwargs.downsample: osrt has shuffle"),
        ("clevr3d", "data.dataset=nmr", r"data.kwargs.downsample: nmr has none"),
        ("clevr3d", "data.kwargs.downsample=-1", r"data.kwargs.downsample is -1, expected at least 0"),
        ("clevr3d", "data.kwargs.downsample=half", r"data.kwargs.downsample is 'half', expected int \| None"),
        ("clevr3d", "data.kwargs.max_objects=few", r"data.kwargs.max_objects is 'few', expected int"),
        ("clevr3d", "data.kwargs.canonical_view=maybe", r"data.kwargs.canonical_view is 'maybe', expected bool"),
        ("msn", "data.kwargs.shuffle=never", r"data.kwargs.shuffle is 'never', expected int \| bool \| None"),
    ],
)
def test_arguments_that_a_data_set_has_not(views: Path, tmp_path: Path, name, override, message) -> None:
    with pytest.raises(ConfigError, match=message):
        open_split(data_of(views, tmp_path, name, override), "train")


def test_downsampling_leaves_pixels(views: Path, tmp_path: Path) -> None:
    source = open_split(data_of(views, tmp_path, "clevr3d", "data.kwargs.downsample=5"), "train")
    (scene,) = [{key: value[0] for key, value in source.read(np.array([0])).items()}]
    assert source.draw(scene, np.random.default_rng(0))["input_images"].shape == (1, 3, 1, 1)
    with pytest.raises(DataError, match=r"downsample 6 leaves nothing of pictures of 32x24 pixels, expected at most 5"):
        open_split(data_of(views, tmp_path, "clevr3d", "data.kwargs.downsample=6"), "train")


@pytest.mark.parametrize(("name", "maker"), [("clevr3d", "clevr3d"), ("obsurf_msn", "clevr3d"), ("msn", "msn")])
def test_missing_data_say_how_to_make_them(tmp_path: Path, name: str, maker: str) -> None:
    with pytest.raises(DataError, match=rf"nowhere.*python tools/make_data.py {maker} --root"):
        open_split(data_of(tmp_path, tmp_path, name, f"data.path={tmp_path / 'nowhere'}"), "train")


def test_nmr_has_no_masks_and_names_its_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metadata.yaml: cannot be read .* NMR_Dataset.zip"):
        open_split(DataConfig("nmr", str(tmp_path)), "train")
