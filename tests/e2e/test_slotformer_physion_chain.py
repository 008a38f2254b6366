"""Physion's chain at a small size: what each of its models learns from generated videos, and from their true states.

One core renders the videos in eight minutes and trains for ten. STEVE does not find objects in so short a time, so that
the read-out learns nothing from its slots. The second test has SAVi in its place, which learns bodies of one colour
sooner, the third slots made of the true states of all bodies.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.physion import SCENARIOS, SPLITS, listed_videos
from core.data.slots import SlotFile, write_h5
from core.runs import load_model
from core.training.checkpoint import save
from slotformer import base_slots
from slotformer.base_slots.data import open_data
from slotformer.framework.params import BaseParams, load_params, parse_overrides
from tests.conftest import ROOT, MadeOnce, Runner
from tests.slotformer_runs import rows

VIDEOS = ("--scenes", 1040, "--frames", 20, "--fps", 8, "--width", 64, "--height", 64, "--samples", 2, "--seed", 1)
SEEN, CLIP, HISTORY = 12, 12, 6
"""Frames: before the roll-outs, which is a second and a half as published; of a clip; of those that SlotFormer sees."""
DVAE, STEVE, DYNAMICS, READOUT = (f"{name}_physion_params" for name in ("dvae", "steve", "slotformer", "readout"))
SAVI = "stosavi_clevrer_params"
FOLDERS = {
    DVAE: "base_slots",
    STEVE: "base_slots",
    SAVI: "base_slots",
    DYNAMICS: "video_prediction",
    READOUT: "physion_vqa",
}
COMMON = ("resolution=(48,48)", "video_len=20", "gpus=1", "num_workers=0", "san_check_val_step=0", "n_samples=1")
WORDS = "dvae_dict.vocab_size=12"
SETTINGS = {
    DVAE: (
        *("vocab_size=12", "lr=5e-3", "tau_decay_pct=0.9", "train_batch_size=4", "val_batch_size=64", "max_epochs=2"),
        *("print_iter=400", "eval_interval=10"),
    ),
    STEVE: (
        *(WORDS, "slot_size=64", "enc_dict.enc_channels=(3,16,16,16,16)", "pred_dict.pred_num_layers=1"),
        *(
            "dec_dict.dec_num_layers=2",
            "n_sample_frames=2",
            "input_frames=2",
            "train_batch_size=6",
            "val_batch_size=32",
        ),
        *("lr=6e-4", "dec_lr=2e-3", "max_epochs=1", "clip_grad=1.0", "warmup_steps_pct=0.05", "print_iter=100"),
    ),
    SAVI: (
        *("dataset=physion_training", "resolution=(64,64)", "num_slots=6", "slot_dict.num_slots=6", "slot_size=64"),
        *("enc_dict.enc_channels=(3,16,16,16,16)", "enc_dict.enc_ks=3", "enc_dict.enc_out_channels=64"),
        *("dec_dict.dec_channels=(64,32,16,16)", "pred_dict.pred_type=restart", "loss_dict.kld_method=none"),
        *("n_sample_frames=1", "train_batch_size=8", "val_batch_size=60", "max_epochs=8", "save_interval=1.0"),
        *("lr=1e-3", "warmup_steps_pct=0.05", "clip_grad=-1"),
    ),
    DYNAMICS: (
        *(WORDS, "frame_offset=1", f"input_frames={HISTORY}", f"n_sample_frames={CLIP}", "train_batch_size=16"),
        *("val_batch_size=64", "lr=1e-3", "dropout=0.0", "save_interval=1.0", "eval_interval=20"),
        *("rollout_dict.num_heads=4", "rollout_dict.ffn_dim=256"),
    ),
    READOUT: ("train_batch_size=24", "val_batch_size=80", "lr=5e-3", "max_epochs=120", "eval_interval=40"),
}
"""In a name of --set: what makes a configuration small."""


@pytest.fixture(scope="session")
def physion(run: Runner, made_once: MadeOnce) -> Path:
    """A folder with 1,040 generated videos of two and a half seconds, of which 560 have labels."""

    def make(folder: Path) -> None:
        words = ("tools/make_data.py", "physion", "--root", folder, *VIDEOS, "--workers", os.cpu_count())
        done = run(*words, timeout=3600)
        assert done.returncode == 0, done.stderr

    return made_once("physion-chain", make) / "Physion"


class Commands:
    """The documents' commands in one folder; `settings` go to all of them."""

    def __init__(self, run: Runner, folder: Path, *settings: object):
        self.run = run
        self.folder = folder
        self.settings = settings

    def call(self, script: str, config: str, *flags: object, settings: tuple) -> None:
        params = ROOT / "slotformer" / FOLDERS[config] / "configs" / config
        chosen = (*COMMON, *self.settings, *SETTINGS[config], *settings)
        words = (f"slotformer/{script}.py", "--params", params, *flags, "--set", *chosen)
        done = self.run(*words, cwd=self.folder, timeout=5400)
        assert done.returncode == 0, done.stderr

    def train(self, config: str, *settings: str, flags: tuple[str, ...] = ()) -> Path:
        """The folder of the run."""
        self.call("scripts/train", config, "--task", FOLDERS[config], "--resident", *flags, settings=settings)
        return self.folder / "checkpoint" / config

    def extract(self, weight: Path, config: str = STEVE) -> Path:
        """The folder of the slots of all subsets."""
        for subset in SPLITS:
            flags = ("--weight", weight, "--subset", subset, "--save_path", f"physion_{subset}_slots.h5")
            self.call("base_slots/extract_slots", config, *flags, settings=())
        return weight.parent

    def roll_out(self, weight: Path, *settings: str) -> None:
        for subset in ("readout", "test"):
            flags = ("--weight", weight, "--subset", subset, "--num_observed", SEEN)
            self.call("video_prediction/rollout_physion_slots", DYNAMICS, *flags, settings=settings)

    def test(self, weight: Path, *settings: str) -> dict:
        """The report on the test videos, with a threshold that was fixed before."""
        flags = ("--weight", weight, "--threshs", 0.5)
        self.call("physion_vqa/test_physion_vqa", READOUT, *flags, settings=settings)
        return json.loads(weight.with_name(f"{weight.stem}-vqa-{READOUT}.json").read_text())


def last(folder: Path, name: str) -> float:
    """A score of the last validation."""
    return [row[name] for row in rows(folder) if name in row][-1]


def error_of_copies(path: Path) -> float:
    """Mean squared error of slots that stay as SlotFormer sees them last, on the clips of the validation."""
    file = SlotFile(path)
    clips = np.stack([file.read("val", name, slice(CLIP)) for name in file.names("val")])
    return float(np.square(clips[:, HISTORY:] - clips[:, HISTORY - 1 : HISTORY]).mean())


def chance(report: dict, deviations: float) -> float:
    """The accuracy of the more frequent answer, and so many standard deviations of it more."""
    share = report["majority"]
    return share + deviations * (share * (1 - share) / report["num_videos"]) ** 0.5


def told(what: str, report: dict) -> None:
    low, high = report["interval"]
    print(f"{what}: accuracy {report['accuracy']:.3f} ({low:.3f} to {high:.3f}), majority {report['majority']:.3f}")


# From videos


def scale_of(params: BaseParams, dvae: torch.nn.Module) -> tuple[float, float]:
    """Variance of the pixels at each place, in [-1, 1], and the entropy of the words there, in nats."""
    videos = open_data(params, "val", None)
    frames = videos.read(np.arange(len(videos)))["video"].flatten(0, 1).float() / 127.5 - 1
    words = torch.cat([dvae.tokenize(part) for part in frames.split(200)]).flatten(1)
    shares = torch.nn.functional.one_hot(words).double().mean(dim=0)
    return float(frames.var(dim=0).mean()), float(torch.special.entr(shares).sum(dim=-1).mean())


@pytest.mark.slow
def test_every_model_learns_from_what_the_one_before_has_made(run: Runner, physion: Path, tmp_path: Path) -> None:
    commands = Commands(run, tmp_path, f"data_root={physion}")
    dvae = commands.train(DVAE)
    settings = parse_overrides([*COMMON, *SETTINGS[DVAE], f"data_root={physion}"])
    params = load_params(ROOT / "slotformer" / "base_slots" / "configs" / DVAE, base_slots.Keys, settings)
    with torch.no_grad():
        variance, entropy = scale_of(params, load_model(dvae)[0])
    error = last(dvae, "val/recon_loss")
    words = f"dvae_dict.dvae_ckp_path={dvae / 'models' / 'best.pth'}"
    steve = commands.train(STEVE, words)
    surprise = last(steve, "val/token_recon_loss")
    weight = steve / "models" / "best.pth"
    slots = commands.extract(weight) / "training_slots.pkl"
    small = ("slot_size=64", "dec_dict.dec_num_layers=2", "rollout_dict.d_model=64", "rollout_dict.num_layers=2")
    given = (*small, "max_epochs=2", f"slots_root={slots}", words, f"dec_dict.dec_ckp_path={weight}")
    dynamics = commands.train(DYNAMICS, *given)
    moved, copied = last(dynamics, "val/slot_recon_loss"), error_of_copies(slots)
    print(f"dVAE: {error:.4f} of {variance:.4f}; STEVE: {surprise:.3f} of {entropy:.3f} nats; ", end="")
    print(f"SlotFormer: {moved:.4f}, copies {copied:.4f}")
    assert error < 0.4 * variance
    assert surprise < 0.8 * entropy, "the words of a place, without the picture"
    assert moved < 0.6 * copied
    commands.roll_out(dynamics / "models" / "best.pth", *given)
    readout = commands.train(READOUT, "slot_size=64")
    report = commands.test(readout / "models" / "epoch" / "model_120.pth", "slot_size=64")
    told("from videos", report)
    assert report["num_videos"] == 160
    assert report["slots"]["test"] == f"checkpoint/{DYNAMICS}/models/test_slots.h5", "as the configuration says"


@pytest.mark.slow
def test_from_slots_of_pixels_the_answers_are_better_than_chance(run: Runner, physion: Path, tmp_path: Path) -> None:
    commands = Commands(run, tmp_path, f"data_root={physion}")
    savi = commands.train(SAVI, flags=("--bf16",))
    losses = [row["train/loss"] for row in rows(savi) if "train/loss" in row]
    fifth = len(losses) // 5
    assert sum(losses[-fifth:]) < 0.5 * sum(losses[:fifth])
    slots = commands.extract(savi / "models" / "best.pth", SAVI)
    seen = ("slot_size=64", f"slots_root={slots / 'readout_slots.pkl'}")
    report = commands.test(commands.train(READOUT, *seen) / "models" / "epoch" / "model_120.pth", *seen)
    told("from whole videos", report)
    assert report["accuracy"] > chance(report, 2)


# From true states


SHAPES = ("cube", "sphere", "cylinder")


def state_slots(scene: dict) -> np.ndarray:
    """The red body, the yellow one, and up to four others: colour, place before the camera, sides, shape, fixed."""
    positions, camera = np.array(scene["positions"]), scene["cameras"][0]
    ahead = np.subtract(camera["target"], camera["position"])
    ahead = ahead / np.linalg.norm(ahead)
    right = np.cross(ahead, [0, 0, 1])
    right = right / np.linalg.norm(right)
    seen = (positions - camera["position"]) @ np.stack([right, np.cross(right, ahead), ahead], axis=1)
    marked = [scene["red"], scene["yellow"]]
    order = [*marked, *(body for body in range(len(scene["objects"])) if body not in marked)]
    slots = np.zeros((len(positions), 6, 16), np.float32)
    for place, body in enumerate(order[:6]):
        thing = scene["objects"][body]
        slots[:, place, min(place, 2)] = 1
        slots[:, place, 3:6] = seen[:, body] - [0, 0, 8]
        slots[:, place, 6:9] = 2 * np.array(thing["half_sides"])
        slots[:, place, 9 + SHAPES.index(thing["shape"])] = 1
        slots[:, place, 12] = thing["fixed"]
    return slots


def write_states(physion: Path, folder: Path) -> None:
    """<subset>_slots.h5 of all subsets."""
    for subset, splits in SPLITS.items():
        made = []
        for split in splits:
            for video in listed_videos(physion, subset, split):
                scenario = SCENARIOS[video.scenario]
                name = video.name.replace("-redyellow", "").removesuffix("_img")
                scene = json.loads((physion / "scenes" / scenario / f"{name}.json").read_text())
                made.append((split, video.name, state_slots(scene)))
        write_h5(folder / f"{subset}_slots.h5", made, {})


def write_frozen_parts(folder: Path) -> list[str]:
    """Of a STEVE that is not trained, since SlotFormer has no use for it in training; the settings that name them."""
    settings = (*COMMON, WORDS, "slot_size=16", "dec_dict.dec_num_layers=1")
    file = ROOT / "slotformer" / "base_slots" / "configs" / STEVE
    steve = base_slots.build_model(load_params(file, base_slots.Keys, parse_overrides(settings)))
    save(folder / "steve.pth", {"model": steve.state_dict()})
    save(folder / "dvae.pth", {"model": steve.dvae.state_dict()})
    return [f"dvae_dict.dvae_ckp_path={folder / 'dvae.pth'}", f"dec_dict.dec_ckp_path={folder / 'steve.pth'}"]


@pytest.mark.slow
def test_from_states_of_bodies_the_answers_are_better_than_chance(run: Runner, physion: Path, tmp_path: Path) -> None:
    states = tmp_path / "states"
    states.mkdir()
    write_states(physion, states)
    commands = Commands(run, tmp_path, f"data_root={physion}", "slot_size=16")
    small = ("dec_dict.dec_num_layers=1", "rollout_dict.d_model=96", "rollout_dict.num_layers=3", "max_epochs=14")
    given = (*small, f"slots_root={states / 'training_slots.pkl'}", *write_frozen_parts(states))
    dynamics = commands.train(DYNAMICS, *given)
    moved, copied = last(dynamics, "val/slot_recon_loss"), error_of_copies(states / "training_slots.h5")
    print(f"SlotFormer: {moved:.4f}, copies {copied:.4f}")
    assert moved < 0.75 * copied
    commands.roll_out(dynamics / "models" / "best.pth", *given)
    width = "readout_dict.feats_dim=64"
    readout = commands.train(READOUT, width)
    report = commands.test(readout / "models" / "epoch" / "model_120.pth", width)
    told("from a second and a half", report)
    assert report["accuracy"] > chance(report, 1.64)
    (tmp_path / "checkpoint" / READOUT).rename(tmp_path / "checkpoint" / "rolled_out")
    seen = (width, f"slots_root={states / 'readout_slots.pkl'}")
    report = commands.test(commands.train(READOUT, *seen) / "models" / "epoch" / "model_120.pth", *seen)
    told("from whole videos", report)
    assert report["accuracy"] > chance(report, 2)
