"""Slots that are exchanged, noise of videos, and the folders that generated videos lie in."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.errors import DataError
from core.metrics.video import RandomVideoFeatures
from core.provenance import Provenance
from slotdiffusion.framework.generation import start_noise, to_pixels
from slotdiffusion.framework.mixing import donors_of_original, donors_of_set, mixed
from slotdiffusion.framework.output_folders import ShownVideos, VideoFolder, claim, frechet_distance, fvd

CPU = torch.device("cpu")


@pytest.mark.parametrize(("num_videos", "num_slots"), [(7, 5), (5, 5), (3, 5), (1, 4)])
def test_every_slot_of_the_set_is_used_once(num_videos: int, num_slots: int) -> None:
    donors = donors_of_set(num_videos, num_slots, seed=3)
    for slot in range(num_slots):
        assert sorted(donors[:, slot]) == list(range(num_videos))
    np.testing.assert_array_equal(donors[:, 0], np.arange(num_videos))
    if num_videos >= num_slots:
        assert all(len(set(row)) == num_slots for row in donors), "no two slots of a video have one origin"


def test_the_circle_is_drawn_by_the_seed() -> None:
    np.testing.assert_array_equal(donors_of_set(9, 4, 0), donors_of_set(9, 4, 0))
    assert (donors_of_set(9, 4, 0) != donors_of_set(9, 4, 1)).any()


def test_the_original_exchanges_within_batches_and_only_the_first_slots() -> None:
    donors = donors_of_original(num_samples=5, num_slots=4, batch_size=2)
    assert donors.tolist() == [[0, 1, 0, 0], [1, 0, 1, 1], [2, 3, 2, 2], [3, 2, 3, 3], [4, 4, 4, 4]]
    np.testing.assert_array_equal(donors_of_original(3, 4, 1), np.arange(3)[:, None].repeat(4, axis=1))


def test_slots_go_where_the_donors_say() -> None:
    slots = np.arange(3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2, 1)
    found = mixed(slots, np.array([[2, 0]]))
    np.testing.assert_array_equal(found[0, :, 0], slots[2, :, 0])
    np.testing.assert_array_equal(found[0, :, 1], slots[0, :, 1])


def test_noise_belongs_to_the_video_and_is_one_for_all_its_frames() -> None:
    together = start_noise(0, [4, 7], CPU)("start", (2, 3, 3, 2, 2))
    alone = start_noise(0, [7], CPU)("start", (1, 3, 3, 2, 2))
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=0)
    torch.testing.assert_close(together[:, 0], together[:, 2], rtol=0, atol=0)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(alone, start_noise(1, [7], CPU)("start", (1, 3, 3, 2, 2)))


def test_pixels_are_rounded_and_cut() -> None:
    pictures = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).view(1, 5, 1, 1, 1).expand(1, 5, 3, 1, 1)
    assert to_pixels(pictures)[0, :, 0, 0, 1].tolist() == [0, 0, 128, 255, 255]


def video(seed: int, frames: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 16, 16, 3), np.uint8)


def test_a_folder_holds_videos_of_one_origin(tmp_path: Path) -> None:
    folder = VideoFolder(tmp_path / "eval" / "recon_vids")
    folder.claim(Provenance({"weight_sha256": "a"}))
    folder.write(3, video(0))
    assert folder.has(3)
    assert not folder.has(0)
    assert sorted(path.name for path in (folder.path / "3").iterdir())[:3] == ["0.png", "1.png", "10.png"]
    assert [path.name for path in folder.path.iterdir()] == ["3"], "nothing but videos"
    np.testing.assert_array_equal(folder.read(3, 16), video(0))
    np.testing.assert_array_equal(folder.read(3, 5), video(0)[:5])
    folder.claim(Provenance({"weight_sha256": "a"}))
    with pytest.raises(DataError, match=r"(?s)recon_vids: holds results of other weights.*'a' -> 'b'"):
        folder.claim(Provenance({"weight_sha256": "b"}))
    other = VideoFolder(tmp_path / "mine")
    other.write(0, video(0))
    with pytest.raises(DataError, match=r"mine: holds files, but no mine.json"):
        other.claim(Provenance({"weight_sha256": "a"}))


def test_a_folder_that_was_emptied_is_free_again(tmp_path: Path) -> None:
    folder = VideoFolder(tmp_path / "vids")
    folder.claim(Provenance({"weight_sha256": "a"}))
    folder.claim(Provenance({"weight_sha256": "b"}))
    assert json.loads((tmp_path / "vids.json").read_text()) == {"weight_sha256": "b"}


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    folder = VideoFolder(tmp_path / "vids")
    folder.write(0, video(0))
    (tmp_path / "vids.json").write_text('{"weight_sha256": "a"}')
    (folder.path / ".1.77.partial").mkdir()
    (folder.path / ".1.77.partial" / "0.png").touch()
    (folder.path / ".2.png.77.partial").touch()
    folder.claim(Provenance({"weight_sha256": "a"}))
    assert [path.name for path in folder.path.iterdir()] == ["0"]


def test_a_folder_of_scores_is_free_until_it_has_some(tmp_path: Path) -> None:
    description = tmp_path / "provenance.json"
    for weight in ("a", "b"):
        claim(tmp_path, description, Provenance({"weight_sha256": weight}))
    (tmp_path / "0.json").write_text("{}")
    with pytest.raises(DataError, match=r"(?s)holds results of other weights.*'b' -> 'a'"):
        claim(tmp_path, description, Provenance({"weight_sha256": "a"}))


def test_videos_to_look_at_have_an_origin_by_kind(tmp_path: Path) -> None:
    recon, mixed_ones = (ShownVideos(tmp_path / "vis", kind) for kind in ("recon", "comp"))
    recon.claim(Provenance({"seed": 0}))
    recon.write(3, video(0))
    assert (recon.has(3), recon.has(0), mixed_ones.has(3)) == (True, False, False)
    mixed_ones.claim(Provenance({"seed": 1}))
    recon.claim(Provenance({"seed": 0}))
    with pytest.raises(DataError, match=r"(?s)vis: holds results of other weights or settings:.*seed: 0 -> 1"):
        recon.claim(Provenance({"seed": 1}))
    (tmp_path / "vis_recon.json").unlink()
    with pytest.raises(DataError, match=r"vis: holds files, but no vis_recon.json"):
        recon.claim(Provenance({"seed": 0}))


def test_distances_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no weights there
    real, generated = VideoFolder(tmp_path / "real"), VideoFolder(tmp_path / "generated")
    for number in range(3):
        real.write(number, video(number))
        generated.write(number, video(number) // 2)
    network = RandomVideoFeatures()
    same = frechet_distance(real, real, range(3), CPU, network)
    other = frechet_distance(real, generated, range(3), CPU, network)
    assert same[network.metric] == pytest.approx(0, abs=1e-9)
    assert other[network.metric] > 1e-4
    assert (other["num_real"], other["num_generated"]) == (3, 3)
    scores, remark = fvd(real, generated, range(3), 12, CPU)
    assert scores == {}
    assert "FVD is left out" in remark
    assert "rgb_imagenet.pt" in remark
    assert fvd(real, generated, range(3), 6, CPU)[1] == "FVD is left out: it needs two videos of 9 frames"
