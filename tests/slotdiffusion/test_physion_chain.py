"""The commands from Physion to the paper's numbers: each is one that its script understands."""

import importlib
from pathlib import Path

import pytest

from core.data.physion import FOLDERS
from slotdiffusion.chains import CHAINS
from slotdiffusion.scripts import run_chain, train
from slotdiffusion.scripts.data_utils import physion_video2frames
from slotformer.framework.chains import Chain
from slotformer.framework.params import load_params, parse_overrides
from slotformer.scripts.train import parse_arguments
from tests.conftest import ROOT
from tests.video_files import smooth_frames, write_json, write_mp4

CHAIN = Chain(Path("elsewhere"), training_flags=("--cudnn",), flags=("--ddp",), package="slotdiffusion")


@pytest.mark.parametrize("name", CHAINS)
def test_every_command_is_understood(name: str) -> None:
    written = {Path("elsewhere") / "Physion"}
    for step in CHAINS[name](CHAIN):
        script, *words = step.words
        assert (ROOT / script).is_file()
        if script == train.SCRIPT:
            arguments = parse_arguments(words, train.SCRIPT, "", train.TASKS)
            assert {"--ddp", "--cudnn"} <= set(words)
        else:
            module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
            arguments = module.parse_arguments(words)
        keys = importlib.import_module(f"slotdiffusion.{Path(arguments.params).parts[1]}").Keys
        assert load_params(ROOT / arguments.params, keys, parse_overrides(arguments.set)).model
        assert set(step.reads) <= written, step.what
        written |= set(step.writes)


def test_videos_become_folders_of_frames(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for split in ("train", "val"):
        path = f"{FOLDERS['training'].format('Roll')}/{split}_img.mp4"
        write_json(tmp_path / "splits" / f"training_{split}.json", {"Roll": [path]})
        write_mp4(tmp_path / path, smooth_frames(3, 16, 16))
    words = ["--root", str(tmp_path), "--workers", "1", "--subset", "training"]
    assert physion_video2frames.main(words) == 0
    assert "2 videos extracted, 0 already there, 0 failed" in capsys.readouterr().out


def test_settings_reach_the_configurations_that_they_name(capsys: pytest.CaptureFixture) -> None:
    words = ["physion", "--dry-run", "--set", "savi_ldm_physion_params-res128:dec_lr=1e-3", "slot_size=16"]
    assert run_chain.main(words) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("   python ")]
    assert len(commands) == 11
    assert all(command.count("slot_size=16") == 1 for command in commands)
    assert ["dec_lr=1e-3" in command for command in commands] == [False, *4 * [True], *6 * [False]]
    assert run_chain.main(["physion", "--set", "savi_ldm_physion_params:lr=1"]) == 2
    assert "did you mean 'savi_ldm_physion_params-res128'?" in capsys.readouterr().err
