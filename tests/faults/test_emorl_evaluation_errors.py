"""What goes wrong in an evaluation gives one message that says how to go on."""

import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import Runner
from tests.faults.test_emorl_errors import message_of
from tests.tiny_runs import ROOT, eval_words, train_words


@pytest.fixture(scope="module")
def trained(run: Runner, tetrominoes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    done = run(*train_words(tetrominoes, out, "training.iters=2"))
    assert done.returncode == 0, done.stderr
    return out


def failure(run: Runner, data: Path, out: Path, *overrides: str, kind: str = "ARI_MSE_KL", model: str = "EMORL") -> str:
    return message_of(run(*eval_words(data, out, "tiny-state-2.pth", *overrides, kind=kind, model=model)))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("test.eval_type=ARI_MSE", "is not one of 'ARI_MSE_KL', 'clevrtex', 'dci', .* did you mean 'ARI_MSE_KL'?"),
        ("test.eval_type=disentanglement", "did you mean 'disentanglement_"),
        ("test.eval_type=", "test.eval_type='' is not one of"),
        ("test.eval_type=dci", "compares with true factors: set dataset.factors=True"),
        ("test.eval_type=dci texdataset.path=data", "true factors, which ClevrTex has not: use an .h5 file"),
        ("test.disentangle_slot=3", "test.disentangle_slot=3: with Net.K=3 there are slots 0 to 2"),
        ("test.disentangle_slot=-1", "there are slots 0 to 2"),
        ("test.range_images=0", "test.range_images=0 must be at least 1"),
        ("test.eval_type=sample_viz dataset.masks=False", "compares with true masks: set dataset.masks=True"),
        ("test.as_original=yes", "test.as_original='yes' is str, expected bool"),
    ],
)
def test_an_evaluation_that_cannot_be(run: Runner, tetrominoes: Path, trained: Path, override: str, said: str) -> None:
    message = failure(run, tetrominoes, trained, *override.split())
    for part in said.split(" .* "):
        assert part in message


def test_no_folder_is_made_for_an_evaluation_that_cannot_be(run: Runner, tetrominoes: Path, trained: Path) -> None:
    failure(run, tetrominoes, trained, "test.eval_type=nothing", "test.experiment_name=never")
    assert not (trained / "results/never").exists()


def test_data_without_factors(run: Runner, trained: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "tetrominoes_test.h5", "w") as file:
        file["test/imgs"] = np.zeros((4, 35, 35, 3), np.uint8)
        file["test/masks"] = np.zeros((4, 4, 35, 35, 1), np.uint8)
    message = failure(run, tmp_path, trained, kind="disentanglement", model="EMORL_dci")
    assert f"{tmp_path}/tetrominoes_test.h5: group 'test' has no 'factors', only 'imgs', 'masks'" in message


@pytest.mark.parametrize("kind", ["sample_viz", "make_gifs"])
def test_data_without_masks(run: Runner, trained: Path, tmp_path: Path, kind: str) -> None:
    """Pictures alone suffice where nothing is compared."""
    with h5py.File(tmp_path / "tetrominoes_test.h5", "w") as file:
        file["test/imgs"] = np.zeros((4, 35, 35, 3), np.uint8)
    message = failure(run, tmp_path, trained, kind=kind)
    assert f"{tmp_path}/tetrominoes_test.h5: group 'test' has no 'masks', only 'imgs'" in message
    if kind == "make_gifs":
        words = eval_words(tmp_path, trained, "tiny-state-2.pth", "dataset.masks=False", kind=kind)
        done = run(*words, "test.range_images=2")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["make_gifs", "sample_viz"])
def test_checkpoint_of_another_size(run: Runner, tetrominoes: Path, trained: Path, kind: str) -> None:
    message = failure(run, tetrominoes, trained, "Net.z_size=16", kind=kind)
    assert f"{trained}/weights/tiny-state-2.pth: the weights are not those of this EfficientMORL" in message
    assert "Use the configuration that the weights were trained with" in message


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of three hundred kilobytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk(run: Runner, tetrominoes: Path, trained: Path, small_disk: Path) -> None:
    """The file that does not fit is named and not left behind in halves."""
    checkpoint = str(trained / "weights/tiny-state-2.pth")
    words = eval_words(tetrominoes, small_disk, checkpoint, kind="sample_viz")
    message = message_of(run(*words))
    assert "No space left on device" in message
    assert str(small_disk) in message
    left = [path.name for path in small_disk.rglob("*") if path.is_file()]
    assert not [name for name in left if name.endswith(".tmp")]


def test_misspelt_flag_of_the_script(run: Runner, tmp_path: Path) -> None:
    done = run(ROOT / "emorl/scripts/make_gifs.sh", "test.batchsize=8", ENV="tetrominoes", OUT_DIR=tmp_path)
    assert message_of(done) == "unknown key test.batchsize: did you mean test.batch_size?"


def test_slim_checkpoint_says_what_is_wrong(run: Runner, trained: Path, tmp_path: Path) -> None:
    source, target = trained / "weights/tiny-state-2.pth", tmp_path / "new/slim.pth"
    done = run("tools/slim_checkpoint.py", source, target)
    assert done.returncode == 0, done.stderr
    assert target.stat().st_size < 0.5 * source.stat().st_size
    done = run("tools/slim_checkpoint.py", source, target)
    assert done.returncode == 2
    assert f"{target} exists: remove it, or choose another name" in done.stderr
    assert "no such checkpoint" in message_of(
        run("tools/slim_checkpoint.py", tmp_path / "gone.pth", tmp_path / "b.pth")
    )
    (tmp_path / "text.pth").write_text("text")
    message = message_of(run("tools/slim_checkpoint.py", tmp_path / "text.pth", tmp_path / "b.pth"))
    assert "not a readable checkpoint" in message
