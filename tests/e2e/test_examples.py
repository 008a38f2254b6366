"""The checkpoint that comes with the repository does what its README says."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Runner
from tests.tiny_runs import ROOT

EXAMPLE = ROOT / "examples/tetrominoes"


@pytest.fixture(scope="module")
def held_out(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 320 held-out pictures of the README: they do not depend on how many training pictures there are."""
    folder = tmp_path_factory.mktemp("held-out")
    done = run("tools/make_data.py", "tetrominoes", "--root", folder, "--train", 0, "--test", 320, "--seed", 1)
    assert done.returncode == 0, done.stderr
    return folder


def evaluate(run: Runner, script: str, data: Path, out: Path, **settings: str) -> None:
    settings |= {"ENV": "tetrominoes", "CHECKPOINT": "examples/tetrominoes/tetrominoes.pth"}
    words = [ROOT / "emorl/scripts" / script, "examples/tetrominoes/model.json"]
    done = run(*words, **settings, DATA_PATH=data, OUT_DIR=out)
    assert done.returncode == 0, done.stderr


def test_it_is_small_and_says_how_it_was_made():
    assert (EXAMPLE / "tetrominoes.pth").stat().st_size < 5e6
    text = (EXAMPLE / "README.md").read_text()
    for part in ("20,000 steps", "seed 1", "FG-ARI", "AMD EPYC", "examples/tetrominoes/train.json"):
        assert part in text
    assert json.loads((EXAMPLE / "train.json").read_text())["training"]["iters"] == 19999


def test_it_scores_what_its_readme_says(run: Runner, held_out: Path, tmp_path: Path):
    evaluate(run, "eval.sh", held_out, tmp_path)
    (result,) = tmp_path.glob("results/*/*/ARI_MSE_KL.json")
    scores = json.loads(result.read_text())
    assert scores["num_images"] == 320
    # The figures of the README; another machine rounds differently, and a slot may start elsewhere.
    assert scores["fg_ari"]["mean"] == pytest.approx(0.933, abs=0.01)
    assert scores["mse"]["mean"] == pytest.approx(0.0049, abs=0.0005)


@pytest.mark.slow
def test_its_gifs_move_and_its_codes_tell_the_factors(run: Runner, held_out: Path, tmp_path: Path):
    evaluate(run, "make_gifs.sh", held_out, tmp_path)
    (folder,) = tmp_path.glob("results/tetrominoes_gifs/*")
    assert len(list(folder.glob("slot_*_row_*.gif"))) == 3 * 10
    active = np.load(folder / "activeness.npy").mean(axis=0)
    assert set(active.argsort()[-2:]) == {64, 65}  # row and column
    evaluate(run, "eval.sh", held_out, tmp_path, EVAL_TYPE="disentanglement", JSON_file="EMORL_dci")
    (result,) = tmp_path.glob("results/tetrominoes_disentanglement/*/dci.json")
    scores = json.loads(result.read_text())
    assert scores["dci"]["disentanglement"] == pytest.approx(0.91, abs=0.03)
    assert scores["dci"]["completeness"] == pytest.approx(0.75, abs=0.03)
    assert scores["property_prediction"]["x"]["linear"] > 0.9
    assert scores["property_prediction"]["colour_r"]["linear"] > 0.95
    importance = np.array(scores["importance"])
    names = list(scores["factors"])
    assert importance[:, names.index("y")].argmax() == 64
    assert importance[:, names.index("x")].argmax() == 65


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path):
    import nbclient
    import nbformat

    notebook = nbformat.read(ROOT / "emorl/notebooks/demo.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}})
    client.execute()  # raises on an error in any cell
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 5
    assert min(len(picture["data"]["image/png"]) for picture in pictures) > 5000
    printed = "".join(output.get("text", "") for output in outputs)
    assert "10 files rinfo_*.pkl" in printed
    assert "30 gifs" in printed
