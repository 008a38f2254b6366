"""Data, frozen parts and videos of the models of Physion: which slots are read, which decoder, what is shown."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.errors import DataError
from core.data.physion import labelled_videos, listed_videos
from core.data.slots import SlotFile, write_h5
from core.training.checkpoint import load, save
from slotdiffusion import vp_vqa
from slotdiffusion.vp_vqa.data import open_readout, open_test_videos, slots_of
from slotformer import original
from slotformer.framework.params import BaseParams, ParamsError, load_params
from slotformer.framework.tasks import Method, SampleMethod, Task
from tests.conftest import MadeOnce
from tests.slotdiffusion_dynamics_runs import (
    CONFIGS,
    DYNAMICS,
    FRAMES,
    NUM_SLOTS,
    READOUT,
    SLOT_SIZE,
    small_params,
    write_decoder,
    write_slots,
)
from tests.tiny_diffusion import trained


@pytest.fixture(scope="session")
def slots(videos: Path, made_once: MadeOnce) -> Path:
    """The folder of made-up slots."""
    return made_once("ldm-slots", lambda folder: write_slots(videos / "Physion", folder / "slots")) / "slots"


def params_of(videos: Path, slots: Path, config: str, *settings: str) -> BaseParams:
    subset = "training" if config == DYNAMICS else "readout"
    given = (f"data_root={videos / 'Physion'}", f"slots_root={slots}/physion_{subset}_slots.pkl")
    return small_params(config, *given, *settings)


def test_the_package_is_a_task() -> None:
    assert isinstance(vp_vqa, Task)


def test_clips_of_slots_come_with_frames_where_a_loss_compares_them(videos: Path, slots: Path) -> None:
    training, validation = vp_vqa.build_dataset(params_of(videos, slots, DYNAMICS))
    assert (len(training), len(validation)) == (16 * 3, 16 * 3), "three starts, four frames that lie three apart"
    found = training.read(np.array([4]))
    assert found.keys() == {"slots"}
    name = listed_videos(videos / "Physion", "training", "train")[1].name
    stored = SlotFile(slots / "physion_training_slots.h5").read("train", name)
    np.testing.assert_array_equal(found["slots"][0], stored[1::3])
    with_frames = params_of(videos, slots, DYNAMICS, "loss_dict.use_denoise_loss=True")
    assert all(
        source.read(np.array([0]))["video"].shape == (1, 4, 3, 32, 32) for source in vp_vqa.build_dataset(with_frames)
    )


def test_slots_of_other_subsets_lie_beside(videos: Path, slots: Path, tmp_path: Path) -> None:
    source = open_test_videos(params_of(videos, slots, DYNAMICS))
    batch = source.read(np.array([0, 7]))
    assert batch["slots"].shape == (2, FRAMES // 3, NUM_SLOTS, SLOT_SIZE)
    assert batch["video"].shape == (2, FRAMES // 3, 3, 32, 32)
    made = {"test": {"a": np.zeros((1, 2, 3), np.float32)}}
    videos_of = [(split, *item) for split, of in made.items() for item in of.items()]
    root = str(tmp_path / "physion_training_slots.pkl")
    assert slots_of(root, "test") == tmp_path / "physion_test_slots.pkl", "what an error is to name"
    (tmp_path / "models").mkdir()
    write_h5(tmp_path / "models" / "test_slots.h5", videos_of, {})
    assert slots_of(root, "test") == tmp_path / "models" / "test_slots.h5", "a link beside the weight"
    write_h5(tmp_path / "physion_test_slots.h5", videos_of, {})
    assert slots_of(root, "test") == tmp_path / "physion_test_slots.h5"
    rolled_out = str(tmp_path / "rollout-physion_readout_slots.h5")
    assert slots_of(rolled_out, "test") == tmp_path / "models" / "test_slots.h5"
    assert slots_of(str(tmp_path / "mine.h5"), "test") == tmp_path / "models" / "test_slots.h5"


def test_read_outs_see_labelled_slots(videos: Path, slots: Path, tmp_path: Path) -> None:
    params = params_of(videos, slots, READOUT)
    training, validation = vp_vqa.build_dataset(params)
    _, labels, _ = labelled_videos(videos / "Physion", "readout", "train")
    assert training.read(np.arange(len(training)))["label"].tolist() == labels.tolist()
    assert validation.read(np.array([0]))["slots"].shape == (1, FRAMES, NUM_SLOTS, SLOT_SIZE)
    test = open_readout(params, "test", "test")
    assert test.path == slots / "physion_test_slots.h5"
    (tmp_path / "elsewhere.h5").write_bytes(test.path.read_bytes())
    assert open_readout(params, "test", "test", test_slots=tmp_path / "elsewhere.pkl").path == tmp_path / "elsewhere.h5"
    assert isinstance(vp_vqa.build_method(params), SampleMethod)


@pytest.mark.parametrize(
    ("config", "setting", "message"),
    [
        (DYNAMICS, "slots_root=none/physion_training_slots.pkl", "no such file, .h5 or .pkl. Extract the slots first"),
        (DYNAMICS, "slots_root=none/x.pkl", "slotdiffusion/video_based/extract_slots.py --subset training --save_path"),
        (DYNAMICS, "dataset=physion_slot_training", "did you mean 'physion_slots_training'"),
        (DYNAMICS, "dataset=physion_slots_test", "is for testing alone; physion_slots_training is to train on"),
        (DYNAMICS, "num_slots=4", "12 frames of 3 slots of size 16, expected at least 12 frames of 4 slots of size 16"),
        (
            READOUT,
            "slots_root=none/readout_slots.pkl",
            "slotdiffusion/vp_vqa/rollout_physion_slots.py --subset readout",
        ),
        (READOUT, "frame_offset=3", "frame_offset is 3; expected 1"),
        (READOUT, "dataset=physion_slots_label_test", "is for testing alone; physion_slots_label_readout is to train"),
    ],
)
def test_misuse_is_answered(videos: Path, slots: Path, config: str, setting: str, message: str) -> None:
    with pytest.raises((ParamsError, DataError), match=message):
        vp_vqa.build_dataset(params_of(videos, slots, config, setting))


def test_the_decoder_is_taken_over(videos: Path, slots: Path, tmp_path: Path) -> None:
    params = params_of(videos, slots, DYNAMICS, write_decoder(tmp_path))
    model, method = vp_vqa.build_model(params), vp_vqa.build_method(params)
    assert isinstance(method, Method)
    before = model.rollouter.in_proj.weight.clone()
    method.initialise(model)
    weights = load(tmp_path / "savi_ldm.pth")["model"]
    for name, value in model.dm_decoder.state_dict().items():
        assert value.equal(weights[f"dm_decoder.{name}"]), name
    assert before.equal(model.rollouter.in_proj.weight)
    learning = {id(value) for group in method.param_groups(model) for value in group["params"]}
    codes = model.rollouter.enc_t_pe
    assert learning == {id(value) for value in model.rollouter.parameters() if value is not codes}
    theirs = {name: value for name, value in original.export_state(model).items() if name.startswith("dm_decoder.")}
    theirs |= {"init_latents": torch.zeros(1, 3, 16), "dm_decoder.betas": torch.zeros(1000)}
    save(tmp_path / "savi_ldm.pth", {"state_dict": {f"module.{name}": value for name, value in theirs.items()}})
    other = vp_vqa.build_model(params)
    method.initialise(other)
    for name, value in other.dm_decoder.state_dict().items():
        assert value.equal(weights[f"dm_decoder.{name}"]), name
    params.dec_dict["dec_ckp_path"] = "none.pth"
    with pytest.raises(ParamsError, match=r"none.pth: no such file. Train SAViDiffusion first, .* of video_based"):
        method.initialise(other)


def test_videos_of_slots_and_of_predictions(videos: Path, slots: Path) -> None:
    params = params_of(videos, slots, DYNAMICS)
    torch.manual_seed(0)
    model, method = trained(vp_vqa.build_model(params)).eval(), vp_vqa.build_method(params)
    with torch.no_grad():
        found = method.videos(model)
    sizes = {name: tuple(video.shape) for name, video in found.items()}
    assert sizes == {
        "video": (4, 3, 36, 70),
        "rollout_video": (4, 3, 36, 70),
        "compare_video": (4, 3, 36, 104),
    }
    assert found["video"][:3].equal(found["rollout_video"][:3]), "as their slots say, from the same noise"
    assert not found["video"][3].equal(found["rollout_video"][3])
    assert found["compare_video"][..., :70].equal(found["video"][..., :70])
    assert method.fps == 16 // 3


@pytest.mark.parametrize("config", [DYNAMICS, READOUT])
def test_published_configurations(config: str) -> None:
    params = load_params(CONFIGS / config, vp_vqa.Keys, {})
    model = vp_vqa.build_method(params)
    assert model.floor == 0.01
    if config == READOUT:
        values = (params.lr, params.max_epochs, params.train_batch_size, params.val_batch_size, params.video_len)
        assert values == (1e-3, 50, 64, 128, 75)
        return
    values = (params.lr, params.max_epochs, params.gpus * params.train_batch_size, params.val_batch_size)
    assert values == (1e-4, 25, 128, 128)
    assert params.rollout_dict["history_len"] + params.loss_dict["rollout_len"] == params.n_sample_frames == 25
    with torch.device("meta"):
        built = vp_vqa.build_model(params)
    learning = sum(value.numel() for value in built.parameters() if value.requires_grad)
    assert 9.57e6 < learning < 9.59e6
