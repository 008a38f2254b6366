"""What extraction of slots and words is made of: noise, links, notes, batches, and the words that STEVE reads."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.errors import DataError
from core.data.physion import FOLDERS, Physion, listed_videos, token_file
from core.data.slot_writer import save_array
from core.data.slots import write_h5
from core.provenance import Provenance, file_hash, write_provenance
from slotformer.base_slots import extract_phyre_slots, extract_slots, tokenize_images
from slotformer.base_slots.data import build_dataset, token_name
from slotformer.base_slots.models.savi import StoSAVi
from slotformer.framework.extraction import (
    link_beside,
    note_replaced,
    notes,
    read_ahead,
    settings_of,
    video_noise,
    videos_at_a_time,
)
from slotformer.framework.params import BaseParams, ParamsError
from tests.video_files import smooth_frames, write_json, write_mp4

CPU = torch.device("cpu")
NAMES = ["ball_0001_img", "ball_0002_img"]
LENGTH = 5


def small_savi(**options) -> StoSAVi:
    torch.manual_seed(0)
    sizes = {"enc_channels": (3, 4, 4), "enc_out_channels": 8, "slot_size": 8, "num_slots": 3, "slot_mlp_size": 8}
    decoder = {"dec_channels": (8, 4, 4, 4, 4), "pred_num_heads": 2, "pred_num_layers": 1, "pred_ffn_dim": 8}
    return StoSAVi(**sizes, **decoder, **options).eval()


# Noise


def test_noise_is_keyed_by_seed_and_video():
    alone = video_noise(0, ["val/a"], 4, CPU)
    together = video_noise(0, ["val/b", "val/a"], 4, CPU)
    for _ in range(4):
        drawn = alone("kernel", (1, 3, 8))
        assert torch.equal(together("kernel", (2, 3, 8))[1:], drawn)
    other = video_noise(0, ["train/a"], 4, CPU)("kernel", (1, 3, 8))
    again = video_noise(1, ["val/a"], 4, CPU)("kernel", (1, 3, 8))
    first = video_noise(0, ["val/a"], 4, CPU)("kernel", (1, 3, 8))
    assert not torch.equal(first, other)
    assert not torch.equal(first, again)
    assert abs(float(video_noise(0, ["a"], 500, CPU)("kernel", (1, 8, 64)).std()) - 1) < 0.1


def test_stochastic_slots_do_not_depend_on_batches_and_passes():
    model = small_savi(kld_method="var-0.01")
    videos = torch.rand(3, 7, 3, 64, 64)
    names = ["train/a", "train/b", "train/c"]
    together = model.extract({"video": videos}, video_noise(0, names, 7, CPU))
    assert together.shape == (3, 7, 3, 8)
    assert videos_at_a_time(model, CPU) == 4
    assert videos_at_a_time(model, CPU, 2) == 2
    assert model.clip_len == 1
    for video, name, slots in zip(videos, names, together):
        alone = model.extract({"video": video[None]}, video_noise(0, [name], 7, CPU))[0]
        torch.testing.assert_close(alone, slots, rtol=0, atol=1e-6)
    different = model.extract({"video": videos}, video_noise(1, names, 7, CPU))
    assert not torch.allclose(different, together, atol=1e-3)


# Links


def test_links_lead_to_the_file_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "slots.h5").write_text("slots")
    monkeypatch.chdir(tmp_path)
    weight = Path("models/model_5.pth")
    (tmp_path / "models" / "slots.pkl").symlink_to("old")
    link_beside(weight, "slots.h5", Path("data/slots.h5"), instead_of="slots.pkl")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["slots.h5"]
    monkeypatch.chdir("/")
    assert (tmp_path / "models" / "slots.h5").read_text() == "slots"


def test_links_replace_links_alone(tmp_path, capsys):
    target, link = tmp_path / "target", tmp_path / "slots.h5"
    target.write_text("slots")
    link.symlink_to("gone")
    link_beside(tmp_path / "w.pth", "slots.h5", target)
    assert link.read_text() == "slots"
    link.unlink()
    link.write_text("a file of the user's")
    link_beside(tmp_path / "w.pth", "slots.h5", target, instead_of="target")
    assert link.read_text() == "a file of the user's"
    assert target.read_text() == "slots"
    assert f"{link} is not replaced by a link to {target}" in capsys.readouterr().err
    link_beside(tmp_path / "w.pth", "target", target)
    assert not target.is_symlink(), "it lies there already"
    link_beside(tmp_path / "missing" / "w.pth", "slots.h5", target)
    assert "no link to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dataset", "path", "name"),
    [
        ("obj3d", "x.h5", "slots.h5"),
        ("clevrer", "x.pkl", "slots.pkl"),
        ("physion_training", "x.h5", "training_slots.h5"),
        ("physion_test", "x.pkl", "test_slots.pkl"),
    ],
)
def test_names_of_links(dataset, path, name):
    assert extract_slots.link_name(dataset, Path(path)) == name


# Configurations


def test_what_is_replaced_is_said(tmp_path, capsys):
    path, ours = tmp_path / "slots.h5", Provenance({"seed": 1, "dataset": "obj3d"})
    note_replaced(path, ours)
    assert capsys.readouterr().err == ""
    write_h5(path, [("val", "a", np.zeros((2, 3, 4), np.float32))], {"provenance": '{"seed": 0, "dataset": "obj3d"}'})
    note_replaced(path, ours)
    assert capsys.readouterr().err == (
        f"note: {path} is there already, and is replaced once all slots are made:\n  seed: 0 -> 1\n"
    )
    path.with_suffix(".pkl").touch()
    note_replaced(path.with_suffix(".pkl"), ours)
    assert "nothing says what made it" in capsys.readouterr().err
    write_provenance(tmp_path / "slots.pkl.json", ours)
    note_replaced(path.with_suffix(".pkl"), ours)
    assert "it holds other videos" in capsys.readouterr().err


def test_data_sets_and_subsets():
    assert extract_slots.choose_dataset(BaseParams({"dataset": "clevrer"}), None) == "clevrer"
    physion = BaseParams({"dataset": "physion_training"})
    chosen = [extract_slots.choose_dataset(physion, subset) for subset in (None, "readout", "test")]
    assert chosen == ["physion_training", "physion_readout", "physion_test"]
    with pytest.raises(ParamsError, match="--subset test: obj3d has no subsets, only Physion has"):
        extract_slots.choose_dataset(BaseParams({"dataset": "obj3d"}), "test")
    with pytest.raises(ParamsError, match=r"'phyre' is not one of .* Use extract_phyre_slots.py"):
        extract_slots.choose_dataset(BaseParams({"dataset": "phyre"}), None)


def test_what_deserves_a_second_look():
    dvae = {"dvae_ckp_path": "a", "vocab_size": 4}
    clevrer = BaseParams({"dataset": "clevrer", "dvae_dict": dvae, "lr": 1.0, "resolution": (64, 64)})
    bare = {"encoder.weight": torch.zeros(1)}
    assert "blue, green, red" in next(notes(bare, clevrer))
    assert list(notes(bare, BaseParams({**clevrer.to_dict(), "as_original": True}))) == []
    assert list(notes(bare, BaseParams({**clevrer.to_dict(), "dataset": "obj3d"}))) == []
    assert list(notes(bare, BaseParams({"dataset": "clevrer_slots"}))) == [], "Aloe, which sees no frames"
    saved = {**clevrer.to_dict(), "dataset": "obj3d", "num_workers": 3}
    saved["dvae_dict"] = {"dvae_ckp_path": "b", "vocab_size": 4}
    assert list(notes({"params": saved, "model": bare}, clevrer)) == []
    saved["dvae_dict"] = {"dvae_ckp_path": "b", "vocab_size": 8}
    assert next(notes({"params": saved, "model": bare}, clevrer)).endswith(
        "configuration:\n  dvae_dict.vocab_size: 8 -> 4"
    )
    assert settings_of(clevrer.to_dict())["dvae_dict"] == {"vocab_size": 4}


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        (extract_slots, ["--save_path", "x", "--subse", "test"], "did you mean '--subset'?"),
        (extract_slots, ["--save_path", "x", "--subset", "tests"], "invalid choice: 'tests'"),
        (extract_slots, ["--save_path", "x", "--bs", "0"], "--bs: expected a whole number of at least 1, found '0'"),
        (tokenize_images, ["--cpu", "1"], "did you mean '--cpus'?"),
        (extract_phyre_slots, ["--save_path", "x", "--split", "10"], "--split 10: expected -1, or 0 to 9"),
        (extract_phyre_slots, ["--save_path", "x", "--total-splits", "2"], "did you mean '--total_split'?"),
    ],
)
def test_misspelt_flags(script, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        script.parse_arguments(["--params", "p", "--weight", "w", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


# Batches


class Numbers:
    """Samples that are their numbers; the last one is damaged."""

    num_frames = 1

    def __len__(self) -> int:
        return 10

    def read(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        if 9 in indices:
            raise DataError("sample 9: damaged")
        time.sleep(0.01 * (indices[0] == 0))
        return {"number": torch.from_numpy(indices)}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_and_errors_as_they_are(workers, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2})
    chunks = [np.arange(begin, begin + 2) for begin in range(0, 8, 2)]
    found = [batch["number"].tolist() for batch in read_ahead(Numbers(), chunks, workers)]
    assert found == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with pytest.raises(DataError, match=r"^sample 9: damaged$"):
        list(read_ahead(Numbers(), [np.array([8]), np.array([9])], workers))


# Words


@pytest.fixture
def physion(tmp_path, monkeypatch) -> Path:
    """Two videos of five frames in either split of the training subset, and what stands for the weight of a dVAE."""
    monkeypatch.setenv("OBJECTCENTRIC_CACHE", str(tmp_path / "cache"))
    for split in ("train", "val"):
        paths = [f"{FOLDERS['training'].format('Roll')}/{split}_{name}.mp4" for name in NAMES]
        write_json(tmp_path / "splits" / f"training_{split}.json", {"Roll": paths})
        for number, path in enumerate(paths):
            write_mp4(tmp_path / path, smooth_frames(LENGTH, 16, 16, number))
    (tmp_path / "checkpoint" / "dvae" / "models" / "epoch").mkdir(parents=True)
    (tmp_path / "checkpoint" / "dvae" / "models" / "epoch" / "model_2.pth").write_bytes(b"weights")
    return tmp_path


def words_of(split: str, video: int) -> np.ndarray:
    return np.random.default_rng(video + 7 * (split == "val")).integers(0, 4096, (LENGTH, 16)).astype(np.int16)


def write_words(root: Path, name: str = "dvae", splits: tuple = ("train", "val")) -> list[Path]:
    files = []
    for split in splits:
        for number, video in enumerate(listed_videos(root, "training", split)):
            files.append(token_file(root, video, name))
            save_array(files[-1], words_of(split, number))
    return files


def steve_params(root: Path, weight: str = "checkpoint/dvae/models/epoch/model_2.pth") -> BaseParams:
    data = {"dataset": "physion_training", "data_root": str(root), "video_len": LENGTH, "frame_offset": 2}
    model = {"model": "STEVE", "resolution": (16, 16), "n_sample_frames": 2}
    return BaseParams({**data, **model, "dvae_dict": {"dvae_ckp_path": str(root / weight)}})


def test_words_lie_as_the_videos(physion):
    files = write_words(physion, "d", ("train",))
    assert files[0] == physion / "PhysionTrainNpys-d" / "Roll_training_MP4s" / "train_ball_0001_img.npy"
    test = listed_videos(physion, "test", "test")[0]
    assert token_file(physion, test, "d").relative_to(physion).parts[:3] == (
        "PhysionTestNpys-d",
        "Support",
        "mp4s-redyellow",
    )


def test_steve_reads_the_words_of_its_clips(physion):
    assert "token_id" not in build_dataset(steve_params(physion))[0].read(np.array([0])), "there are none yet"
    write_words(physion)
    for split, source in zip(("train", "val"), build_dataset(steve_params(physion))):
        batch = source.read(np.arange(len(source)))
        assert batch["token_id"].dtype == torch.int32
        for (video, start), words in zip(source.clips, batch["token_id"].numpy()):
            np.testing.assert_array_equal(words, words_of(split, video)[[start, start + 2]])


@pytest.mark.parametrize(
    ("weight", "name"),
    [
        ("checkpoint/dvae/models/epoch/model_2.pth", "dvae"),
        ("checkpoint/dvae/models/model_2.pth", "dvae"),
        ("pretrained/dvae/model_20.pth", "dvae"),
        ("pretrained/other/model_20.pth", None),
    ],
)
def test_words_are_found_by_the_run_of_the_dvae(physion, weight, name):
    write_words(physion)
    assert token_name(steve_params(physion, weight)) == name


def test_words_of_another_weight_are_refused(physion):
    write_words(physion)
    folder, params = physion / "PhysionTrainNpys-dvae", steve_params(physion)
    weight = physion / "checkpoint" / "dvae" / "models" / "epoch" / "model_2.pth"
    write_provenance(folder / "provenance.json", Provenance({"weight_sha256": file_hash(weight)}))
    assert token_name(params) == "dvae"
    weight.write_bytes(b"trained for longer")
    with pytest.raises(DataError, match=r"PhysionTrainNpys-dvae: holds words of the weight .*, not of .*model_2.pth"):
        token_name(params)


def test_missing_and_damaged_words_are_named(physion):
    first, second, *_ = write_words(physion)
    settings = {"num_frames": 2, "video_len": LENGTH, "size": (16, 16), "tokens": "dvae"}
    second.write_bytes(first.read_bytes()[:150])
    source = Physion(physion, "training", "train", **settings)
    assert source.read(np.array([0]))["token_id"].shape == (1, 2, 16)
    with pytest.raises(DataError, match=r"train_ball_0002_img.npy: not readable as words of a video"):
        source.read(np.array([len(source) - 1]))
    save_array(second, words_of("train", 1)[:3])
    with pytest.raises(DataError, match=r"it holds int16 \[3, 16\], expected integers, 5 frames x words"):
        source.read(np.array([len(source) - 1]))
    second.unlink()
    with pytest.raises(
        DataError, match=r"0002_img.npy: no such file \(1 of 2 are missing\). Start .*tokenize_images.py"
    ):
        Physion(physion, "training", "train", **settings)
