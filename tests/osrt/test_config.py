"""Configurations of OSRT: the published ones, what the command line changes, and what is refused."""

from pathlib import Path

import pytest
import torch

from osrt.config import Config, ConfigError, load_config
from osrt.models import build_model
from tests.osrt_runs import RUNS, config_in

PUBLISHED = {
    "clevr3d": {"dataset": "clevr3d", "num_points": 8192, "path": "data/clevr3d", "slots": 6, "batch_size": 256},
    "obsurf_msn": {
        "dataset": "obsurf_msn",
        "num_points": 6144,
        "path": "data/multishapenet",
        "slots": 5,
        "batch_size": 128,
    },
    "msn": {"dataset": "osrt", "num_points": 2304, "path": "data/osrt", "slots": 32, "batch_size": 256},
}


def published(name: str, *overrides: str) -> Config:
    return load_config(RUNS / name / "osrt" / "config.yaml", overrides)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_configurations(name: str) -> None:
    config, wanted = published(name), PUBLISHED[name]
    assert (config.data.dataset, config.data.num_points) == (wanted["dataset"], wanted["num_points"])
    assert config.data.folder == Path(wanted["path"])
    assert config.data.kwargs == ({} if name == "msn" else {"downsample": 1})
    assert config.training.batch_size == wanted["batch_size"]
    assert config.training.lr_warmup == {"clevr3d": 5000, "obsurf_msn": 2500, "msn": 10000}[name]
    assert config.training.max_it == config.training.decay_it == 4_000_000
    arguments = config.model_arguments((0.5, 20.0))
    assert arguments["render_kwargs"] == {"min_dist": 0.5, "max_dist": 20.0}
    with torch.device("meta"):
        model = build_model(**arguments)
    assert model.encoder.slot_attention.initial_slots.shape == (wanted["slots"], 1536)


def test_the_published_model_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = build_model(**published("clevr3d").model_arguments((0.035, 35.0)))
    counts = [sum(value.numel() for value in part.parameters()) for part in (model.encoder, model.decoder)]
    assert counts == [57_857_184, 25_253_583]


def test_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "data: {dataset: nmr}\n"
        "model: {encoder: srt, decoder: srt, encoder_kwargs: }\n"
        "training: {batch_size: 8, model_selection_metric: mse, model_selection_mode: minimize, print_every: 1,\n"
        "  checkpoint_every: 0, validate_every: -1, visualize_every: 0, backup_every: 0, num_fine_samples: 5}\n"
    )
    config = load_config(path)
    assert (config.data.num_points, config.data.path, config.data.kwargs) == (2048, None, {})
    assert (config.model.encoder_kwargs, config.model.use_default_init) == ({}, False)
    training = config.training
    assert (training.num_workers, training.max_it) == (1, 1_000_000)
    assert (training.lr_warmup, training.decay_it) == (2500, 4_000_000)
    assert config.model_arguments((2.0, 4.0))["render_kwargs"]["num_fine_samples"] == 5


def test_overrides_reach_every_depth() -> None:
    config = published(
        "msn", "data.num_points=512", "data.kwargs.shuffle=0", "model.encoder_kwargs.num_slots=7", "data.path=somewhere"
    )
    assert (config.data.num_points, config.data.kwargs, config.data.folder) == (512, {"shuffle": 0}, Path("somewhere"))
    assert config.model.encoder_kwargs == {"pos_start_octave": -5, "num_slots": 7}
    assert config.to_dict()["training"]["batch_size"] == 256
    assert published("msn").training.peak_lr == 1e-4
    for word in ("3e-4", "3.0e-4", "0.0003"):
        assert published("msn", f"training.peak_lr={word}").training.peak_lr == pytest.approx(3e-4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.num_point=5", r"config.yaml: no key 'data.num_point'; did you mean 'num_points'\?"),
        ("trainig.max_it=5", r"no key 'trainig'; did you mean 'training'\?"),
        ("data.num_points=many", r"data.num_points is 'many', expected int"),
        ("training.peak_lr=fast", r"training.peak_lr is 'fast', expected float"),
        ("training.peak_lr=0", r"training.peak_lr is 0.0, expected more than 0"),
        ("data.num_points=0", r"data.num_points is 0, expected at least 1"),
        ("training.num_coarse_samples=0", r"training.num_coarse_samples is 0, expected at least 1"),
        ("training.batch_size=true", r"training.batch_size is True, expected int"),
        ("training.num_workers=-1", r"training.num_workers is -1, expected at least 0"),
        ("data.dataset=clevr", r"data.dataset 'clevr' is not one of clevr3d, .*; did you mean 'clevr3d'\?"),
        ("training.model_selection_mode=max", r"'max' is not one of maximize, minimize"),
        ("data.path=3", r"data.path is 3, expected str \| None"),
        ("model=5", r"model is 5, expected encoder, decoder"),
        ("data", r"--set 'data': expected SECTION.KEY=VALUE"),
        ("data.dataset.name=5", r"--set 'data.dataset.name=5': dataset is no section but 'clevr3d'"),
        ("data.kwargs=[", r"the value cannot be read as YAML"),
    ],
)
def test_what_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        published("clevr3d", override)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = config_in(tmp_path)
    with pytest.raises(ConfigError, match=r"confg.yaml: no such file; did you mean '.*config.yaml'\?"):
        load_config(tmp_path / "confg.yaml")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "batch_size" not in line))
    with pytest.raises(ConfigError, match=r"training.batch_size is missing"):
        load_config(path)
    path.write_text("data: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match=r"cannot be read as YAML"):
        load_config(path)
    path.write_text("just words\n")
    with pytest.raises(ConfigError, match=r"expected the sections data, model, training, found 'just words'"):
        load_config(path)
