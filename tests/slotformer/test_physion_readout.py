"""The read-out of Physion: pairs of slots, labels of videos, what is shown, and which threshold and weight are best."""

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.data.errors import DataError
from core.data.loader import BatchSource, to_resident
from core.data.physion import FOLDERS, LABELS, OUTCOME, SCENARIOS
from core.data.slots import write_h5
from slotformer import original, physion_vqa
from slotformer.framework.params import BaseParams, ParamsError, load_params, parse_overrides
from slotformer.framework.tasks import SampleMethod, Task
from slotformer.physion_vqa.data import open_slots
from slotformer.physion_vqa.evaluation import accuracies, accuracies_by_scenario, choose, is_right, majority
from slotformer.physion_vqa.models.readout import PhysionReadout
from tests.conftest import ROOT
from tests.video_files import smooth_frames, write_frames, write_json

CONFIG = ROOT / "slotformer" / "physion_vqa" / "configs" / "readout_physion_params.py"
KINDS = ("max", "mean", "sum")
B, T, N, D = 5, 7, 4, 6


def readout(kind: str, seed: int = 0) -> PhysionReadout:
    torch.manual_seed(seed)
    return PhysionReadout(N, D, kind, feats_dim=9, vqa_loss_w=0.5)


def slots(seed: int = 1) -> Tensor:
    return torch.randn(B, T, N, D, generator=torch.Generator().manual_seed(seed))


LABEL = torch.tensor([0, 1, 1, 0, 1])


def naive_frame_logits(model: PhysionReadout, slots: Tensor) -> Tensor:
    """All pairs side by side, as the paper has it."""
    first, second = torch.combinations(torch.arange(N)).T
    pairs = model.linear1(torch.cat([slots[:, :, first], slots[:, :, second]], dim=-1))
    aggregate = {"max": lambda x: x.max(dim=2).values, "mean": lambda x: x.mean(dim=2), "sum": lambda x: x.sum(dim=2)}
    return model.linear2(aggregate[model.agg_func](pairs)).squeeze(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_halves_of_the_layer_equal_pairs_side_by_side(kind: str) -> None:
    model, given = readout(kind), slots()
    expected = naive_frame_logits(model, given)
    torch.testing.assert_close(model.frame_logits(given), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.answer(given), expected.max(dim=1).values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_all_frames_and_pairs(kind: str) -> None:
    model, given = readout(kind), slots().requires_grad_()
    terms = model.loss({"slots": given, "label": LABEL}, 0)
    ours = torch.autograd.grad(terms["loss"], [*model.parameters(), given])
    answer = naive_frame_logits(model, given).max(dim=1).values
    loss = torch.nn.functional.binary_cross_entropy_with_logits(answer, LABEL.float())
    torch.testing.assert_close(terms["vqa_loss"], loss)
    torch.testing.assert_close(terms["loss"], 0.5 * loss)
    theirs = torch.autograd.grad(0.5 * loss, [*model.parameters(), given])
    for value, expected in zip(ours, theirs):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-7)
    assert (ours[-1].abs().sum(dim=(2, 3)) > 0).sum(dim=1).tolist() == [1] * B, "one frame of each video decides"


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_slots_counts_unless_both_halves_are_equal(kind: str) -> None:
    model, given = readout(kind), slots()
    turned, shuffled = given.flip(2), given[:, :, torch.tensor([2, 0, 3, 1])]
    assert (model.answer(turned) - model.answer(given)).abs().max() > 1e-3
    other = readout(kind)
    first, second = model.linear1.weight.data.chunk(2, dim=1)
    other.linear1.weight.data = torch.cat([second, first], dim=1)
    torch.testing.assert_close(other.answer(turned), model.answer(given))
    model.linear1.weight.data = torch.cat([first, first], dim=1)
    torch.testing.assert_close(model.answer(shuffled), model.answer(given))


def test_a_touch_is_seen_in_any_frame() -> None:
    model = readout("max")
    given = slots()
    order = torch.randperm(T, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.answer(given[:, order]), model.answer(given))
    answers = [model.answer(given[:, :end]) for end in range(1, T + 1)]
    assert all((later >= earlier).all() for earlier, later in pairwise(answers))


def test_half_precision_changes_little() -> None:
    model = PhysionReadout(6, 64)
    given = torch.randn(3, 5, 6, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.answer(given)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, model.answer(given), rtol=0, atol=0.05)


def test_models_that_are_none() -> None:
    with pytest.raises(ValueError, match="agg_func 'min' is not one of max, mean, sum"):
        PhysionReadout(6, 8, "min")
    with pytest.raises(ValueError, match="num_slots=1: a pair takes two"):
        PhysionReadout(1, 8)
    with pytest.raises(ParamsError, match="model 'PhysionReadOut' is not one of PhysionReadout; did you mean"):
        physion_vqa.build_model(BaseParams({"model": "PhysionReadOut"}))
    with pytest.raises(ParamsError, match="readout_dict: PhysionReadout has no 'feat_dim'; did you mean 'feats_dim'"):
        physion_vqa.build_model(params_of(Path(), "readout_dict.feat_dim=3"))


# Checkpoints of the original


def test_checkpoints_of_the_original_continue(tmp_path: Path) -> None:
    model = readout("max")
    theirs = {key: value.clone() for key, value in original.export_state(model).items()}
    assert theirs["comb_idx"].tolist() == [0, 1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3]
    assert original.import_state(model, theirs).keys() == model.state_dict().keys()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.loss({"slots": slots(), "label": LABEL}, 0)["loss"].backward()
    optimizer.step()
    checkpoint = {"state_dict": theirs, "opt_state_dict": optimizer.state_dict(), "it": 1}
    state = original.training_state(checkpoint, model, tmp_path / "model_1.pth")
    assert state["step"] == 0
    moments = [state["optimizer"]["state"][index]["exp_avg"] for index in range(4)]
    for value, parameter in zip(moments, model.parameters()):
        assert torch.equal(value, optimizer.state[parameter]["exp_avg"])


# Data


LENGTH = 9
VIDEOS = {  # subset, split -> scenario, name, label
    ("readout", "train"): [("Roll", "a_img", 1), ("Roll", "b_img", 0), ("Link", "c_img", 1)],
    ("readout", "val"): [("Link", "d_img", 0), ("Drop", "e_img", 1)],
    ("test", "test"): [("Roll", "f-redyellow_img", 1), ("Link", "g-redyellow_img", 0), ("Link", "h_img", 1)],
}


def telling_slots(name: str, length: int = LENGTH) -> np.ndarray:
    """3 of size 4 that say of which video and frame they are."""
    made = np.zeros((length, 3, 4), np.float32)
    made[:, :, 0], made[:, :, 1] = ord(name[0]), np.arange(length)[:, None]
    return made


def write_physion(root: Path) -> Path:
    """Lists and labels, no videos."""
    for (subset, split), videos in VIDEOS.items():
        lists: dict[str, list[str]] = {scenario: [] for scenario, _, _ in videos}
        for scenario, name, _ in videos:
            lists[scenario].append(f"{FOLDERS[subset].format(scenario)}/{name}.mp4")
        write_json(root / "splits" / f"{subset}_{split}.json", lists)
    (root / "splits" / "bad_stimuli.txt").write_text("f_img\n")
    for subset, file in LABELS.items():
        known = [video for (of, _), videos in VIDEOS.items() if of == subset for video in videos]
        keys = [
            name.removesuffix("_img") if subset == "readout" else name.replace("-redyellow", "") for _, name, _ in known
        ]
        rows = [f"{key},{bool(label)}" for key, (_, _, label) in zip(keys, known)]
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("\n".join([f",{OUTCOME}", *rows]) + "\n")
    return root


def write_slots(folder: Path, length: int = LENGTH) -> None:
    """readout_slots.h5 and test_slots.h5."""
    for subset in ("readout", "test"):
        videos = [
            (split, name, telling_slots(name, length))
            for (of, split), members in VIDEOS.items()
            for _, name, _ in members
            if of == subset
        ]
        folder.mkdir(parents=True, exist_ok=True)
        write_h5(folder / f"{subset}_slots.h5", videos, {})


def params_of(folder: Path, *settings: str) -> BaseParams:
    small = ("readout_dict.num_slots=3", "slot_size=4", "video_len=6", "n_samples=2", "resolution=(16,16)")
    paths = (f"data_root={folder / 'Physion'}", f"slots_root={folder / 'run' / 'readout_slots.pkl'}")
    return load_params(CONFIG, physion_vqa.Keys, parse_overrides([*small, *paths, *settings]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    write_physion(tmp_path / "Physion")
    write_slots(tmp_path / "run")
    return tmp_path


def test_slots_have_the_labels_of_their_videos(folder: Path) -> None:
    for split, source in zip(("train", "val"), physion_vqa.build_dataset(params_of(folder))):
        assert isinstance(source, BatchSource)
        members = VIDEOS["readout", split]
        assert (len(source), source.names) == (len(members), [name for _, name, _ in members])
        order = np.arange(len(source))[::-1]
        batch = source.read(order)
        assert (batch["slots"].dtype, batch["slots"].shape) == (torch.float32, (len(source), 6, 3, 4))
        assert batch["label"].tolist() == [members[index][2] for index in order]
        assert [SCENARIOS[place] for place in batch["scenario"]] == [members[index][0] for index in order]
        for row, index in enumerate(order):
            assert batch["slots"][row].numpy().tolist() == telling_slots(members[index][1], 6).tolist()
        resident = to_resident(source, torch.device("cpu"))
        assert all(torch.equal(resident[key][torch.from_numpy(order.copy())], value) for key, value in batch.items())


def test_flawed_test_videos_are_left_out_and_scenarios_are_right(folder: Path) -> None:
    ours = open_slots(params_of(folder), "test", "test")
    assert ours.names == ["g-redyellow_img", "h_img"]
    assert [SCENARIOS[place] for place in ours.scenarios] == ["Link", "Link"]
    theirs = open_slots(params_of(folder), "test", "test", as_original=True)
    assert theirs.names == ours.names
    assert [SCENARIOS[place] for place in theirs.scenarios] == ["Roll", "Link"], "shifted by the one left out"
    assert theirs.labels.tolist() == ours.labels.tolist() == [0, 1]
    assert open_slots(params_of(folder, "tasks=['Drop']"), "readout", "val").names == ["e_img"]


@pytest.mark.parametrize("place", ["models", "models/epoch"])
def test_slots_beside_the_weight_are_found(folder: Path, place: str) -> None:
    expected = physion_vqa.build_dataset(params_of(folder))[0].read(np.arange(3))["slots"]
    (folder / "run").rename(folder / "elsewhere")
    write_slots(folder / "run" / place)
    training, validation = physion_vqa.build_dataset(params_of(folder))
    assert training.path == validation.path == folder / "run" / place / "readout_slots.h5"
    assert torch.equal(training.read(np.arange(3))["slots"], expected)
    assert open_slots(params_of(folder), "test", "test").path == folder / "run" / place / "test_slots.h5"


def test_slots_of_the_test_have_the_name_of_the_others(folder: Path) -> None:
    run = folder / "run"
    rolled = params_of(folder, f"slots_root={run / 'rollout_readout_slots.h5'}")
    with pytest.raises(DataError, match=r"rollout_test_slots\.h5: no such file"):
        open_slots(rolled, "test", "test")
    (run / "test_slots.h5").rename(run / "rollout_test_slots.h5")
    assert open_slots(rolled, "test", "test").path == run / "rollout_test_slots.h5"
    (run / "rollout_test_slots.h5").rename(run / "test_slots.h5")
    assert open_slots(params_of(folder, f"slots_root={run / 'mine.h5'}"), "test", "test").path == run / "test_slots.h5"


def test_pickles_of_the_original_give_the_same(folder: Path) -> None:
    expected = physion_vqa.build_dataset(params_of(folder))[1].read(np.arange(2))["slots"]
    (folder / "run" / "readout_slots.h5").unlink()
    splits = {
        split: {name: telling_slots(name) for _, name, _ in VIDEOS["readout", split]} for split in ("train", "val")
    }
    (folder / "run" / "readout_slots.pkl").write_bytes(pickle.dumps(splits, protocol=2))
    assert torch.equal(physion_vqa.build_dataset(params_of(folder))[1].read(np.arange(2))["slots"], expected)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("frame_offset=2", "frame_offset is 2; expected 1"),
        ("dataset=physion_slots_label_test", "'physion_slots_label_test' is for testing alone"),
        (
            "dataset=physion_slots_readout",
            "'physion_slots_readout' is not one of .*; did you mean 'physion_slots_label_r",
        ),
        (
            "video_len=10",
            "train/a_img holds 9 frames of 3 slots of size 4, expected at least 10 frames of 3 slots of s",
        ),
        ("readout_dict.num_slots=4", "holds 9 frames of 3 slots of size 4, expected at least 6 frames of 4 slots"),
        (
            "slots_root=none/readout_slots.pkl",
            "none/readout_slots.pkl: no such file, nor .*/rollout_physion_slots.py --s",
        ),
        ("tasks=['Support']", "Physion task 'Support' is not one of all, Roll, Link"),
        ("data_root=none", "none/PhysionTrainMP4s/readout_labels.csv: no such file"),
    ],
)
def test_misuse_is_answered(folder: Path, setting: str, message: str) -> None:
    with pytest.raises((ParamsError, DataError, ValueError), match=message):
        physion_vqa.build_dataset(params_of(folder, setting))


def test_slots_of_other_videos_are_refused(folder: Path) -> None:
    write_h5(folder / "run" / "readout_slots.h5", [("train", "a_img", telling_slots("a"))], {})
    with pytest.raises(DataError, match="train has no slots of b_img \\(2 videos are missing, 1 are there\\)"):
        physion_vqa.build_dataset(params_of(folder))


# Configurations


def test_the_published_configuration() -> None:
    params = load_params(CONFIG, physion_vqa.Keys)
    assert (params.max_epochs, params.eval_interval, params.save_epoch_end, params.n_samples) == (50, 5, True, 8)
    assert (params.optimizer, params.lr, params.warmup_steps_pct, params.weight_decay) == ("Adam", 1e-3, 0.0, 0.0)
    assert (params.train_batch_size, params.val_batch_size, params.num_workers, params.gpus) == (64, 128, 8, 1)
    assert (params.dataset, params.data_root) == ("physion_slots_label_readout", "./data/Physion")
    assert params.slots_root == "checkpoint/slotformer_physion_params/readout_slots.pkl"
    assert (params.tasks, params.n_sample_frames, params.frame_offset, params.video_len) == (["all"], 6, 1, 75)
    assert params.readout_dict == {"num_slots": 6, "slot_size": 192, "agg_func": "max", "feats_dim": 192}
    assert (params.resolution, params.slot_size, params.vqa_loss_w) == ((128, 128), 192, 1.0)
    model = physion_vqa.build_model(params)
    assert sum(value.numel() for value in model.parameters()) == 74_113
    assert isinstance(physion_vqa, Task)
    assert isinstance(physion_vqa.build_method(params), SampleMethod)


def test_a_file_of_the_original_loads(tmp_path: Path) -> None:
    text = CONFIG.read_text().replace("slotformer.framework.params", "nerv.training")
    (tmp_path / "readout_physion_params.py").write_text(text)
    theirs = load_params(tmp_path / "readout_physion_params", physion_vqa.Keys)
    assert theirs.to_dict() == load_params(CONFIG, physion_vqa.Keys).to_dict()


# Validation


def test_scores_of_single_videos(folder: Path) -> None:
    params = params_of(folder)
    model, method = physion_vqa.build_model(params), physion_vqa.build_method(params)
    batch = physion_vqa.build_dataset(params)[0].read(np.arange(3))
    found = method.samples(model, batch)
    logits = model.answer(batch["slots"])
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        right = (logits.sigmoid() > threshold).long() == batch["label"]
        assert found[f"acc_{threshold:.2f}"].tolist() == right.float().tolist()
    torch.testing.assert_close(found["vqa_loss"].mean(), model.loss(batch, 0)["vqa_loss"])
    counts = {name: len(values) for name, values in found.items() if name.startswith("acc_0.50/")}
    assert counts == {f"acc_0.50/{scenario}": {"Roll": 2, "Link": 1}.get(scenario, 0) for scenario in SCENARIOS}
    assert found["acc_0.50/Link"].tolist() == found["acc_0.50"][2:].tolist()
    assert method.best_by in found


def test_videos_carry_label_and_prediction(folder: Path) -> None:
    params = params_of(folder)
    for number, (scenario, name, _) in enumerate(VIDEOS["readout", "val"]):
        frames = smooth_frames(LENGTH, 16, 16, number)
        path = folder / "Physion" / FOLDERS["readout"].format(scenario) / name
        write_frames(path, frames, "{:06d}.png")
    model, method = physion_vqa.build_model(params), physion_vqa.build_method(params)
    with torch.no_grad():
        found = method.videos(model)
    assert list(found) == ["video0", "video1"]
    for number, video in enumerate(found.values()):
        assert (video.dtype, video.shape[0], video.shape[1], video.shape[3]) == (torch.uint8, 6, 3, 16)
        frames = torch.from_numpy(smooth_frames(LENGTH, 16, 16, number)[:6]).permute(0, 3, 1, 2)
        assert torch.equal(video[:, :, -16:], frames)
        assert video.shape[2] > 16, "the caption"
    assert method.fps == 16


def test_without_videos_slots_are_enough(folder: Path, capsys: pytest.CaptureFixture) -> None:
    params = params_of(folder)
    model, method = physion_vqa.build_model(params), physion_vqa.build_method(params)
    assert method.videos(model) == method.videos(model) == {}
    said = capsys.readouterr().err
    assert said.count("note: no videos in the log, slots and labels are enough to train") == 1
    assert "d_img.mp4: no such file" in said


# Thresholds and weights


def test_of_equal_choices_the_first_weight_then_the_first_threshold_is_best() -> None:
    labels = torch.tensor([1, 0, 1, 0])
    probabilities = torch.tensor([[0.9, 0.8, 0.2, 0.1], [0.6, 0.1, 0.55, 0.2], [0.7, 0.2, 0.8, 0.3]])
    thresholds = [0.3, 0.5, 0.58]
    table = accuracies(probabilities, labels, thresholds)
    assert table.tolist() == [[0.5, 1.0, 1.0], [0.5, 1.0, 1.0], [0.5, 0.75, 1.0]]
    assert choose(table) == (0, 1)
    assert choose(table[2:]) == (0, 2)
    assert choose(torch.full((2, 3), 0.5, dtype=torch.float64)) == (0, 0)
    assert is_right(torch.tensor([0.5]), torch.tensor([1]), 0.5).tolist() == [False], "more than the threshold"


def test_accuracy_within_scenarios() -> None:
    right = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    found = accuracies_by_scenario(right, torch.tensor([7, 0, 7, 0]))
    assert found == {"Collide": 0.5, "Support": 1.0}
    assert list(found) == sorted(found)
    assert majority(torch.tensor([1, 0, 0, 0])) == 0.75
    assert majority(torch.tensor([1, 1, 0])) == pytest.approx(2 / 3)
