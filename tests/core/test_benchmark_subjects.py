"""Trained models of several papers behind the benchmark's interface, from checkpoints of small untrained ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.benchmark.evaluation import group_of
from core.benchmark.subjects import Subject
from core.benchmark.views import posed_views, scaled_cameras
from core.data.cameras import cast_rays, look_at_cameras, pixel_rays
from core.data.obsurf import ObSuRF
from core.runs import RunRecord
from core.training.checkpoint import CheckpointError, save

CPU = torch.device("cpu")
BUILDER = f"{__name__}:build_savi"
EMORL = {
    "name": "SlotAttention",
    "arguments": {"image_size": (16, 16), "num_slots": 3, "slot_size": 8, "decoder": "small", "small_init": False},
}


def build_savi(params: dict, task: str = "") -> torch.nn.Module:
    from slotformer.base_slots.models.savi import StoSAVi

    return StoSAVi(
        resolution=(16, 16),
        clip_len=2,
        slot_size=16,
        slot_mlp_size=16,
        enc_channels=(3, 8, 8),
        enc_out_channels=16,
        dec_channels=(16, 8),
        dec_resolution=(8, 8),
        pred_num_heads=2,
        pred_ffn_dim=16,
        kld_method="var-0.01",
        num_slots=params["num_slots"],
    )


def write(folder: Path, inputs: dict | None, builder: str, arguments: dict, seed: int = 1) -> Path:
    """A checkpoint of the untrained model; the file."""
    name = "model.pth"
    torch.manual_seed(0)
    record = RunRecord("paper", builder, arguments, {}, seed=seed, checkpoints={"file": name}, inputs=inputs)
    save(folder / name, {"step": 9, "model": record.build().state_dict(), "run": record.to_dict()})
    record.write(folder / "run.json")
    return folder / name


@pytest.fixture
def of_pictures(tmp_path: Path) -> Path:
    write(tmp_path, {"kind": "images", "size": [16, 16]}, "emorl.models:build_model", EMORL)
    return tmp_path


@pytest.fixture
def of_videos(tmp_path: Path) -> Path:
    write(tmp_path, {"kind": "videos", "size": [16, 16]}, BUILDER, {"params": {"num_slots": 3}})
    return tmp_path


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_what_a_run_folder_says(of_pictures: Path):
    subject = Subject.open(of_pictures)
    assert (subject.name, subject.paper, subject.steps) == ("SlotAttention", "paper", 10)
    assert (subject.sees, subject.size, subject.num_slots) == ("images", (16, 16), 3)
    assert subject.weight == of_pictures / "model.pth"
    assert not subject.model.training
    assert Subject.open(of_pictures / "model.pth").record == subject.record


def test_pictures_of_any_size_have_one_frame(of_pictures: Path):
    subject = Subject.open(of_pictures)
    found = subject.decompose({"image": rand(2, 3, 40, 24)}, [3, 4]).validate()
    assert found.recon.shape == (2, 1, 3, 16, 16)
    assert found.masks.shape == (2, 1, 3, 16, 16)
    assert found.slots.shape == (2, 1, 3, 8)


def test_a_model_of_pictures_sees_each_frame_by_itself(of_pictures: Path):
    subject, video = Subject.open(of_pictures), rand(2, 4, 3, 16, 16)
    found = subject.decompose({"video": video}, [3, 4]).validate()
    assert found.masks.shape == (2, 4, 3, 16, 16)
    picture = subject.decompose({"image": video[:, 0]}, [3, 4])
    assert torch.equal(found.masks[:, :1], picture.masks)
    prefix = subject.decompose({"video": video[:, :2]}, [3, 4])
    assert torch.equal(found.recon[:, :2], prefix.recon)
    # The same frame again has other noise.
    same = subject.decompose({"video": video[:, :1].expand(-1, 2, -1, -1, -1)}, [3, 4])
    assert not torch.equal(same.masks[:, 0], same.masks[:, 1])


@pytest.mark.parametrize("kind", ["of_pictures", "of_videos"])
def test_a_samples_result_depends_on_no_other_sample(kind: str, request: pytest.FixtureRequest):
    subject, video = Subject.open(request.getfixturevalue(kind)), rand(3, 2, 3, 16, 16)
    together = subject.decompose({"video": video}, [7, 2, 5])
    alone = subject.decompose({"video": video[1:2]}, [2])
    assert torch.allclose(together.masks[1:2], alone.masks, atol=1e-6)
    assert torch.allclose(together.recon[1:2], alone.recon, atol=1e-6)
    other = subject.decompose({"video": video[1:2]}, [3])
    assert not torch.allclose(other.masks, alone.masks, atol=1e-6)


def test_a_model_of_videos_sees_a_picture_as_one_frame(of_videos: Path):
    subject, video = Subject.open(of_videos), rand(2, 5, 3, 16, 16)
    assert subject.num_slots == 3
    found = subject.decompose({"video": video}, [0, 1]).validate()
    assert found.masks.shape == (2, 5, 3, 16, 16)
    picture = subject.decompose({"image": video[:, 0]}, [0, 1])
    assert torch.allclose(found.masks[:, :1], picture.masks, atol=1e-6)
    assert torch.equal(subject.segment({"video": video}, [0, 1]), found.masks)


def test_other_numbers_of_slots(of_pictures: Path):
    subject = Subject.open(of_pictures, num_slots=5)
    assert subject.num_slots == 5
    assert subject.decompose({"image": rand(1, 3, 16, 16)}, [0]).masks.shape == (1, 1, 5, 16, 16)
    with pytest.raises(ValueError, match="1 slots divide nothing"):
        Subject.open(of_pictures, num_slots=1)


def test_learned_slots_cannot_be_more(of_videos: Path):
    with pytest.raises(ValueError, match="learned one by one, so that there cannot be 5"):
        Subject.open(of_videos, num_slots=5)


def test_runs_that_differ_in_their_seed_alone_are_of_one_group(tmp_path: Path):
    groups = []
    for number, (slots, seed) in enumerate([(3, 1), (3, 2), (4, 1)]):
        (tmp_path / str(number)).mkdir()
        # Some papers write the seed among the arguments, too.
        arguments = {"task": "slotformer.base_slots", "params": {"num_slots": slots, "seed": seed}}
        inputs = {"kind": "videos", "size": [16, 16]}
        groups.append(group_of(Subject.open(write(tmp_path / str(number), inputs, BUILDER, arguments, seed))))
    assert groups[0] == groups[1] != groups[2]


def test_records_that_do_not_say_what_the_model_sees(tmp_path: Path):
    file = write(tmp_path, None, "emorl.models:build_model", EMORL)
    with pytest.raises(CheckpointError, match=r"model.pth: its run record does not say what the model sees"):
        Subject.open(file)


def test_models_without_slots_are_refused_by_name(tmp_path: Path):
    file = write(tmp_path, {}, "slotformer.base_slots.models.dvae:dVAE", {"vocab_size": 8})
    with pytest.raises(CheckpointError, match=r"dVAE \(paper\) takes no pictures apart"):
        Subject.open(file)


def test_missing_and_damaged_weights(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        Subject.open(tmp_path / "nowhere")
    (tmp_path / "model.pth").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        Subject.open(tmp_path / "model.pth")


@pytest.mark.parametrize("options", [{}, {"downsample": 1}, {"canonical_view": True}])
def test_views_are_those_of_the_reader(views: Path, options: dict):
    source = ObSuRF(views / "clevr3d", "train", "clevr3d", full_scale=True, **options)
    scenes = source.read(np.arange(0, len(source), 3))
    canonical = options.get("canonical_view", False)
    found = posed_views(scenes, (24, 32), CPU, 1, 2 ** options.get("downsample", 0), canonical)
    for row in range(len(found["input_rays"])):
        wanted = cast_rays(source.sample({name: values[row] for name, values in scenes.items()}))
        assert torch.equal(found["input_images"][row], wanted["input_images"])
        assert torch.allclose(found["input_rays"][row], wanted["input_rays"], atol=1e-6)
        assert torch.allclose(found["input_camera_pos"][row], wanted["input_camera_pos"], atol=1e-6)
        assert torch.allclose(found["view_rays"][row].flatten(0, 2), wanted["target_rays"], atol=1e-6)
        positions = found["view_camera_pos"][row].repeat_interleave(24 * 32, dim=0)
        assert torch.allclose(positions, wanted["target_camera_pos"], atol=1e-6)


def test_resized_cameras_look_the_same_way():
    position = torch.tensor([[3.0, 1.0, 2.0]])
    scaled = scaled_cameras(look_at_cameras(position, 12, 16), (12, 16), (6, 8))
    wanted = look_at_cameras(position, 6, 8)
    assert torch.allclose(pixel_rays(scaled, 6, 8), pixel_rays(wanted, 6, 8), atol=1e-6)
