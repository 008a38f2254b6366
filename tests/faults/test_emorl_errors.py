"""What goes wrong for users of EfficientMORL gives one message that says how to go on, and loses no checkpoint."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from core.training.checkpoint import load, save
from tests.conftest import Runner
from tests.tiny_runs import ROOT, assert_same_weights, eval_words, scalars, state_of, train_words


def message_of(done: subprocess.CompletedProcess) -> str:
    """The error that a failed command printed, which is no traceback."""
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("UserError: ") + done.stderr.count("error: ") == 1, done.stderr
    return done.stderr.split("UserError: ")[-1].split("error: ")[-1].strip()


@pytest.fixture(scope="module")
def trained(run: Runner, tetrominoes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints 2, 4 and 5. Tests that change it take a copy."""
    out = tmp_path_factory.mktemp("trained")
    done = run(*train_words(tetrominoes, out))
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "weights").iterdir() if path.suffix == ".pth"}


# ---- disks ----


@pytest.mark.parametrize("processes", [1, 2])
def test_checkpoint_that_does_not_fit(run: Runner, tetrominoes: Path, copy: Path, processes: int) -> None:
    before = contents(copy)
    words = train_words(tetrominoes, copy, "training.iters=8", f"training.batch_size={2 // processes}")
    words = [words[0], "--processes", processes, *words[1:]]
    limited = ["bash", "-c", 'ulimit -f 1000; exec "$PYTHON" "$@"', "bash"]  # files up to 1000 blocks of 1024 bytes
    done = run(*limited, *words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{copy}/weights/tiny-state-6.pth: cannot be written (File too large)" in done.stderr
    assert "Older checkpoints" in done.stderr
    assert contents(copy) == before
    assert not list(copy.glob("weights/.*partial"))
    if processes > 1:
        return
    done = run(*words)  # the limit is gone: the same command continues
    assert done.returncode == 0, done.stderr
    assert "after step 5" in done.stdout
    assert [row["step"] for row in scalars(copy)] == list(range(9))


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of twelve megabytes: two checkpoints and no third."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk(run: Runner, tetrominoes: Path, small_disk: Path) -> None:
    words = train_words(tetrominoes, small_disk, "training.iters=8")
    done = run(*words)
    assert "tiny-state-6.pth: cannot be written (No space left on device)" in message_of(done)
    before = contents(small_disk)
    assert sorted(before) == ["tiny-state-2.pth", "tiny-state-4.pth"]
    assert state_of(small_disk, 4)["step"] == 4
    filler = small_disk / "filler"
    run("dd", "if=/dev/zero", f"of={filler}", "bs=4096")  # until not one byte is left
    message = message_of(run(*words))
    assert "No space left on device" in message
    assert str(small_disk) in message
    assert contents(small_disk) == before
    filler.unlink()
    (small_disk / "weights/tiny-state-2.pth").unlink()
    done = run(*words, "training.keep_checkpoints=1", "training.iters=6")
    assert done.returncode == 0, done.stderr
    assert sorted(contents(small_disk)) == ["tiny-state-6.pth"]


@pytest.mark.parametrize("program", ["train", "eval"])
def test_output_folder_that_is_a_file(run: Runner, tetrominoes: Path, trained: Path, tmp_path: Path, program) -> None:
    (tmp_path / "file").write_text("")
    if program == "train":
        words = train_words(tetrominoes, tmp_path / "file")
    else:
        checkpoint = trained / "weights/tiny-state-5.pth"
        words = eval_words(tetrominoes, tmp_path / "file", str(checkpoint), "test.num_images_to_process=1")
    assert f"{tmp_path}/file" in message_of(run(*words))


# ---- checkpoints ----


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_truncated_newest_checkpoint_falls_back(run: Runner, tetrominoes: Path, trained: Path, copy: Path) -> None:
    truncate(copy / "weights/tiny-state-5.pth")
    done = run(*train_words(tetrominoes, copy), PYTHONWARNINGS="default")
    assert done.returncode == 0, done.stderr
    assert f"{copy}/weights/tiny-state-5.pth: not a readable checkpoint" in done.stderr
    assert "Falling back to an older checkpoint" in done.stderr
    assert f"continuing {copy}/weights/tiny-state-4.pth after step 4" in done.stdout
    assert_same_weights(state_of(copy, 5), state_of(trained, 5))


def test_truncated_checkpoint_asked_for_by_name(run: Runner, tetrominoes: Path, copy: Path) -> None:
    truncate(copy / "weights/tiny-state-5.pth")
    before = contents(copy)
    chosen = ["training.load_from_checkpoint=True", "training.checkpoint=tiny-state-5.pth"]
    message = message_of(run(*train_words(tetrominoes, copy, *chosen)))
    assert f"{copy}/weights/tiny-state-5.pth: not a readable checkpoint" in message
    assert "The newest other checkpoint beside it is tiny-state-4.pth" in message
    assert contents(copy) == before


def test_flipped_bit_is_noticed(run: Runner, tetrominoes: Path, copy: Path) -> None:
    path = copy / "weights/tiny-state-5.pth"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = message_of(run(*eval_words(tetrominoes, copy, path.name)))
    assert f"{path}: damaged" in message
    assert "tiny-state-4.pth" in message


def test_nothing_readable_is_no_fresh_start(run: Runner, tetrominoes: Path, copy: Path) -> None:
    for path in copy.glob("weights/*.pth"):
        truncate(path)
    before = contents(copy)
    message = message_of(run(*train_words(tetrominoes, copy)))
    assert "none of the checkpoints tiny-state-* can be read" in message
    assert contents(copy) == before


def test_a_damaged_later_checkpoint_does_not_push_out_good_ones(run: Runner, tetrominoes: Path, copy: Path) -> None:
    (copy / "weights/tiny-state-100.pth").write_bytes(b"damaged")
    done = run(*train_words(tetrominoes, copy, "training.iters=6", "training.keep_checkpoints=1"))
    assert done.returncode == 0, done.stderr
    assert sorted(contents(copy)) == ["tiny-state-100.pth", "tiny-state-6.pth"]


def test_load_from_checkpoint_needs_a_name(run: Runner, tetrominoes: Path, trained: Path) -> None:
    chosen = ["training.load_from_checkpoint=True"]
    message = message_of(run(*train_words(tetrominoes, trained, *chosen)))
    assert "training.load_from_checkpoint=True needs training.checkpoint=FILE" in message


def test_checkpoint_that_is_not_there(run: Runner, tetrominoes: Path, trained: Path) -> None:
    chosen = ["training.load_from_checkpoint=True", "training.checkpoint=tiny-state-3.pth"]
    message = message_of(run(*train_words(tetrominoes, trained, *chosen)))
    assert f"{trained}/weights/tiny-state-3.pth: no such checkpoint" in message
    assert "tiny-state-5.pth" in message


def test_changed_configuration_in_an_old_run_folder(run: Runner, tetrominoes: Path, copy: Path) -> None:
    before = contents(copy)
    record = (copy / "weights/tiny.run.json").read_text()
    changed = ["Net.z_size=16", "training.lr=1e-3", "seed=2", "training.iters=9"]
    message = message_of(run(*train_words(tetrominoes, copy, *changed)))
    assert f"{copy}/weights/tiny-state-5.pth was made with another configuration" in message
    for line in ("Net.z_size: 8 -> 16", "training.lr: 0.0004 -> 0.001", "seed: 1 -> 2"):
        assert f"\n  {line}" in message
    assert "iters" not in message
    assert "Use that configuration to continue it, another training.run_suffix to start afresh" in message
    assert "training.load_from_checkpoint=True training.checkpoint=tiny-state-5.pth to continue with" in message
    assert contents(copy) == before
    assert (copy / "weights/tiny.run.json").read_text() == record


def test_checkpoint_from_before_a_key_existed_continues(run: Runner, tetrominoes: Path, copy: Path) -> None:
    path = copy / "weights/tiny-state-5.pth"
    state = load(path)
    del state["identity"]["Net"]["small_init"]
    save(path, state)
    done = run(*train_words(tetrominoes, copy, "training.iters=6"))
    assert done.returncode == 0, done.stderr
    assert f"continuing {path} after step 5" in done.stdout
    message = message_of(run(*train_words(tetrominoes, copy, "training.iters=7", "Net.small_init=False")))
    assert "Net.small_init: True -> False" in message


def test_weights_of_another_architecture(run: Runner, tetrominoes: Path, trained: Path) -> None:
    message = message_of(run(*eval_words(tetrominoes, trained, "tiny-state-5.pth", "Net.z_size=16")))
    assert f"{trained}/weights/tiny-state-5.pth: the weights are not those of this EfficientMORL" in message
    assert "decoder.position.weight: [8, 4] in the file, [16, 4] in the model" in message
    assert "Use the configuration that the weights were trained with" in message
    message = message_of(run(*eval_words(tetrominoes, trained, "tiny-state-5.pth", "test.model=SlotAttention")))
    assert "not those of this SlotAttention" in message


@pytest.mark.parametrize("trained_with", [True, False])
def test_geco_in_evaluation_as_in_training(
    run: Runner, tetrominoes: Path, trained: Path, tmp_path: Path, trained_with: bool
) -> None:
    """The refinement depends on GECO's weight: figures without it would belong to another model."""
    out = trained
    if not trained_with:
        out = tmp_path
        done = run(*train_words(tetrominoes, out, "training.use_geco=False", "training.iters=1"))
        assert done.returncode == 0, done.stderr
    name = "tiny-state-5.pth" if trained_with else "tiny-state-1.pth"
    message = message_of(run(*eval_words(tetrominoes, out, name, f"test.use_geco={not trained_with}")))
    assert f"was trained {'with' if trained_with else 'without'} GECO" in message
    assert f"Set test.use_geco={trained_with}" in message


def test_evaluation_without_a_checkpoint(run: Runner, tetrominoes: Path, trained: Path, tmp_path: Path) -> None:
    message = message_of(run(*eval_words(tetrominoes, trained, "")))
    assert "test.checkpoint is not set" in message
    assert "tiny-state-2.pth, tiny-state-4.pth, tiny-state-5.pth" in message
    message = message_of(run(*eval_words(tetrominoes, tmp_path, "")))
    assert f"{tmp_path}/weights holds none" in message
    assert not (trained / "results").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text", "not a readable checkpoint"),
        (torch.ones(3), "holds a Tensor, no checkpoint"),
        ({"losses": [1.0, 2.0]}, "holds no weights of a model"),
        ({"model": {"fc.weight": torch.ones(3)}}, "the weights are not those of this EfficientMORL"),
    ],
    ids=["text", "tensor", "dictionary", "other-model"],
)
def test_file_that_is_no_checkpoint(run: Runner, tetrominoes: Path, tmp_path: Path, content, said: str) -> None:
    path = tmp_path / "weights/file.pth"
    path.parent.mkdir()
    path.write_text(content) if isinstance(content, str) else torch.save(content, path)
    message = message_of(run(*eval_words(tetrominoes, tmp_path, "file.pth")))
    assert f"{path}: " in message
    assert said in message
    assert "arbitrary code" not in message  # torch's hint to switch the protection off


def test_file_without_the_state_of_a_training(run: Runner, tetrominoes: Path, trained: Path, tmp_path: Path) -> None:
    torch.save(state_of(trained, 5)["model"], tmp_path / "weights.pth")
    chosen = ["training.load_from_checkpoint=True", f"training.checkpoint={tmp_path}/weights.pth"]
    message = message_of(run(*train_words(tetrominoes, tmp_path, *chosen)))
    assert f"{tmp_path}/weights.pth: holds no state of a training" in message


def test_file_with_code_in_it_is_not_run(run: Runner, tetrominoes: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trapped"),))

    (tmp_path / "weights").mkdir()
    torch.save({"model": Trap()}, tmp_path / "weights/trap.pth")
    message = message_of(run(*eval_words(tetrominoes, tmp_path, "trap.pth")))
    assert "holds more than tensors and builtin types" in message
    assert not (tmp_path / "trapped").exists()


# ---- data ----


def test_truncated_data_file(run: Runner, tetrominoes: Path, tmp_path: Path) -> None:
    (tmp_path / "tetrominoes.h5").write_bytes((tetrominoes / "tetrominoes.h5").read_bytes()[:100_000])
    message = message_of(run(*train_words(tmp_path, tmp_path / "out")))
    assert f"{tmp_path}/tetrominoes.h5: not a readable .h5 file" in message
    assert "fetch or generate it again" in message


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_pictures_in_a_data_file(run: Runner, tetrominoes: Path, tmp_path: Path, workers: int) -> None:
    """The file opens, and its pictures turn out to be damaged in a worker: no traceback of the worker's either."""
    with h5py.File(tetrominoes / "tetrominoes.h5") as file:
        images = file["train/imgs"][:]
    path = tmp_path / "tetrominoes.h5"
    with h5py.File(path, "w") as file:
        chunks = file.create_dataset("train/imgs", data=images, chunks=(16, 35, 35, 3), compression="gzip").id
        damaged = chunks.get_chunk_info(3).byte_offset
    with path.open("r+b") as file:
        file.seek(damaged)
        file.write(bytes(100))
    message = message_of(run(*train_words(tmp_path, tmp_path / "out", f"training.num_workers={workers}")))
    assert f"{path}: train/imgs[" in message
    assert "cannot be read" in message


def test_evaluation_of_data_without_masks(run: Runner, tetrominoes: Path, trained: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "tetrominoes_test.h5", "w") as file:
        file["test/imgs"] = np.zeros((4, 35, 35, 3), np.uint8)
    message = message_of(run(*eval_words(tmp_path, trained, "tiny-state-5.pth")))
    assert f"{tmp_path}/tetrominoes_test.h5: group 'test' has no 'masks', only 'imgs'" in message
    message = message_of(run(*eval_words(tetrominoes, trained, "tiny-state-5.pth", "dataset.masks=False")))
    assert "set dataset.masks=True" in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataset.h5_path=tetrominos.h5", "tetrominos.h5: no such file"),
        ("dataset.h5_path=", "no data: set dataset.data_path=FOLDER and dataset.h5_path=FILE.h5"),
        ("training.mode=test", "no group 'test'; the file holds 'train'"),
        ("Net.input_size=[3,64,64]", "pictures are 35x35, Net.input_size asks for 64x64"),
        ("training.batch_size=300", "256 samples are fewer than one global batch of 300"),
    ],
)
def test_data_that_are_not_there(run: Runner, tetrominoes: Path, tmp_path: Path, override: str, said: str) -> None:
    assert said in message_of(run(*train_words(tetrominoes, tmp_path, override)))
    assert not list(tmp_path.glob("weights/*.pth"))


# ---- training ----


def test_loss_that_is_no_number(run: Runner, tetrominoes: Path, tmp_path: Path) -> None:
    """The warm-up begins with a rate of 0; step 1 moves the weights beyond all bounds, step 2 notices."""
    words = train_words(tetrominoes, tmp_path, "training.lr=1e30", "training.checkpoint_freq=1")
    message = message_of(run(*words))
    assert "step 2: the loss or its gradient is not finite" in message
    assert f"The newest checkpoint is {tmp_path}/weights/tiny-state-1.pth" in message
    assert "Lower the learning rate" in message
    assert list(contents(tmp_path)) == ["tiny-state-1.pth"]
    assert all(value.isfinite().all() for value in state_of(tmp_path, 1)["model"].values())


# ---- settings ----


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("Net.z_sise=8", "unknown key Net.z_sise: did you mean Net.z_size?"),
        ("training.lr.x=1", "unknown key training.lr.x: training.lr has no keys of its own"),
        ("Net.z_size=eight", "Net.z_size='eight' is str, expected int like 64"),
        ("training.use_geco=1", "training.use_geco=1 is int, expected bool like True"),
        ("training.precision=fp8", "training.precision='fp8' is not one of 'fp32', "),
        ("Net.bottom_up_prior=True", "Net.bottom_up_prior and Net.reverse_prior_plusplus exclude each other"),
        ("training.checkpoint_freq=0", "training.checkpoint_freq=0 must be at least 1"),
    ],
)
def test_setting_that_cannot_be(run: Runner, tetrominoes: Path, tmp_path: Path, override: str, said: str) -> None:
    assert said in message_of(run(*train_words(tetrominoes, tmp_path, override)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"Net": {"z_sise": 8}}, "unknown key Net.z_sise: did you mean Net.z_size?"),
        ({"Net": {"z_size": "8"}}, "Net.z_size='8' is str, expected int like 64"),
        ('{"Net": {"z_size": 8},', "not valid JSON"),
        ([1, 2], "holds a list, expected sections of keys"),
        (None, "no such configuration"),
    ],
    ids=["misspelt", "type", "syntax", "list", "missing"],
)
def test_configuration_file_that_cannot_be(run: Runner, tetrominoes: Path, tmp_path: Path, content, said: str) -> None:
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    message = message_of(run(*train_words(tetrominoes, tmp_path, str(path))))
    assert message.startswith(f"{path}: ")
    assert said in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("test.experiment_name=NAME_HERE", "test.experiment_name is not set"),
        ("test.eval_type=ARI", "test.eval_type='ARI' is not one of "),
        ("test.eval_tpye=ARI_MSE_KL", "unknown key test.eval_tpye: did you mean test.eval_type?"),
        ("test.batch_size=0", "test.batch_size=0 must be at least 1"),
    ],
)
def test_setting_of_an_evaluation_that_cannot_be(
    run: Runner, tetrominoes: Path, trained: Path, override: str, said: str
) -> None:
    assert said in message_of(run(*eval_words(tetrominoes, trained, "tiny-state-5.pth", override)))


def test_errors_reach_the_user_of_the_scripts_alike(run: Runner, tmp_path: Path) -> None:
    for script in ("train.sh", "eval.sh"):
        done = run(ROOT / "emorl/scripts" / script, "Net.z_sise=8", ENV="tetrominoes", OUT_DIR=tmp_path, NUM_GPUS=1)
        assert message_of(done) == "unknown key Net.z_sise: did you mean Net.z_size?"
