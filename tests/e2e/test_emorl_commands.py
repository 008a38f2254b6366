"""The commands of EfficientMORL as a user types them, on generated data: what they print, write and compute."""

import json
import re
from math import exp, isfinite
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.data.loader import epoch_order
from core.data.multi_object_h5 import MultiObjectH5
from core.runs import load_model
from tests.conftest import Runner
from tests.tiny_runs import (
    ROOT,
    assert_same_weights,
    eval_words,
    evaluated,
    scalar_lines,
    scalars,
    state_of,
    train_words,
    write_lively,
)

SCALARS = {"train/total_loss", "train/NLL", "train/KL", "train/KL_beta", "train/lr"}
GECO_SCALARS = {"train/geco_beta", "train/geco_C_ema"}


def train_sh(run: Runner, cwd: Path, *overrides: str, **environment: object):
    """`train.sh` from another working folder, which relative paths start from."""
    script = ROOT / "emorl/scripts/train.sh"
    words = ("training.num_workers=0", "training.tensorboard_freq=1", "training.checkpoint_freq=1", *overrides)
    variables = {"OUT_DIR": "out", "NUM_GPUS": 1, "BATCH_SIZE": 2, "SEED": 7} | environment
    return run("bash", "-c", f'cd "{cwd}" && "{script}" "$@"', "bash", *words, **variables)


def eval_sh(run: Runner, cwd: Path, *overrides: str, **environment: object):
    script = ROOT / "emorl/scripts/eval.sh"
    variables = {"OUT_DIR": "out", "SEED": 3} | environment
    return run("bash", "-c", f'cd "{cwd}" && "{script}" "$@"', "bash", *overrides, **variables)


def check_training(
    out: Path, name: str, last: int, parameters: str, scalar_tags: set[str], image_tags: set[str]
) -> None:
    """Every file that the README promises of a training with a checkpoint and a log line every step."""
    weights = {path.name for path in (out / "weights").iterdir()}
    files = {f"{name}.run.json", f".{name}.lock"}
    assert weights == {f"{name}-state-{step}.pth" for step in range(1, last + 1)} | files
    (events,) = out.glob(f"tb/{name}_[0-9]*")
    assert re.fullmatch(rf"{name}_\d{{4}}-\d\d-\d\d--\d\d-\d\d-\d\d", events.name)
    board = EventAccumulator(str(events), size_guidance={"images": 0}).Reload()
    assert set(board.Tags()["scalars"]) == scalar_tags
    assert set(board.Tags()["images"]) == image_tags
    rows = [json.loads(line) for line in (events / "scalars.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(last + 1))
    for tag in scalar_tags:
        values = [event.value for event in board.Scalars(tag)]
        assert all(map(isfinite, values))
        assert values == pytest.approx([row[tag] for row in rows], rel=1e-6), tag
    folder = out / "runs/1"
    config = json.loads((folder / "config.json").read_text())
    assert config["seed"] == 7
    assert config["training"]["batch_size"] == 2
    assert json.loads((folder / "run.json").read_text())["status"] == "COMPLETED"
    assert f"{parameters} parameters" in (folder / "cout.txt").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == scalar_tags
    assert metrics["train/lr"]["steps"] == list(range(last + 1))
    record = json.loads((out / f"weights/{name}.run.json").read_text())
    assert (record["paper"], record["seed"]) == ("emorl", 7)


def check_evaluation(folder: Path, stdout: str, images: int, has_kl: bool) -> None:
    """The text files of the original, the JSON with everything, the picture and the printed table agree."""
    result = json.loads((folder / "ARI_MSE_KL.json").read_text())
    files = {"ARI.txt": "fg_ari", "MSE.txt": "mse"} | ({"KL.txt": "kl"} if has_kl else {})
    assert {path.name for path in folder.iterdir()} == {*files, "ARI_MSE_KL.json", "panel.png"}
    for file, name in files.items():
        values = np.array(result["per_image"][name])
        assert values.shape == (images,)
        text = (folder / file).read_text()
        assert re.fullmatch(r"-?[\d.e-]+,[\d.e-]+\n", text), text
        mean, std = map(float, text.split(","))
        digits = 3 if file == "ARI.txt" else 12
        assert mean == pytest.approx(round(values.mean(), digits), abs=1e-12)
        assert std == pytest.approx(round(values.std(), digits), abs=1e-12)
    assert result["num_images"] == images
    with Image.open(folder / "panel.png") as picture:
        assert picture.mode == "RGB"
        assert min(picture.size) > 35
    assert f"results in {folder.relative_to(folder.parents[3])}" in stdout
    for title in ("FG-ARI", "mIoU", "MSE", "PSNR", "SSIM", *(["KL (nats)"] if has_kl else [])):
        assert re.search(rf"^{re.escape(title)}.*\s[\d.e-]+\s+[\d.e-]+$", stdout, re.MULTILINE), title


@pytest.mark.parametrize(
    ("env", "data", "last", "overrides", "parameters"),
    [
        ("tetrominoes", "tetrominoes", 3, [], "467,236"),
        pytest.param("multi_dsprites", "sprites", 2, [], "666,500", marks=pytest.mark.slow),
        # One refinement in place of three: a step of this size takes ten seconds of one core otherwise.
        pytest.param(
            *("clevr6-96x96", "clevr6", 1),
            *(["Net.refinement_iters=1", "training.refinement_curriculum=[(-1,1)]"], "666,500"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_published_configuration_trains_and_is_evaluated(
    run: Runner, tmp_path: Path, request: pytest.FixtureRequest, env, data, last, overrides, parameters
) -> None:
    folder = request.getfixturevalue(data)
    done = train_sh(run, tmp_path, f"training.iters={last}", *overrides, ENV=env, DATA_PATH=folder)
    assert done.returncode == 0, done.stderr
    assert "finished; the weights are in out/weights" in done.stdout
    refinements = 1 if overrides else 3
    tags = SCALARS | {f"train/norm_delta_lamda_{i}" for i in range(refinements)}
    tags |= set() if env == "multi_dsprites" else GECO_SCALARS
    level = f"_level_{2 + refinements}"
    images = {f"RGB{level}", f"masks{level}", f"reconstruction{level}", "attn_level_2", "image", "panel"}
    check_training(tmp_path / "out", f"emorl-{env}-seed-7", last, parameters, tags, images)

    checkpoint = f"emorl-{env}-seed-7-state-{last}.pth"
    done = eval_sh(run, tmp_path, "test.num_images_to_process=5", ENV=env, DATA_PATH=folder, CHECKPOINT=checkpoint)
    assert done.returncode == 0, done.stderr
    assert f"loaded out/weights/{checkpoint}" in done.stdout
    results = tmp_path / f"out/results/Multi_Object_Datasets/{checkpoint}-seed=3"
    check_evaluation(results, done.stdout, 5, has_kl=True)


def test_slot_attention_trains_and_is_evaluated(run: Runner, tmp_path: Path, tetrominoes: Path) -> None:
    words = {"ENV": "tetrominoes", "DATA_PATH": tetrominoes}
    done = train_sh(run, tmp_path, "training.iters=2", "training.tqdm=True", MODEL="SlotAttention", **words)
    assert done.returncode == 0, done.stderr
    assert "3/3" in done.stderr  # the progress bar
    images = {"RGB", "masks", "reconstruction", "image", "panel"}
    name = "emorl-tetrominoes-SlotAttention-seed-7"  # EMORL's run of this seed is another one
    check_training(tmp_path / "out", name, 2, "419,236", {"train/MSE", "train/lr"}, images)

    words |= {"CHECKPOINT": f"{name}-state-2.pth", "JSON_file": "SlotAttention"}
    done = eval_sh(run, tmp_path, "test.num_images_to_process=5", **words)
    assert done.returncode == 0, done.stderr
    results = tmp_path / f"out/results/Multi_Object_Datasets/{words['CHECKPOINT']}-seed=3"
    check_evaluation(results, done.stdout, 5, has_kl=False)


@pytest.fixture(scope="module")
def trained(run: Runner, tetrominoes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run of six steps."""
    out = tmp_path_factory.mktemp("trained")
    done = run(*train_words(tetrominoes, out))
    assert done.returncode == 0, done.stderr
    return out


def test_the_same_command_again_continues_and_the_log_has_no_double_points(
    run: Runner, tetrominoes: Path, trained: Path, tmp_path: Path
) -> None:
    for last in (3, 5):
        done = run(*train_words(tetrominoes, tmp_path, f"training.iters={last}"))
        assert done.returncode == 0, done.stderr
    assert f"continuing {tmp_path}/weights/tiny-state-3.pth after step 3" in done.stdout
    assert_same_weights(state_of(tmp_path, 5), state_of(trained, 5))
    assert len(list(tmp_path.glob("tb/*"))) == 1
    assert scalar_lines(tmp_path) == scalar_lines(trained)


@pytest.mark.parametrize("model", [pytest.param("EMORL", marks=pytest.mark.slow), "SlotAttention"])
def test_results_do_not_depend_on_the_batch_size_of_evaluation(
    run: Runner, tetrominoes: Path, tmp_path: Path, model: str
) -> None:
    done = run(*train_words(tetrominoes, tmp_path, "training.iters=1", model=model))
    assert done.returncode == 0, done.stderr
    lively = write_lively(tmp_path, 1)
    results = {}
    for size in (1, 5, 32):
        done = run(*eval_words(tetrominoes, tmp_path, lively, f"test.batch_size={size}", model=model))
        assert done.returncode == 0, done.stderr
        results[size] = evaluated(tmp_path, "lively.pth")["per_image"]
    assert np.std(results[1]["mse"]) > 1e-4
    assert np.abs(results[1]["ari"]).max() > 1e-3
    assert ("kl" in results[1]) == (model == "EMORL")
    for size in (5, 32):
        for name, values in results[1].items():
            assert results[size][name] == pytest.approx(values, rel=1e-5, abs=1e-5), (size, name)


@pytest.mark.parametrize("what", ["tiny-state-4.pth", ""])
def test_any_tool_opens_the_run_again(tetrominoes: Path, trained: Path, what: str) -> None:
    path = trained / "weights" / what if what else trained
    model, record = load_model(path)
    assert record.arguments["arguments"]["slot_size"] == 8
    assert record.data["h5_path"] == "tetrominoes.h5"
    assert not model.training
    image = MultiObjectH5(tetrominoes / "tetrominoes_test.h5", "test").read(np.arange(3))["image"].float() / 255
    found = model.decompose({"image": image}).validate()
    assert found.masks.shape == (3, 3, 35, 35)
    assert found.slots.shape == (3, 3, 8)
    stored = state_of(trained, 4 if what else 5)["model"]
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())


def test_print_config_shows_the_merged_configuration(run: Runner) -> None:
    json_file = "emorl/configs/train/tetrominoes/EMORL.json"
    done = run("emorl/train.py", "print_config", "with", json_file, "Net.K=5", "training.lr=1e-3")
    assert done.returncode == 0, done.stderr
    plain = re.sub(r"\x1b\[\d+m", "", done.stdout)
    for line in ("z_size = 32", "K = 5", "lr = 0.001", "geco_reconstruction_target = -1.224", "seed = 1"):
        assert re.search(rf"^\s*{re.escape(line)}$", plain, re.MULTILINE), line
    assert "h5_path = 'tetrominoes.h5'" in plain


@pytest.mark.parametrize("override", ["training.resident=True", "training.num_workers=2"])
def test_how_data_are_read_changes_no_bit(
    run: Runner, tetrominoes: Path, trained: Path, tmp_path: Path, override: str
) -> None:
    done = run(*train_words(tetrominoes, tmp_path, override))
    assert done.returncode == 0, done.stderr
    assert_same_weights(state_of(tmp_path, 5), state_of(trained, 5))
    assert scalar_lines(tmp_path) == scalar_lines(trained)


def test_bf16_keeps_float32_weights_and_nearly_the_same_loss(
    run: Runner, tetrominoes: Path, trained: Path, tmp_path: Path
) -> None:
    done = run(*train_words(tetrominoes, tmp_path, "training.precision=bf16"))
    assert done.returncode == 0, done.stderr
    found, wanted = ([row["train/total_loss"] for row in scalars(out)] for out in (tmp_path, trained))
    assert found == pytest.approx(wanted, rel=2e-2)
    ours, theirs = (state_of(out, 5)["model"] for out in (tmp_path, trained))
    assert {value.dtype for value in ours.values()} == {torch.float32}
    # The first losses hardly depend on the pictures, so only the weights tell that something was rounded.
    assert not all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.slow
def test_compiled_training_has_the_same_loss(run: Runner, tetrominoes: Path, trained: Path, tmp_path: Path) -> None:
    done = run(*train_words(tetrominoes, tmp_path, "training.compile=True"), timeout=900)
    assert done.returncode == 0, done.stderr
    found, wanted = ([row["train/total_loss"] for row in scalars(out)] for out in (tmp_path, trained))
    assert found == pytest.approx(wanted, rel=1e-4)
    load_model(tmp_path / "weights/tiny-state-5.pth")  # no trace of the compiler in the names


@pytest.mark.parametrize(
    "overrides",
    [
        ["Net.bottom_up_prior=True", "Net.reverse_prior_plusplus=False"],
        ["Net.reverse_prior_plusplus=False", "Net.use_DualGRU=False"],
        ["Net.image_likelihood=GMM", "Net.image_decoder=iodine", "training.use_geco=False"],
        ["Net.stochastic_layers=1", "training.kl_beta_init=0.5"],
        ["Net.refinement_iters=0", "training.refinement_curriculum=[(-1,0)]", "training.clip_grad_norm=False"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_variants_by_overrides_train_and_open_again(
    run: Runner, tetrominoes: Path, tmp_path: Path, overrides: list[str]
) -> None:
    done = run(*train_words(tetrominoes, tmp_path, "training.iters=2", *overrides))
    assert done.returncode == 0, done.stderr
    rows = scalars(tmp_path)
    assert len(rows) == 3
    assert all(isfinite(value) for row in rows for value in row.values())
    model, _ = load_model(tmp_path)
    found = model.decompose({"image": torch.rand(2, 3, 35, 35)}).validate()
    assert found.extras["kl"].shape == (2,)


def test_first_nll_follows_from_the_pictures_alone(tetrominoes: Path, trained: Path) -> None:
    """With the published initialisation every slot first shows plain grey 1/2, so the Gaussian nll needs no network."""
    source = MultiObjectH5(tetrominoes / "tetrominoes.h5", "train")
    image = source.read(epoch_order(len(source), seed=1, epoch=0)[:2])["image"].double() / 255
    log_std = -1.2039728
    nll = image[0].numel() * log_std + (image - 0.5).square().sum(dim=(1, 2, 3)) / (2 * exp(2 * log_std))
    assert scalars(trained)[0]["train/NLL"] == pytest.approx(float(nll.mean()), rel=1e-3)


@pytest.fixture
def clevrtex(tmp_path: Path) -> Path:
    """The tree of ClevrTex with twenty pictures: squares on noise, numbered over two folders."""
    rng = np.random.default_rng(0)
    for number in range(20):
        folder = tmp_path / f"data/clevrtex_full/{number // 10}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = rng.integers(60, 120, (240, 320, 3), dtype=np.uint8)
        labels = np.zeros((240, 320), np.uint8)
        for entity in (1, 2):
            top, left = rng.integers(30, 150), rng.integers(60, 200)
            picture[top : top + 50, left : left + 50] = rng.integers(0, 256, 3)
            labels[top : top + 50, left : left + 50] = entity
        Image.fromarray(picture).save(folder / f"CLEVRTEX_full_{number:06d}.png")
        Image.fromarray(labels).save(folder / f"CLEVRTEX_full_{number:06d}_flat.png")
        (folder / f"CLEVRTEX_full_{number:06d}.json").write_text("{}")
    return tmp_path / "data"


@pytest.mark.slow
def test_clevrtex_trains_and_is_evaluated(run: Runner, tmp_path: Path, clevrtex: Path) -> None:
    small = ["Net.K=3", "Net.z_size=8", "Net.refinement_iters=1", "Net.image_decoder=small"]
    words = ["training.iters=1", "training.refinement_curriculum=[(-1,1)]", *small]
    done = train_sh(run, tmp_path, *words, ENV="clevrtex", DATA_PATH="data")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out/weights/emorl-clevrtex-seed-7.run.json").read_text())
    assert record["arguments"]["arguments"]["image_size"] == [128, 128]
    assert record["data"]["texdataset"] == "data"
    words = ["texdataset.path=data", "Net.input_size=[3,128,128]", "test.geco_reconstruction_target=-1.5", *small]
    name = "emorl-clevrtex-seed-7-state-1.pth"
    done = eval_sh(run, tmp_path, *words, ENV="clevr6-96x96", CHECKPOINT=name)
    assert done.returncode == 0, done.stderr
    result = evaluated(tmp_path / "out", name)
    assert result["num_images"] == 2  # the first tenth of the numbering is the test split
    assert all(map(isfinite, result["per_image"]["mse"]))


@pytest.mark.parametrize(
    ("model", "batch_size", "name"),
    [("EMORL", 16, "emorl-tetrominoes-seed-1201"), ("SlotAttention", 32, "emorl-tetrominoes-SlotAttention-seed-1201")],
)
def test_models_have_batches_and_runs_of_their_own(
    run: Runner, tmp_path: Path, model: str, batch_size: int, name: str
) -> None:
    variables = {"ENV": "tetrominoes", "MODEL": model, "NUM_GPUS": 2, "OUT_DIR": tmp_path, "PYTHON": "echo"}
    command = run(ROOT / "emorl/scripts/train.sh", **variables).stdout.split()
    assert {f"training.batch_size={batch_size}", f"training.run_suffix={name}"} <= set(command)
    config = json.loads((ROOT / f"emorl/configs/train/tetrominoes/{model}.json").read_text())
    assert config["training"]["batch_size"] == 2 * batch_size


@pytest.mark.parametrize("script", ["train.sh", "eval.sh"])
def test_scripts_list_the_choices_for_an_unknown_environment(run: Runner, tmp_path: Path, script: str) -> None:
    done = run(ROOT / "emorl/scripts" / script, ENV="clevr7", OUT_DIR=tmp_path / "out")
    assert done.returncode == 1
    assert "emorl/configs/" in done.stderr
    assert "clevr7" in done.stderr
    for env in ("clevr6-96x96", "multi_dsprites", "tetrominoes"):
        assert env in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("script", "variables", "listed"),
    [
        ("train.sh", {"MODEL": "IODINE"}, "tetrominoes/SlotAttention.json"),
        ("eval.sh", {"EVAL_TYPE": "ari"}, "tetrominoes/ARI_MSE_KL/EMORL.json"),
        ("eval.sh", {"NUM_GPUS": 2}, "NUM_GPUS=1"),
    ],
)
def test_scripts_say_what_they_take(run: Runner, script: str, variables: dict[str, object], listed: str) -> None:
    done = run(ROOT / "emorl/scripts" / script, ENV="tetrominoes", **variables)
    assert done.returncode == 1
    assert listed in done.stderr
