"""The commands of clevrtex/README.md on generated files: train, continue, several processes."""

from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.runs import load_model
from core.training.checkpoint import load
from tests.clevrtex_runs import (
    FLAGS_OF_DATA,
    FOLDERS,
    SMALL,
    assert_same_weights,
    folder_of,
    losses,
    rows,
    train_words,
    weights,
)
from tests.conftest import Runner
from tests.launchers import ACCELERATE

MODELS = sorted(SMALL)
QUICK = ("slota",)
"""Models that the quick tests train. All others are slow."""
EVERY_MODEL = [model if model in QUICK else pytest.param(model, marks=pytest.mark.slow) for model in MODELS]
LOGGED = {
    "marionette": {"loss", "rec_loss", "beta_loss", "probs_loss"},
    "slota": {"loss"},
    "iodine": {"loss", "kl", "recon_loss"},
    "monet": {"loss", "kl", "loss_comp_ratio", "rec_loss", "kl_mask"},
    "effmorl": {"loss", "kl", "loss_comp_ratio", "rec_loss"},
    "dtisprites": {"loss"},
    "spair": {
        *("loss", "elbo", "kl", "loss_comp_ratio", "rec_loss", "kl_where", "kl_what", "kl_depth", "kl_pres", "kl_bg"),
        *("z_pres_prior_p", "z_pres_temperature", "output_hparam", "beta_pres"),
    },
    "genesisv2": {"loss", "elbo", "kl", "loss_comp_ratio", "rec_loss"},
    "gnm": {
        *("loss", "elbo", "kl", "loss_comp_ratio", "rec_loss", "kl_global"),
        *(f"kl_{aux}{name}" for aux in ("", "aux_") for name in ("pres", "where", "what", "depth", "bg")),
    },
    "space": {
        *("loss", "elbo", "kl", "loss_comp_ratio", "rec_loss", "boundary_loss"),
        *("kl_fg", "kl_bg", "kl_what", "kl_where", "kl_depth", "kl_pres"),
    },
}
# Adam's first steps on SPACE's background enlarge rounding: pictures that differ by 1e-7 make as much of a difference.
AGREEMENT = {"space": 2e-2}
VALIDATED = {"mse", "bg_mse", "slot_mse", "miou", "dice", "ari", "ari_fg", "ari2", "ari2_fg", "acc", "cnt", "epoch"}


@pytest.fixture(scope="module")
def trained(run: Runner, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of trainings of 30 steps, by model, made when they are first asked for."""
    out = tmp_path_factory.mktemp("trained")

    class Trained(dict):
        def __missing__(self, model: str) -> Path:
            flags = ("--batch_size", 4, "--max_steps", 30, "--log_every", 1, "--tag", "thirty", "--seed", 7)
            done = run(*train_words(model, scenes, out, *flags))
            assert done.returncode == 0, done.stderr
            assert "Stopping due to SUCCESS" in done.stdout
            self[model] = folder_of(model, out, "thirty")
            return self[model]

    return Trained()


@pytest.mark.parametrize("model", EVERY_MODEL)
def test_thirty_steps_on_clevrtex(trained, model: str) -> None:
    folder = trained[model]
    assert folder.relative_to(folder.parents[2]) == Path(
        f"clt_fullct{FLAGS_OF_DATA.get(model, '')}/{FOLDERS.get(model, model)}/thirty"
    )
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (folder / "SUCCESS").read_bytes() == b""
    assert len(list(folder.glob("code_*.tar.gz"))) == 1
    hparams = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert (hparams["tag"], hparams["max_steps"], hparams["seed"]) == ("thirty", 30, 7)
    state = load(folder / "checkpoints" / "last.ckpt")
    assert state["step"] == 29
    assert state["hparams"] == hparams
    assert state["seed"] == 7
    curve = losses(folder)
    assert len(curve) == 30
    assert sum(curve[20:28]) < sum(curve[4:12]), "the loss falls, over the same pictures"
    assert LOGGED[model] <= rows(folder)[0].keys()
    scores = [row for row in rows(folder) if "mse" in row]
    assert [row["step"] for row in scores] == [3, 7, 11, 15, 19, 23, 27, 29], "16 pictures, batches of 4"
    assert scores[-1].keys() >= VALIDATED
    assert min(row["mse"] for row in scores[1:]) < scores[0]["mse"]
    best = load(folder / "checkpoints" / "best.ckpt")
    assert best["best_scores"] == [min(row["mse"] for row in scores)]
    rebuilt, record = load_model(folder)
    assert record.paper == "clevrtex"
    for name, value in rebuilt.state_dict().items():
        assert value.equal(state["model"][name])


def test_tensorboard_has_scalars_and_pictures(trained) -> None:
    events = EventAccumulator(str(trained["monet"]), size_guidance={"images": 0}).Reload()
    assert LOGGED["monet"] | VALIDATED <= set(events.Tags()["scalars"])
    assert {"recon", "segmentation", "other_recon"} <= set(events.Tags()["images"])
    assert [event.step for event in events.Images("recon")] == list(range(8))
    picture = events.Images("recon")[0]
    assert (picture.width, picture.height) == (2 * 33 + 1, 5 * 33 + 1), "two pictures; input, output, three slots"


@pytest.mark.parametrize("model", EVERY_MODEL)
def test_continued_is_uninterrupted(run: Runner, scenes: Path, tmp_path: Path, model: str) -> None:
    flags = ("--batch_size", 4, "--log_every", 1, "--tag")
    for tag, steps, more in (("whole", 7, ()), ("part", 5, ()), ("part", 7, ("--resume", True))):
        done = run(*train_words(model, scenes, tmp_path, *flags, tag, "--max_steps", steps, *more))
        assert done.returncode == 0, done.stderr
    assert "max_steps: 5 -> 7" in done.stdout
    assert "Starting from step 5" in done.stdout
    whole, part = folder_of(model, tmp_path, "whole"), folder_of(model, tmp_path, "part")
    assert losses(part) == losses(whole)
    assert_same_weights(part, whole)


@pytest.mark.parametrize("model", EVERY_MODEL)
def test_two_processes_equal_one(run: Runner, scenes: Path, tmp_path: Path, model: str) -> None:
    flags = ("--max_steps", 6, "--log_every", 1, "--nowatermark", "--tag")
    one = run(*train_words(model, scenes, tmp_path, *flags, "one", "--batch_size", 4))
    two = run(*train_words(model, scenes, tmp_path, *flags, "two", "--batch_size", 2, "--ddp", "--gpus", 2))
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert two.stdout.count("2 x cpu") == 1, "the main process alone speaks"
    alone, together = folder_of(model, tmp_path, "one"), folder_of(model, tmp_path, "two__id")
    agreement = AGREEMENT.get(model, 2e-4)
    assert losses(together) == pytest.approx(losses(alone), rel=agreement)
    assert losses(together)[:2] == pytest.approx(losses(alone)[:2], rel=2e-4)
    for row, other in zip(rows(together), rows(alone)):
        if "mse" in row:
            assert row["mse"] == pytest.approx(other["mse"], rel=5 * agreement)
    if model == "effmorl":
        for name in ("geco.ema", "geco.beta"):
            assert weights(together)[name].item() == pytest.approx(weights(alone)[name].item(), rel=1e-3)


def test_accelerate_starts_processes_too(run: Runner, scenes: Path, tmp_path: Path) -> None:
    words = train_words("slota", scenes, tmp_path, "--max_steps", 2, "--batch_size", 2)
    done = run(*ACCELERATE, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 x cpu") == 1
    assert (folder_of("slota", tmp_path) / "SUCCESS").exists()


def test_clevr_and_any_other_data(run: Runner, scenes: Path, tetrominoes: Path, tmp_path: Path) -> None:
    flags = ("--max_steps", 2, "--batch_size", 2, "--nowatermark")
    words = train_words("slota", scenes, tmp_path, *flags)
    words[3] = "clevr-crop-(32,32)-rbg"
    assert run(*words).returncode == 0
    words[3], words[5] = "tetrominoes", tetrominoes
    assert run(*words).returncode == 0
    assert (tmp_path / "clect-rbg/slota/test/SUCCESS").exists()
    state = load(tmp_path / "tetrominoes/slota/test/checkpoints/last.ckpt")
    assert state["run"]["arguments"]["arguments"]["image_size"] == [35, 35], "sized by its samples"


def test_weights_of_another_run_start_a_fresh_one(run: Runner, trained, scenes: Path, tmp_path: Path) -> None:
    best = trained["slota"] / "checkpoints" / "best.ckpt"
    flags = ("--max_steps", 1, "--batch_size", 4, "--lr", "", "--learning_rate", 1e-9, "--weights", best)
    words = train_words("slota", scenes, tmp_path)
    done = run(*[word for word in words if word not in ("--lr", "warm(5)", "--learning_rate", 2e-3)], *flags)
    assert done.returncode == 0, done.stderr
    found, given = weights(folder_of("slota", tmp_path)), weights(trained["slota"], "best")
    assert all(value.allclose(given[name], atol=1e-6) for name, value in found.items())


def test_accumulated_batches_are_one_batch(run: Runner, scenes: Path, tmp_path: Path) -> None:
    flags = ("--max_steps", 3, "--log_every", 1, "--nowatermark", "--tag")
    assert run(*train_words("slota", scenes, tmp_path, *flags, "whole", "--batch_size", 4)).returncode == 0
    assert run(*train_words("slota", scenes, tmp_path, *flags, "parts", "--batch_size", 2, "--acc", 2)).returncode == 0
    whole, parts = (losses(folder_of("slota", tmp_path, tag)) for tag in ("whole", "parts"))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_what_else_a_run_can_do(run: Runner, scenes: Path, tmp_path: Path) -> None:
    flags = ("--max_steps", 16, "--batch_size", 4, "--log_every", 1, "--gc", 2, "--profile", "--track_grads")
    more = ("--save_top", 2, "--limit", 2, "--amp", 16, "--as-original", "--optim", "rmsprop-m0.5", "--detect_anomaly")
    more += ("--seed", "random")
    done = run(*train_words("slota", scenes, tmp_path, *flags, *more))
    assert done.returncode == 0, done.stderr
    folder = folder_of("slota", tmp_path)
    assert "aten::" in (folder / "profile.out").read_text()
    assert "objects per collection" in done.stdout
    assert load(folder / "checkpoints" / "last.ckpt")["seed"] > 0
    scores = [row for row in rows(folder) if "mse" in row]
    assert len(scores) == 8, "two batches are an epoch"
    assert "miou_original" in scores[0]
    assert sum(name.startswith("grad_2.0_norm/") for name in rows(folder)[0]) > 20
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "best-v1.ckpt", "last.ckpt"}


@pytest.mark.slow
def test_range_of_learning_rates(run: Runner, scenes: Path, tmp_path: Path) -> None:
    done = run(*train_words("slota", scenes, tmp_path, "--batch_size", 2, "--tune"))
    assert done.returncode == 0, done.stderr
    hparams = yaml.safe_load((folder_of("slota", tmp_path) / "hparams.yaml").read_text())
    assert 1e-8 < hparams["suggested_learning_rate"] < 1
    assert not (folder_of("slota", tmp_path) / "checkpoints").exists()


@pytest.mark.parametrize("model", MODELS)
def test_help_names_every_flag(run: Runner, model: str) -> None:
    done = run(f"clevrtex/experiments/{model}.py", "--help", PAGER="cat")
    text = done.stdout + done.stderr
    for flag in (
        "--data",
        "--batch_size",
        "--grad_clip",
        "--gpus",
        "--ddp",
        "--resume",
        "--drop_last_batch",
        "--workers",
    ):
        assert flag in text
    assert "number of slots" in text


def test_name_of_an_experiment(run: Runner) -> None:
    words = ("clevrtex/experiments/genesisv2.py", "just_return_the_name", "--data", "clevrtex:full-crop-(128,128)")
    assert run(*words, "--tag", "genesisv2").stdout.strip() == "clt_fullcm/g2/genesisv2"
