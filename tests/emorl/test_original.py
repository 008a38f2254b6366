"""Files of the original code are trained on, evaluated and opened as our own are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.training.checkpoint import CheckpointError, State
from emorl.models import build_model, model_arguments
from emorl.original import adam_from_original, from_original, import_run, is_original, to_original
from emorl.settings import NET
from tests.conftest import Runner
from tests.tiny_runs import ROOT, eval_words, evaluated, scalars, state_of, tensors, train_words

# A constant, large rate: without Adam's moments the next step would be another one altogether.
RATE = ("training.use_scheduler=False", "training.lr=1e-3")
GECO = {"target": -1.0, "alpha": 0.99, "step_size": 1e-6, "acceleration": 1.0}


def original_checkpoint(ours: State) -> dict[str, Any]:
    """The file that the original would have written in the place of one of ours: its names, its order, its numbering.

    Its parameters are numbered in the order of its state dict, GECO's two scalars (without moments) first.
    """
    weights = to_original(ours["model"])
    names = [name for name, _ in build_model(**ours["run"]["arguments"]).named_parameters()]
    numbers = ours["optimizer"]["state"]
    moments = {
        moment: to_original({name: numbers[number][moment] for number, name in enumerate(names)})
        for moment in ("exp_avg", "exp_avg_sq")
    }
    scalars = [key for key in weights if key.startswith("geco_")]
    order = scalars + sorted(weights.keys() - set(scalars), reverse=True)  # unlike ours
    adam = {
        number: {"step": int(numbers[0]["step"]), **{name: values[key] for name, values in moments.items()}}
        for number, key in enumerate(order)
        if key not in scalars
    }
    group = {"lr": 4e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    return {
        "step": ours["step"],
        "model": {f"module.{key}": weights[key] for key in order},
        "model_opt": {"state": adam, "param_groups": [{**group, "params": list(range(len(order)))}]},
        "kl_beta": 1,
    }


def as_before_the_rename(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The older layout: another name of the HVAE, its encoder at the top, and constants that TorchScript stored."""
    model = {}
    for key, value in checkpoint["model"].items():
        rest = key.removeprefix("module.hvae_networks.")
        if rest == key:
            model[key] = value
        elif rest.startswith(("pos_embed_projection.", "encoder_pt_1.", "encoder_pt_2.")):
            model[f"module.{rest}"] = value
        else:
            model[f"module.object_discovery_block.{rest}"] = value
        if rest.startswith("gru.cell.bias_hn"):
            model["module.object_discovery_block.gru.cell.zeros"] = torch.zeros(16, 8)
            model["module.object_discovery_block.gru.cell.zeros_n"] = torch.zeros(8, 8)
    return checkpoint | {"model": model}


@pytest.fixture(scope="module")
def trained(run: Runner, tetrominoes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of five steps of either model, with its checkpoints after steps 4 and 5."""
    folders = {}
    for model in ("EMORL", "SlotAttention"):
        folders[model] = tmp_path_factory.mktemp(model)
        done = run(*train_words(tetrominoes, folders[model], *RATE, "training.checkpoint_freq=4", model=model))
        assert done.returncode == 0, done.stderr
    return folders


LAYOUTS: dict[str, tuple[str, Callable[[State], dict[str, Any]]]] = {
    "current": ("EMORL", original_checkpoint),
    "older": ("EMORL", lambda ours: as_before_the_rename(original_checkpoint(ours))),
    "slot-attention": ("SlotAttention", original_checkpoint),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_continues_from_a_file_of_the_original(
    run: Runner, tetrominoes: Path, trained: dict[str, Path], tmp_path: Path, layout: str
) -> None:
    """One more step gives the weights of the run that was exported: moments, step and rate have been taken over."""
    model, export = LAYOUTS[layout]
    before, after = (state_of(trained[model], step) for step in (4, 5))
    (tmp_path / "weights").mkdir()
    torch.save(export(before), tmp_path / "weights/theirs-state-4.pth")
    words = [*RATE, "training.load_from_checkpoint=True", "training.checkpoint=theirs-state-4.pth"]
    done = run(*train_words(tetrominoes, tmp_path, *words, model=model))
    assert done.returncode == 0, done.stderr
    assert "theirs-state-4.pth after step 4" in done.stdout
    found = state_of(tmp_path, 5)
    moved = 0.0
    for key, value in after["model"].items():
        torch.testing.assert_close(found["model"][key], value, rtol=0, atol=1e-6)
        moved = max(moved, float((value - before["model"][key]).abs().max()))
    assert moved > 1e-4
    for key, value in tensors(after["optimizer"]["state"]).items():
        torch.testing.assert_close(tensors(found["optimizer"]["state"])[key], value, rtol=1e-5, atol=1e-6)
    (row,) = scalars(tmp_path)
    assert row == pytest.approx(scalars(trained[model])[5], rel=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_evaluation_gives_the_numbers_of_our_own_checkpoint(
    run: Runner, tetrominoes: Path, trained: dict[str, Path], tmp_path: Path, layout: str
) -> None:
    model, export = LAYOUTS[layout]
    ours = trained[model] / "weights/tiny-state-4.pth"
    theirs = tmp_path / "theirs.pth"
    torch.save(export(state_of(trained[model], 4)), theirs)
    results = []
    for path in (ours, theirs):
        done = run(*eval_words(tetrominoes, tmp_path, str(path), "test.num_images_to_process=3", model=model))
        assert done.returncode == 0, done.stderr
        results.append(evaluated(tmp_path, path.name)["per_image"])
    assert results[0] == results[1]
    assert ("kl" in results[0]) == (model == "EMORL")


def state_dict(name: str, **net: Any) -> dict[str, Tensor]:
    """Random weights of a model with sizes that are all different."""
    torch.manual_seed(0)
    described = NET | {"input_size": [3, 16, 16], "z_size": 10, "image_decoder": "small"} | net
    model = build_model(name, model_arguments(name, described, geco=GECO))
    return {key: torch.randn_like(value) for key, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("EfficientMORL", {}),
        ("EfficientMORL", {"use_DualGRU": False}),
        ("EfficientMORL", {"image_decoder": "big", "input_size": [3, 96, 96]}),
        ("SlotAttention", {}),
        ("SlotAttention", {"image_decoder": "iodine"}),
    ],
)
def test_there_and_back(name: str, net: dict[str, Any]) -> None:
    ours = state_dict(name, **net)
    theirs = to_original(ours)
    assert is_original({"model": theirs})
    assert not is_original({"model": ours})
    back = from_original({f"module.{key}": value for key, value in theirs.items()})
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], value) for key, value in ours.items())
    again = to_original(back)
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[key], value) for key, value in theirs.items())


def test_names_and_shapes_are_those_of_the_published_code() -> None:
    """76 tensors with 467238 numbers on Tetrominoes, of which two are GECO's state."""
    theirs = to_original(state_dict("EfficientMORL", input_size=[3, 35, 35], z_size=32))
    assert len(theirs) == 76
    assert sum(value.numel() for value in theirs.values()) == 467_238
    shapes = {
        "geco_beta": (),
        "hvae_networks.init_posterior": (1, 64),
        "hvae_networks.encoder_pt_1.6.weight": (64, 64, 5, 5),
        "hvae_networks.gru.cell.weight_ih_2": (64, 32),
        "hvae_networks.gru.cell.weight_hn_1": (32, 32),
        "hvae_networks.gru.cell.bias_hh": (128,),
        "hvae_networks.gru.cell.bias_in": (64,),
        "hvae_networks.mlp_softplus.2.weight": (32, 64),
        "hvae_networks.image_decoder.decode.6.weight": (4, 32, 3, 3),
        "hvae_networks.indep_prior.z_linear.0.weight": (128, 32),
        "refinenet.recurrence.weight_ih_l0": (96, 32),
        "refinenet.softplus.weight": (32, 32),
    }
    assert {key: tuple(theirs[key].shape) for key in shapes} == shapes
    theirs = to_original(state_dict("SlotAttention", input_size=[3, 35, 35], z_size=32))
    assert sum(value.numel() for value in theirs.values()) == 419_236
    assert {"init_slots", "norm_pre_ff.weight", "mlp.2.bias", "gru.weight_hh_l0"} <= theirs.keys()


def test_gates_of_the_two_cells_are_kept_apart() -> None:
    """The original stores reset and update of both cells in one bias, cell by cell, and the candidates elsewhere."""
    ours = state_dict("EfficientMORL")
    theirs = to_original(ours)
    first, second = ours["inference.gru.bias_hh"]
    assert torch.equal(theirs["hvae_networks.gru.cell.bias_hh"], torch.cat((first[:20], second[:20])))
    assert torch.equal(theirs["hvae_networks.gru.cell.bias_hn"], torch.cat((first[20:], second[20:])))
    assert torch.equal(theirs["hvae_networks.gru.cell.weight_ih_2"], ours["inference.gru.weight_ih"][1, :20])
    assert torch.equal(theirs["hvae_networks.gru.cell.weight_in_1"], ours["inference.gru.weight_ih"][0, 20:])


def test_moments_follow_the_numbering_of_the_file() -> None:
    """Whatever the order of the original's parameters, a parameter's moments arrive at that parameter."""
    ours = state_dict("EfficientMORL")
    names = [key for key in ours if not key.startswith("geco.")]
    theirs = to_original(ours)
    keys = ["geco_C_ema", "geco_beta", *sorted(key for key in theirs if not key.startswith("geco_"))]
    moments = {
        number: {"step": 7, "exp_avg": theirs[key], "exp_avg_sq": theirs[key] ** 2} for number, key in enumerate(keys)
    }
    moments = {number: entry for number, entry in moments.items() if number > 1}
    adam = {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(range(len(keys)))}]}
    found = adam_from_original({f"module.{key}": theirs[key] for key in keys}, adam, names)
    assert len(found["state"]) == len(names)
    for number, name in enumerate(names):
        assert float(found["state"][number]["step"]) == 7
        assert torch.equal(found["state"][number]["exp_avg"], ours[name])
        assert torch.equal(found["state"][number]["exp_avg_sq"], ours[name] ** 2)
    assert found["param_groups"][0]["params"] == list(range(len(names)))


def numbered(state: dict[str, Tensor], moments: int) -> dict[str, Any]:
    """A state of Adam with the first so many parameters of a file."""
    keys = [key for key in state if "zeros" not in key]
    entries = {
        number: {"step": 7, "exp_avg": state[key], "exp_avg_sq": state[key] ** 2}
        for number, key in enumerate(keys[:moments])
        if "geco_" not in key
    }
    return {"state": entries, "param_groups": [{"lr": 1e-3, "params": list(range(moments))}]}


def with_dropped(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Amid the others a parameter that we drop and a constant without a number."""
    entries = list(theirs.items())
    more = {"hvae_networks.generation_relation.weight": torch.ones(3, 2), "hvae_networks.gru.cell.zeros": torch.ones(4)}
    return {**dict(entries[:9]), **more, **dict(entries[9:])}


def test_moments_are_numbered_with_the_parameters_that_are_dropped() -> None:
    ours = state_dict("EfficientMORL")
    names = [key for key in ours if not key.startswith("geco.")]
    theirs = with_dropped(to_original(ours))
    found = adam_from_original(theirs, numbered(theirs, len(theirs) - 1), names)
    for number, name in enumerate(names):
        assert torch.equal(found["state"][number]["exp_avg"], ours[name])


def test_moments_of_other_parameters_are_refused() -> None:
    ours = state_dict("SlotAttention")
    theirs = to_original(ours)
    count = len(theirs)
    with pytest.raises(
        CheckpointError, match=rf"model_opt holds Adam's state of {count - 1} parameters, .* has {count}"
    ):
        adam_from_original(theirs, numbered(theirs, count - 1), list(ours))
    with pytest.raises(CheckpointError, match="model_opt holds no state of Adam"):
        adam_from_original(theirs, {"state": {}, "param_groups": [{"params": list(range(count))}]}, list(ours))
    other = numbered(theirs, count)
    other["state"][1]["exp_avg"] = torch.zeros(1, 2)
    with pytest.raises(CheckpointError, match=r"model_opt: exp_avg of \S+ \(number 1\) is \[1, 2\], not \["):
        adam_from_original(theirs, other, list(ours))


def test_an_import_without_a_fitting_state_of_adam_keeps_the_weights() -> None:
    words = ("Net.K=4", "Net.z_size=10", "Net.input_size=[3,16,16]", "training.refinement_curriculum=[(-1,2),(9,1)]")
    config = str(ROOT / "emorl/configs/train/tetrominoes/EMORL.json")
    theirs = to_original(state_dict("EfficientMORL"))
    fitting = {"step": 8, "model": theirs, "model_opt": numbered(theirs, len(theirs))}
    run = import_run(fitting, Path("theirs.pth"), config, words)
    assert run.notes == ()
    assert "optimizer" in run.state
    assert run.record.arguments["arguments"]["refinement_iters"] == 2
    for adam, said in ((numbered(theirs, 5), "5 parameters"), ({"state": {}, "param_groups": []}, "no state of Adam")):
        run = import_run({**fitting, "step": 9, "model_opt": adam}, Path("theirs.pth"), config, words)
        assert run.state.keys() == {"model", "step"}
        assert said in run.notes[0]
        assert run.record.arguments["arguments"]["refinement_iters"] == 1


def test_name_that_belongs_to_no_layout_is_named() -> None:
    theirs = to_original(state_dict("EfficientMORL"))
    with pytest.raises(ValueError, match=r"'hvae_networks\.extra' is no parameter of EfficientMORL"):
        from_original(theirs | {"module.hvae_networks.extra": torch.zeros(1)})
