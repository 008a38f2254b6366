import fcntl
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from core.synth import tetrominoes
from core.synth.h5_writer import sample_rng
from tools.make_data import DATASETS, main

ROOT = Path(__file__).parents[2]
NUM_KILLED = 5000


def make(root: Path, name: str = "tetrominoes", train: int = 300, test: int = 0, seed: int = 7, *more: str) -> int:
    return main([name, f"--root={root}", f"--train={train}", f"--test={test}", f"--seed={seed}", *more])


def begin_and_kill(root: Path, workers: int) -> int:
    """Start the tool, kill -9 it once some samples are recorded; returns how many the partial file records."""
    command = [sys.executable, "tools/make_data.py", "tetrominoes", "--root", root, "--train", NUM_KILLED, "--test", 0]
    process = subprocess.Popen(
        [*map(str, command), "--seed=7", f"--workers={workers}"], cwd=ROOT, stdout=subprocess.PIPE
    )
    partial = root / "tetrominoes.h5.partial"
    while not (partial.exists() and recorded(partial)):
        assert process.poll() is None, "the tool ended by itself"
        time.sleep(0.001)
    process.kill()
    # The workers inherit stdout: it ends only when the last of them has gone.
    process.communicate(timeout=20)
    return recorded(partial)


def recorded(path: Path) -> int:
    with h5py.File(path, "r", locking=False) as file:
        return int(file.attrs["completed"])


def assert_nothing_counted_is_missing(partial: Path) -> None:
    with h5py.File(partial, "r", locking=False) as file:
        completed = file.attrs["completed"]
        assert (file["train"]["factors"][:completed, :, 6] == 1).all()
        assert (file["train"]["masks"][:completed] == 255).sum() == completed * 35 * 35


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A partial tetrominoes.h5 of `NUM_KILLED` samples whose writer was killed."""
    root = tmp_path_factory.mktemp("killed")
    assert 0 < begin_and_kill(root, workers=1) < NUM_KILLED
    return root / "tetrominoes.h5.partial"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> bytes:
    root = tmp_path_factory.mktemp("uninterrupted")
    assert make(root, train=NUM_KILLED) == 0
    return (root / "tetrominoes.h5").read_bytes()


@pytest.mark.parametrize(
    ("name", "stem", "image", "entities", "factors"),
    [
        ("tetrominoes", "tetrominoes", (35, 35, 3), 4, 7),
        ("multi_dsprites", "multi_dsprites_colored_on_grayscale", (64, 64, 3), 6, 9),
        ("multi_dsprites_binarized", "multi_dsprites_binarized", (64, 64, 1), 4, 9),
        ("multi_dsprites_colored_on_grayscale", "multi_dsprites_colored_on_grayscale", (64, 64, 3), 6, 9),
        ("multi_dsprites_colored_on_colored", "multi_dsprites_colored_on_colored", (64, 64, 3), 5, 9),
    ],
)
def test_files(tmp_path, capsys, name, stem, image, entities, factors):
    assert make(tmp_path / "made", name, 140, 5) == 0
    printed = capsys.readouterr().out
    for split, file_name, count in (("train", f"{stem}.h5", 140), ("test", f"{stem}_test.h5", 5)):
        path = tmp_path / "made" / file_name
        assert f"{path}: {count} samples, {path.stat().st_size / 1e6:,.1f} MB, written" in printed
        with h5py.File(path) as file:
            assert list(file) == [split]
            group = file[split]
            assert {key: (array.shape, array.dtype) for key, array in group.items()} == {
                "imgs": ((count, *image), np.uint8),
                "masks": ((count, entities, *image[:2], 1), np.uint8),
                "factors": ((count, entities, factors), np.float32),
            }
            assert set(np.unique(group["masks"])) == {0, 255}
            assert list(group["factors"].attrs["names"])[:3] == ["x", "y", "shape"]
            assert len(group["factors"].attrs["names"]) == factors
            assert (file.attrs["seed"], file.attrs["split"], file.attrs["count"]) == (7, split, count)
            assert (file.attrs["completed"], file.attrs["format_version"]) == (count, 1)
            assert file.attrs["generator"].startswith("core.synth.")
            assert isinstance(json.loads(file.attrs["options"]), dict)
            for array in group.values():
                assert array.chunks is None
                mapped = np.memmap(path, array.dtype, "r", array.id.get_offset(), array.shape)
                assert mapped.flags.aligned
                np.testing.assert_array_equal(mapped, array)
    made = {path.name for path in (tmp_path / "made").iterdir()}
    assert made == {f"{stem}.h5", f"{stem}_test.h5", "dataset.json", "preview.png"}
    described = json.loads((tmp_path / "made" / "dataset.json").read_text())
    assert described["generated"] is True
    assert [file["split"] for file in described["files"].values()] == ["train", "test"]
    with Image.open(tmp_path / "made" / "preview.png") as preview:
        assert preview.width > preview.height > 2 * 64


def test_what_a_kill_kept_from_being_written_is_made_good(tmp_path):
    assert make(tmp_path, train=20, test=5) == 0
    described = (tmp_path / "dataset.json").read_bytes()
    for name in ("dataset.json", "preview.png"):
        (tmp_path / name).unlink()
    assert make(tmp_path, train=20, test=5) == 0
    assert (tmp_path / "dataset.json").read_bytes() == described
    assert (tmp_path / "preview.png").exists()
    words = ["celeba", f"--root={tmp_path}", "--scenes=3", "--width=20", "--height=24"]
    assert main(words) == 0
    (tmp_path / "CelebA/preview.png").unlink()
    assert main(words) == 0
    assert (tmp_path / "CelebA/preview.png").exists()


def test_numbers_are_finite(tmp_path, capsys):
    for value in ("nan", "inf", "0"):
        assert main(["obj3d", f"--root={tmp_path}", "--scenes=1", f"--fps={value}"]) == 1
        assert f"--fps {float(value)}: must be positive and finite" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_sample_depends_on_seed_split_and_index_only(tmp_path):
    assert make(tmp_path, train=200, test=200) == 0
    with h5py.File(tmp_path / "tetrominoes.h5") as train, h5py.File(tmp_path / "tetrominoes_test.h5") as test:
        for split, file, index in (("train", train, 0), ("train", train, 150), ("test", test, 150)):
            image, masks, factors = tetrominoes.sample(sample_rng(7, split, index))
            np.testing.assert_array_equal(file[split]["imgs"][index], image)
            np.testing.assert_array_equal(file[split]["masks"][index, ..., 0], masks)
            np.testing.assert_array_equal(file[split]["factors"][index], factors)
        pictures = [picture.tobytes() for picture in (*train["train"]["imgs"], *test["test"]["imgs"])]
    assert len(set(pictures)) == 400


def test_two_workers_write_the_same_bytes(tmp_path):
    for name, train in (("tetrominoes", 700), ("multi_dsprites_colored_on_colored", 300)):
        assert make(tmp_path / "one", name, train) == 0
        assert make(tmp_path / "two", name, train, 0, 7, "--workers=2") == 0
        (one,), (two,) = ((tmp_path / folder).glob(f"{name}.h5") for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_continues_after_kill(tmp_path, capsys, killed, uninterrupted):
    partial = Path(shutil.copy(killed, tmp_path))
    completed = recorded(partial)
    assert_nothing_counted_is_missing(partial)
    assert make(tmp_path, train=NUM_KILLED) == 0
    assert f"continued after {completed:,}" in capsys.readouterr().out
    assert (tmp_path / "tetrominoes.h5").read_bytes() == uninterrupted
    assert not partial.exists()


def test_workers_end_with_their_killed_parent(tmp_path, uninterrupted):
    assert 0 < begin_and_kill(tmp_path, workers=2) < NUM_KILLED
    assert_nothing_counted_is_missing(tmp_path / "tetrominoes.h5.partial")
    assert make(tmp_path, train=NUM_KILLED) == 0
    assert (tmp_path / "tetrominoes.h5").read_bytes() == uninterrupted


def test_partial_file_of_other_settings_is_kept(tmp_path, capsys, killed):
    partial = Path(shutil.copy(killed, tmp_path))
    before = partial.read_bytes()
    assert make(tmp_path, "tetrominoes", 400, 0, 8, "--shapes=17") == 1
    message = capsys.readouterr().err
    assert str(partial) in message
    assert "seed: 7 in the file, 8 asked for" in message
    assert f"count: {NUM_KILLED} in the file, 400 asked for" in message
    assert 'options: {"num_shapes": 19} in the file, {"num_shapes": 17} asked for' in message
    assert "--force" in message
    assert partial.read_bytes() == before
    assert make(tmp_path, "tetrominoes", 400, 0, 8, "--shapes=17", "--force") == 0
    assert recorded(tmp_path / "tetrominoes.h5") == 400


def test_partial_file_in_use_is_refused(tmp_path, capsys, killed):
    partial = Path(shutil.copy(killed, tmp_path))
    with partial.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for more in ([], ["--force"]):
            assert make(tmp_path, "tetrominoes", NUM_KILLED, 0, 7, *more) == 1
            assert f"{partial} is being written by another process" in capsys.readouterr().err
            assert partial.exists()


def test_finished_file_is_not_overwritten_unless_forced(tmp_path, capsys):
    path = tmp_path / "tetrominoes.h5"
    assert make(tmp_path) == 0
    before = path.read_bytes()
    assert make(tmp_path) == 0
    assert "already there" in capsys.readouterr().out
    assert make(tmp_path, seed=8) == 1
    message = capsys.readouterr().err
    assert f"{path} exists" in message
    assert "(seed: 7 in the file, 8 asked for)" in message
    assert "--force" in message
    assert path.read_bytes() == before
    assert make(tmp_path, "tetrominoes", 300, 0, 8, "--force") == 0
    assert path.read_bytes() != before
    assert make(tmp_path, "tetrominoes", 300, 0, 7, "--force") == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["text", "hdf5", "older generator"])
def test_foreign_file_is_not_overwritten(tmp_path, capsys, content):
    path = tmp_path / "tetrominoes.h5"
    if content == "text":
        path.write_text("not HDF5")
        expected = "no readable HDF5 file"
    elif content == "hdf5":
        h5py.File(path, "w").close()
        expected = "no attribute 'generator'"
    else:
        assert make(tmp_path) == 0
        with h5py.File(path, "r+") as file:
            file.attrs["first_sample_sha256"] = "0" * 64
        expected = "the generator has since changed"
    before = path.read_bytes()
    assert make(tmp_path) == 1
    message = capsys.readouterr().err
    assert str(path) in message
    assert expected in message
    assert path.read_bytes() == before


def run_with_file_size_limit(root: Path, limit: int) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/make_data.py", "tetrominoes", f"--root={root}", f"--train={NUM_KILLED}"]
    # CPython ignores SIGXFSZ, so that the write that exceeds the limit fails with EFBIG.
    return subprocess.run(
        [*command, "--test=0", "--seed=7"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


def test_disk_that_fills_up_keeps_what_is_there(tmp_path, capsys, killed, uninterrupted):
    partial = Path(shutil.copy(killed, tmp_path))
    completed = recorded(partial)
    with h5py.File(partial, "r") as file:
        factors = file["train"]["factors"].id.get_offset()  # the last of the arrays
    result = run_with_file_size_limit(tmp_path, limit=factors + (completed + 300) * 4 * 7 * 4)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    kept = recorded(partial)
    assert completed < kept <= completed + 300
    assert f"{partial} cannot be written: File too large. It keeps {kept:,} of 5,000 samples" in result.stderr
    assert_nothing_counted_is_missing(partial)
    assert make(tmp_path, train=NUM_KILLED) == 0
    assert f"continued after {kept:,}" in capsys.readouterr().out
    assert (tmp_path / "tetrominoes.h5").read_bytes() == uninterrupted


def test_file_that_cannot_fit_is_not_begun(tmp_path, capsys):
    result = run_with_file_size_limit(tmp_path, limit=1_000_000)
    assert result.returncode == 1
    assert f"{tmp_path / 'tetrominoes.h5.partial'} cannot be made 0.04 GB large: File too large" in result.stderr
    assert make(tmp_path, train=10**12) == 1
    message = capsys.readouterr().err
    assert f"{tmp_path / 'tetrominoes.h5.partial'} needs 8,687,000.00 GB, but the disk has" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tetrominos", "--train=1", "--test=1"], "no data set 'tetrominos'; did you mean 'tetrominoes'?"),
        (["tetrominoes", "--train=1", "--test=1", "--wokers=2"], "no flag '--wokers'; did you mean '--workers'?"),
        (["multi_dsprites", "--train=1", "--test=1", "--shapes=17"], "--shapes does not apply to multi_dsprites"),
        (["tetrominoes", "--train=0", "--test=0"], "--train and --test are both 0"),
        (["tetrominoes", "--train=-3", "--test=0"], "expected a whole number of at least 0, found '-3'"),
        (["tetrominoes", "--train=1", "--test=0", "--workers=0"], "expected a whole number of at least 1, found '0'"),
    ],
)
def test_wrong_command_lines(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        main([*words, f"--root={tmp_path}"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick():
    program = (
        "import runpy, sys\n"
        "sys.argv = ['tools/make_data.py', '--help']\n"
        "try: runpy.run_path('tools/make_data.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print(sorted({'torch', 'h5py', 'numpy'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, check=True)
    assert result.stdout.endswith("[]\n")
    for name in DATASETS:
        assert f"\n  {name} " in result.stdout
