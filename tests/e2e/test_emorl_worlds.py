"""EfficientMORL's larger configurations on data sets that the repository renders itself."""

import json
from pathlib import Path

import pytest

from core.data.safe_pickle import load_pickle
from tests.conftest import Runner
from tests.tiny_runs import ROOT

SMALL = ("Net.K=3", "Net.z_size=8", "Net.refinement_iters=1", "Net.image_decoder=small")


def succeed(done) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def train_and_evaluate(run: Runner, env: str, data: Path, out: Path, evaluations: dict[str, str]) -> None:
    """One step of training, then each evaluation by its folder of configurations."""
    settings = {"ENV": env, "DATA_PATH": data, "OUT_DIR": out, "SEED": 1}
    words = ("training.iters=1", "training.num_workers=0", "training.refinement_curriculum=[(-1,1)]", *SMALL)
    succeed(run(ROOT / "emorl/scripts/train.sh", *words, **settings, NUM_GPUS=1, BATCH_SIZE=1))
    settings["CHECKPOINT"] = f"emorl-{env}-seed-1-state-1.pth"
    for kind, experiment in evaluations.items():
        few = ("test.num_images_to_process=2", "test.range_images=1", *SMALL)
        stdout = succeed(run(ROOT / "emorl/scripts/eval.sh", *few, **settings, EVAL_TYPE=kind))
        assert f"results in {out}/results/{experiment}/" in stdout


@pytest.fixture(scope="module")
def clevrtex(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants of twenty pictures, a tenth of which are test pictures."""
    root = tmp_path_factory.mktemp("clevrtex")
    for name in ("clevrtex", "clevrtex_grassbg"):
        words = ("--scenes", 20, "--samples", 1, "--width", 160, "--height", 120)
        succeed(run("tools/make_data.py", name, "--root", root, *words))
    return root


@pytest.mark.slow
def test_clevrtex(run: Runner, clevrtex: Path, tmp_path: Path) -> None:
    kinds = {"clevrtex": "clevrtex-full", "ARI_MSE_KL": "clevrtex-full", "sample_viz": "clevrtex-grassbg"}
    train_and_evaluate(run, "clevrtex", clevrtex, tmp_path, kinds)
    (folder,) = (tmp_path / "results/clevrtex-full").iterdir()
    found = json.loads((folder / "clevrtex.json").read_text())
    other = json.loads((folder / "ARI_MSE_KL.json").read_text())
    assert found["num_images"] == other["num_images"] == 2
    assert found["ARI_FG"]["mean"] == pytest.approx(other["fg_ari"]["mean"], abs=1e-6)
    (folder,) = (tmp_path / "results/clevrtex-grassbg").iterdir()
    content = load_pickle(folder / "rinfo_0.pkl")
    assert content["data"]["image"].shape == (1, 128, 128, 3)
    red, green, blue = content["data"]["image"][0].mean(axis=(0, 1))
    assert green > max(red, blue)  # grass: the other variant was read


@pytest.mark.slow
def test_clevr10(run: Runner, tmp_path: Path) -> None:
    data = tmp_path / "data"
    succeed(run("tools/make_data.py", "clevr10", "--root", data, "--train", 2, "--test", 2, timeout=600))
    kinds = {"clevrtex": "clevr10", "sample_viz": "clevr10", "ARI_MSE_KL": "clevr10", "make_gifs": "clevr10_gifs"}
    train_and_evaluate(run, "clevr6-128x128", data, tmp_path / "out", kinds)
    (folder,) = (tmp_path / "out/results/clevr10").iterdir()
    assert {path.name for path in folder.iterdir()} >= {
        *("clevrtex.json", "ARI_MSE_KL.json", "sample_viz.json"),
        *("ARI.txt", "rinfo_0.pkl", "rinfo_1.pkl", "panel_1.png"),
    }
    (gifs,) = (tmp_path / "out/results/clevr10_gifs").iterdir()
    assert len(list(gifs.glob("slot_*_row_*.gif"))) == 3 * 8  # eight dimensions in this small model
