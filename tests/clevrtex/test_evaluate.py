"""The evaluation's parts: which data, which scores and pictures, what several runs have in common, what goes wrong."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clevrtex import evaluate as program
from clevrtex.framework.catalogue import EXPERIMENTS, experiment_class
from clevrtex.framework.evaluation import default_data, evaluate, framed_as, open_data
from clevrtex.framework.reports import breakdown_lines, headline_table, latex_rows, over_runs, summary_csv
from clevrtex.framework.trained import Trained, find_checkpoint, open_trained
from clevrtex.models import build_model
from core.data.errors import DataError
from core.data.spec import DataSpec, MissingData
from core.nn.noise import Noise
from core.runs import RunRecord, load_model
from core.training.checkpoint import CheckpointError, save
from core.types import Decomposition
from tests.clevrtex_scenes import GROUNDS, MATERIALS, NUM_OBJECTS, write_scenes

CPU = torch.device("cpu")
SIDE = 16
TRAINED_ON = f"clevrtex:full-crop-({SIDE},{SIDE})"
SLOTA = {"image_size": [SIDE, SIDE], "num_slots": 3, "decoder_initial_size": [1, 1]}


class Oracle(nn.Module):
    """Looks the truth up: slot (label + 1) mod 5 holds a label, so that slots have to be matched; `noise` is added."""

    def __init__(self, noise: float = 0.0):
        super().__init__()
        self.noise = nn.Parameter(torch.tensor(noise), requires_grad=False)
        self.batches: list[int] = []

    def decompose(self, batch: dict[str, Tensor], noise: Noise) -> Decomposition:
        self.batches.append(len(batch["image"]))
        masks = torch.nn.functional.one_hot((batch["mask"].long() + 1) % 5, 5).movedim(-1, 1).float()
        recon = batch["image"] + self.noise * noise("recon", batch["image"].shape)
        return Decomposition(recon.clamp(0, 1), masks, recon.unsqueeze(1).expand(-1, 5, -1, -1, -1))


def trained(model: nn.Module, data: str = TRAINED_ON, **changes) -> Trained:
    fields = {
        "model": model,
        "name": "oracle",
        "checkpoint": Path("runs/a/checkpoints/best.ckpt"),
        "results": Path("runs/a/evaluation"),
        "image_size": (SIDE, SIDE),
        "data": data,
        "data_root": None,
        "seed": 3,
        "batch_size": 4,
        "steps": 5,
        "masks_have_background": True,
    }
    return Trained(**fields | changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 scenes of `full`, ten of them for testing, and the nine of `outd`, of which nothing is described."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder)
    return write_scenes(folder, "outd", 9, descriptions=False)


def scores(root: Path, model: nn.Module, data: str = TRAINED_ON, **options):
    return evaluate(trained(model), data, DataSpec.parse(data).open("test", root, masks=True), **options)


@pytest.mark.parametrize(
    ("trained_on", "data"),
    [
        ("clevr-crop-(128,128)", ["clevr"]),
        ("clevr6-crop-(128,128)-rbg", ["clevr6-crop-(128,128)-rbg", "clevr6"]),
        ("tetrominoes-flip", ["tetrominoes-flip", "tetrominoes"]),
        (TRAINED_ON, [*(f"clevrtex:{name}" for name in ("full", "outd", "camo", "pbg", "vbg", "grassbg")), "clevr"]),
        ("tetrominoes", ["tetrominoes"]),
        ("multi_dsprites:binarized", ["multi_dsprites:binarized"]),
    ],
)
def test_data_of_the_benchmark(trained_on: str, data: list[str]):
    assert default_data(trained_on) == data


def test_own_data_come_first():
    found = default_data("concat(clevrtex:camo,tetrominoes)-(64,64)")
    assert found[:3] == ["clevrtex:camo", "clevrtex:full", "clevrtex:outd"]
    assert found[-2:] == ["clevr", "tetrominoes"]
    assert len(found) == 8


@pytest.mark.parametrize(
    ("given", "framed"),
    [
        ("clevr", f"clevr-crop-({SIDE},{SIDE})"),
        ("clevrtex:camo", f"clevrtex:camo-crop-({SIDE},{SIDE})"),
        ("clevr-rbg", f"clevr-rbg-({SIDE},{SIDE})"),
        (f"clevr-({SIDE},{SIDE})", f"clevr-({SIDE},{SIDE})"),
    ],
)
def test_data_are_framed_as_in_training(given: str, framed: str):
    assert framed_as(given, trained(Oracle())) == framed
    uncropped = trained(Oracle(), "tetrominoes")
    assert framed_as(given, uncropped) == framed.replace("-crop", "")


def test_a_size_that_the_model_does_not_take():
    with pytest.raises(ValueError, match=r"--data 'clevr-\(8,16\)': .*best\.ckpt takes \(16,16\)\. Leave the size out"):
        framed_as("clevr-(8,16)", trained(Oracle()))


def test_sets_that_are_not_there_are_named_and_left_out(root: Path, capsys):
    found = open_data(None, trained(Oracle(), data_root=str(root)))
    assert {data: len(source) for data, source in found.items()} == {
        TRAINED_ON: 10,
        f"clevrtex:outd-crop-({SIDE},{SIDE})": 9,
    }
    left_out = "clevrtex:camo, clevrtex:pbg, clevrtex:vbg, clevrtex:grassbg, clevr\n"
    assert capsys.readouterr().out == f"left out, since they are not on disk: {left_out}"


def test_a_set_that_was_asked_for_must_be_there(root: Path, tmp_path: Path):
    with pytest.raises(MissingData, match=r"no data set clevrtex:camo: .*`python tools/make_data\.py clevrtex --root"):
        open_data(["clevrtex:full", "clevrtex:camo"], trained(Oracle()), str(root))
    with pytest.raises(MissingData, match="no data set clevrtex:full: "):
        open_data(None, trained(Oracle()), str(tmp_path))
    with pytest.raises(ValueError, match=r"mnist.*: has no masks"):
        open_data(["mnist"], trained(Oracle()), str(root))


def test_an_oracle_is_right_about_everything(root: Path):
    model = Oracle()
    results, _ = scores(root, model)
    assert model.batches == [4, 4, 2], "every picture once, in batches as large as in training"
    assert (results["num_images"], results["images_of_split"], results["batch_size"]) == (10, 10, 4)
    statistics = results["statistics"]
    for name in ("acc", "ARI", "ARI_FG", "mIoU", "mIoU_fg", "mIoU_gt", "mSC", "DICE", "DICE_FG"):
        assert statistics[name] == {"mean": 1, "std": 0, "count": 10, "interval": [1, 1]}, name
    assert statistics["MSE"]["mean"] == 0
    assert statistics["obj_iou"]["mean"] == statistics["ground_iou"]["mean"] == 1
    assert statistics["obj_iou"]["count"] == 10 * NUM_OBJECTS
    by_material = results["by_tag"]["obj_iou"]["material"]
    assert {material: found["count"] for material, found in by_material.items()} == dict.fromkeys(MATERIALS, 10)
    grounds = results["by_tag"]["ground_iou"]["ground_material"]
    assert {ground: found["count"] for ground, found in grounds.items()} == dict.fromkeys(GROUNDS, 5)
    assert results["checkpoint"] == "runs/a/checkpoints/best.ckpt"
    assert (results["data"], results["short_name"], results["trained_on"]) == (TRAINED_ON, "clt_fullct", TRAINED_ON)
    json.dumps(results, allow_nan=False)


def test_noise_is_a_function_of_seed_and_picture(root: Path):
    model = Oracle(noise=0.1)
    results, _ = scores(root, model)
    by_threes, _ = scores(root, model, limit=1000, batch_size=3)
    assert (by_threes["num_images"], by_threes["batch_size"]) == (10, 3)
    assert by_threes["statistics"] == results["statistics"]
    source = DataSpec.parse(TRAINED_ON).open("test", root, masks=True)
    other, _ = evaluate(replace(trained(model), seed=4), TRAINED_ON, source)
    assert other["statistics"]["MSE"]["mean"] != results["statistics"]["MSE"]["mean"]
    few, _ = scores(root, model, limit=3)
    assert few["num_images"] == few["statistics"]["MSE"]["count"] == 3
    assert few["images_of_split"] == 10


def test_figures_of_the_original_have_names_of_their_own(root: Path):
    ours, _ = scores(root, Oracle())
    both, _ = scores(root, Oracle(), as_original=True)
    added = both["statistics"].keys() - ours["statistics"].keys()
    assert added == {"mSC_original", "mIoU_fg_original", "DICE_FG_original"}
    assert {name: both["statistics"][name] for name in ours["statistics"]} == ours["statistics"]
    assert both["by_tag"] == ours["by_tag"]
    assert "_original: as the benchmark's own evaluator" in both["protocol"]
    assert "_original" not in ours["protocol"]
    assert both["as_original"]
    assert not ours["as_original"]
    # A batch of one picture shows the original's evaluator the picture's first row only, where there is only ground.
    alone, _ = scores(root, Oracle(), as_original=True, limit=1)
    assert alone["statistics"]["mSC_original"]["mean"] is None
    assert alone["statistics"]["mSC"]["mean"] == 1


def test_sheet_of_the_first_eight_pictures(root: Path):
    source = DataSpec.parse(TRAINED_ON).open("test", root, masks=True)
    _, sheet = scores(root, Oracle())
    step = SIDE + 2
    assert sheet.shape == (3, 8 * step + 2, (4 + 5) * step + 2)
    assert sheet[:, :2].unique().tolist() == [128]

    def tile(row: int, column: int) -> Tensor:
        return sheet[:, 2 + row * step :, 2 + column * step :][:, :SIDE, :SIDE]

    samples = source.read(np.arange(8))
    black = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    for row in range(8):
        image, mask = samples["image"][row], samples["mask"][row]
        assert torch.equal(tile(row, 0), image)
        assert torch.equal(tile(row, 1), tile(row, 2)), "slots matched to objects have their colours"
        assert len(tile(row, 1).flatten(1).unique(dim=1).T) == NUM_OBJECTS + 1
        assert torch.equal(tile(row, 3), image)
        assert torch.equal(tile(row, 4), black), "the first slot is empty"
        for label in range(NUM_OBJECTS + 1):
            assert torch.equal(tile(row, 5 + label), torch.where(mask == label, image, 0)), "mask * patch"
    _, few = scores(root, Oracle(), limit=2)
    assert torch.equal(few, sheet[:, : 2 * step + 2])


def test_scenes_are_told_apart_only_where_they_are_described(root: Path, tmp_path: Path):
    assert scores(root, Oracle(), f"clevrtex:outd-crop-({SIDE},{SIDE})")[0]["by_tag"] == {}
    assert scores(root, Oracle(), f"clevrtex:full-obj-({SIDE},{SIDE})")[0]["by_tag"] == {}, "labels are none of theirs"
    assert scores(root, Oracle(), f"clevrtex:full-rbg-({SIDE},{SIDE})")[0]["by_tag"].keys() >= {"obj_iou", "obj_mse"}
    write_scenes(tmp_path, count=30)
    (tmp_path / "clevrtex_full/0/CLEVRTEX_full_000001.json").unlink()
    with pytest.raises(DataError, match=r"full_000001\.json: cannot be read as the description of a scene"):
        scores(tmp_path, Oracle())


def result(mse: float, acc: float | None = 0.5, wood: float = 0.25) -> dict:
    whole = {"std": 0.0, "count": 4, "interval": [0.0, 1.0]}
    named = dict.fromkeys(("acc", "ARI", "ARI_FG", "mIoU_fg", "mSC"), {"mean": acc} | whole)
    tags = {"obj_iou": {"material": {"wood": {"mean": wood, "count": 3}, "stone": {"mean": 0.5, "count": 5}}}}
    return {"num_images": 4, "statistics": {"MSE": {"mean": mse} | whole} | named, "by_tag": tags}


def test_mean_and_population_deviation_over_runs():
    found = over_runs([result(100), result(104), result(111, wood=2.5)])
    assert found["statistics"]["MSE"] == {
        "mean": pytest.approx(105),
        "std": pytest.approx(math.sqrt((25 + 1 + 36) / 3)),
        "runs": [100, 104, 111],
    }
    assert found["statistics"]["acc"]["std"] == 0
    materials = found["by_tag"]["obj_iou"]["material"]
    assert (materials["wood"]["mean"], materials["wood"]["runs"]) == (1.0, [0.25, 0.25, 2.5])
    assert materials["wood"]["std"] == pytest.approx(1.5 / math.sqrt(2))
    assert materials["stone"]["count"] == 5
    assert over_runs([result(100)])["statistics"]["MSE"] == {"mean": 100, "std": None, "runs": [100]}
    undefined = over_runs([result(100, acc=None), result(104)])["statistics"]["acc"]
    assert undefined == {"mean": None, "std": None, "runs": [None, 0.5]}


def test_values_of_a_tag_ascend():
    found = over_runs([result(1, wood=0.75)])
    assert list(found["by_tag"]["obj_iou"]["material"]) == ["stone", "wood"]
    assert breakdown_lines(found) == ["obj_iou by material: stone 0.5, wood 0.75"]
    many = {"by_tag": {"obj_iou": {"material": {f"m{n}": {"mean": n / 10} for n in range(9)}}}}
    shown = "m0 0, m1 0.1, m2 0.2, m3 0.3, ... (9 in all), m5 0.5, m6 0.6, m7 0.7, m8 0.8"
    assert breakdown_lines(many) == [f"obj_iou by material: {shown}"]


def test_rows_of_the_notebook():
    one = {"clevrtex:full-crop-(128,128)": over_runs([result(100)])}
    assert latex_rows(one).splitlines() == [
        "% data & acc & ARI & ARI_FG & mIoU_fg & MSE",
        r"clt\_fullcm & $0.50000$ & $0.50000$ & $0.50000$ & $0.50000$ & $100.00000$ \\",
    ]
    two = {"clevr-crop-(128,128)": over_runs([result(100), result(104)])}
    spread = r"$0.50000 \pm 0.00000$"
    assert latex_rows(two).splitlines()[1] == rf"clecm & {' & '.join([spread] * 4)} & $102.00000 \pm 2.00000$ \\"
    assert headline_table(two).splitlines()[1].split("  ")[-1] == "102 +- 2"


def test_summary_as_a_table():
    summaries = {"clevr": over_runs([result(100), result(104, acc=None)])}
    summaries["tetrominoes"] = over_runs([result(1), result(2)])
    del summaries["tetrominoes"]["statistics"]["mSC"]
    rows = list(csv.DictReader(summary_csv(summaries, ["a.ckpt", "b.ckpt"]).splitlines()))
    assert [(row["data"], row["run"]) for row in rows] == [
        (data, run) for data in ("clevr", "tetrominoes") for run in ("a.ckpt", "b.ckpt", "mean", "std")
    ]
    assert [row["MSE"] for row in rows] == ["100", "104", "102.0", "2.0", "1", "2", "1.5", "0.5"]
    assert [row["acc"] for row in rows[:4]] == ["0.5", "", "", ""]
    assert {row["mSC"] for row in rows[4:]} == {""}
    (alone,) = csv.DictReader(summary_csv({"clevr": over_runs([result(7)])}, ["mean of a"]).splitlines()[:2])
    assert alone["num_images"] == "4"


def test_every_experiment_is_found():
    assert set(EXPERIMENTS) >= {"slota", "iodine", "monet", "effmorl", "genesisv2"}
    assert [experiment_class(name).name for name in ("slota", "genesisv2")] == ["slota", "g2"]
    with pytest.raises(ValueError, match="no experiment 'slotattention'; did you mean 'slota'"):
        experiment_class("slotattention")


def write_checkpoint(path: Path, data: str = TRAINED_ON, seed: int = 3, **arguments) -> Path:
    record = RunRecord(
        paper="clevrtex",
        builder="clevrtex.models:build_model",
        arguments={"path": "slot_attention:SlotAttention", "arguments": SLOTA | arguments},
        data={"spec": data, "root": None},
        seed=seed,
        checkpoints={"file": "checkpoints/last.ckpt"},
        commit="",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    model = build_model("slot_attention:SlotAttention", SLOTA)
    save(path, {"step": 9, "model": model.state_dict(), "run": record.to_dict(), "hparams": {"batch_size": 6}})
    if path.parent.name == "checkpoints":
        record.write(path.parent.parent / "run.json")
    return path


def test_a_run_is_its_best_checkpoint_and_else_its_last(tmp_path: Path):
    last = write_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert find_checkpoint(tmp_path / "run") == last
    with pytest.raises(CheckpointError, match=r"run: expected best\.ckpt in .*checkpoints, found last\.ckpt"):
        find_checkpoint(tmp_path / "run", "best")
    best = write_checkpoint(tmp_path / "run/checkpoints/best.ckpt")
    assert find_checkpoint(tmp_path / "run") == best
    assert find_checkpoint(tmp_path / "run", "last") == last
    found = open_trained(tmp_path / "run", CPU)
    assert (found.name, found.image_size, found.data) == ("slota", (SIDE, SIDE), TRAINED_ON)
    assert (found.batch_size, found.steps, found.seed) == (6, 10, 3)
    assert found.results == tmp_path / "run/evaluation"
    assert not found.model.training
    assert open_trained(best, CPU).results == best.with_name("best-evaluation")
    model, record = load_model(tmp_path / "run")
    assert record.data["spec"] == TRAINED_ON
    assert all(value.equal(found) for value, found in zip(model.parameters(), load_model(last)[0].parameters()))


def test_what_cannot_be_opened(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"nowhere: no such run folder or checkpoint"):
        open_trained(tmp_path / "nowhere", CPU)
    with pytest.raises(CheckpointError, match=r"expected best\.ckpt or last\.ckpt in .*, found no checkpoint"):
        open_trained(tmp_path, CPU)
    path = write_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"a\.ckpt: expected a model of --experiment iodine, found slot_att"):
        open_trained(path, CPU, experiment="iodine")
    with pytest.raises(ValueError, match="no experiment 'slot'; did you mean 'slota'"):
        open_trained(path, CPU, experiment="slot")
    other = write_checkpoint(tmp_path / "b.ckpt", image_size=[32, 32])
    with pytest.raises(CheckpointError, match=r"b\.ckpt: the weights are not those of this SlotAttention:"):
        open_trained(other, CPU)


def test_runs_that_are_no_seeds_of_one_experiment(tmp_path: Path):
    one, two = (open_trained(write_checkpoint(tmp_path / f"{seed}.ckpt", seed=seed), CPU) for seed in (1, 2))
    program.check_runs([one, two])
    for changed, what in (
        ({"name": "iodine"}, "model, iodine and slota"),
        ({"image_size": (8, 8)}, r"size, \(8, 8\) and \(16, 16\)"),
        ({"data": "clevr-crop-(16,16)"}, "training data, clect and clt_fullct"),
    ):
        with pytest.raises(ValueError, match=rf"2\.ckpt and .*1\.ckpt differ in {what}: no seeds of one experiment"):
            program.check_runs([one, replace(two, **changed)])
    with pytest.raises(ValueError, match=r"1\.ckpt: its results would replace those of .*1\.ckpt"):
        program.check_runs([one, one])
    assert program.summary_path_of([one], None) == tmp_path / "1-evaluation"
    assert program.summary_path_of([one, two], None) == tmp_path / "evaluation"
    assert program.summary_path_of([one], tmp_path / "out") == tmp_path / "out/evaluation"


def test_words_of_the_command(capsys):
    found = program.parse_arguments(["a", "b", "--data", "clevr", "tetrominoes", "--batch_size=3", "--as_original"])
    assert found.runs == [Path("a"), Path("b")]
    assert found.data == ["clevr", "tetrominoes"]
    assert (found.batch_size, found.as_original, found.limit, found.checkpoint) == (3, True, None, None)
    for words, said in (
        (["a", "--limt", "3"], "no flag '--limt'; did you mean '--limit'?"),
        (["a", "--bach-size", "3"], "no flag '--bach_size'; did you mean '--batch_size'?"),
        (["a", "--limit", "0"], "expected a whole number of at least 1, found '0'"),
        (["a", "--experiment", "genesis"], "no experiment 'genesis'; did you mean 'genesisv2'?"),
        (["a", "--checkpoint", "first"], "invalid choice: 'first'"),
        (["--latex"], "required: RUN"),
    ):
        with pytest.raises(SystemExit) as end:
            program.parse_arguments(words)
        assert end.value.code == 2
        assert said in capsys.readouterr().err


def test_a_device_that_is_not_there():
    assert program.choose_device("cpu") == CPU
    with pytest.raises(ValueError, match="--device 'gpu': "):
        program.choose_device("gpu")
