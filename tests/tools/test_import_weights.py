"""What tools/import_weights.py refuses, and what it leaves on disk."""

import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clevrtex.framework.trained import open_trained
from clevrtex.models.slot_attention import SlotAttention
from clevrtex.original.slota import to_original
from core.benchmark.subjects import Subject
from core.provenance import file_hash
from core.runs import load_model
from core.training.checkpoint import load
from emorl import original as emorl_original
from emorl.models import build_model, model_arguments
from slotformer import base_slots, original
from slotformer.base_slots.models.savi import StoSAVi
from slotformer.framework.params import load_params, parse_overrides
from tests.conftest import ROOT, Runner
from tests.slotformer_runs import CONFIGS, SMALL
from tools.import_weights import main, papers_of

SAVI = CONFIGS / "savi_obj3d_params.py"
CLEVRER = CONFIGS / "stosavi_clevrer_params.py"
EMORL = ROOT / "emorl/configs/train/tetrominoes/SlotAttention.json"
NET = {"z_size": 8, "K": 3, "image_decoder": "small", "input_size": [3, 16, 16]}
SLOTA = ("data=clevr-(16,16)", "slots=3", "width=8", "decoder_grid=1")


def savi(config: Path = SAVI) -> StoSAVi:
    torch.manual_seed(0)
    return base_slots.build_model(load_params(config, base_slots.Keys, parse_overrides(SMALL[config.stem])))


def of_slotformer() -> dict[str, Any]:
    return {"state_dict": original.export_state(savi())}


def of_slotdiffusion() -> dict[str, Any]:
    return {"state_dict": {"dm_decoder.betas": torch.zeros(3)}, "it": 3}


def of_emorl() -> dict[str, Any]:
    net = {**json.loads(EMORL.read_text())["Net"], **NET}
    torch.manual_seed(0)
    model = build_model("SlotAttention", model_arguments("SlotAttention", net))
    state = emorl_original.to_original(model.state_dict())
    return {"step": 3, "model": {f"module.{key}": value for key, value in state.items()}}


def of_clevrtex() -> dict[str, Any]:
    torch.manual_seed(0)
    model = SlotAttention((16, 16), num_slots=3, hidden=8, mlp_hidden=16, decoder_initial_size=(1, 1))
    state: dict[str, Tensor] = {f"model.{key}": value for key, value in to_original(model.state_dict()).items()}
    return {"pytorch-lightning_version": "1.2.9", "global_step": 5, "state_dict": state, "hyper_parameters": {}}


def of_osrt() -> dict[str, Any]:
    return {"encoder": {"a": torch.zeros(1)}, "decoder": {"b": torch.zeros(1)}, "it": 3}


MADE = {
    "clevrtex": of_clevrtex,
    "emorl": of_emorl,
    "osrt": of_osrt,
    "slotdiffusion": of_slotdiffusion,
    "slotformer": of_slotformer,
}


class Command:
    """Runs the command on a checkpoint in a folder of the test; `said` is what it printed."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture):
        self.folder, self.capsys, self.said = folder, capsys, ""
        self.file, self.out = folder / "theirs.pth", folder / "run"

    def __call__(
        self, content: Any, paper: str, config: Path | str | None, *settings: str, out: Path | None = None
    ) -> int:
        torch.save(content, self.file)
        words = [str(self.file), "--paper", paper, "--out", str(out or self.out)]
        words += ["--config", str(config)] if config else []
        try:
            code = main([*words, *(("--set", *settings) if settings else ())])
        except SystemExit as ended:
            code = ended.code
        self.said = "".join(self.capsys.readouterr())
        return code


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture) -> Command:
    return Command(tmp_path, capsys)


@pytest.mark.parametrize("paper", MADE)
def test_the_paper_is_recognised(paper: str):
    assert papers_of(MADE[paper]()) == [paper]


@pytest.mark.parametrize(("made", "said"), [(made, said) for made in MADE for said in MADE if made != said])
def test_of_another_paper(made: str, said: str, command: Command):
    assert command(MADE[made](), said, "anything") == 1
    assert f"no checkpoint of --paper {said}: it looks like one of {made}" in command.said
    assert not command.out.exists()


def test_of_no_paper(command: Command):
    assert command({"weights": 3}, "slotformer", SAVI) == 1
    assert "it looks like none of the five papers'" in command.said


def test_of_this_project(command: Command):
    assert command(of_slotformer(), "slotformer", SAVI, *SMALL["savi_obj3d_params"]) == 0
    (made,) = command.out.glob("models/*.pth")
    content = load(made)
    assert command(content, "slotformer", SAVI) == 1
    assert "a checkpoint of this project already" in command.said


@pytest.mark.parametrize("paper", MADE)
def test_without_a_configuration(paper: str, command: Command):
    assert command(MADE[paper](), paper, None) == 2
    assert f"--config is missing: for {paper} it is" in command.said


@pytest.mark.parametrize(
    ("paper", "config", "message"),
    [
        ("slotformer", "nothing_params.py", "nothing_params.py: no such file"),
        ("emorl", "nothing.json", "nothing.json: no such configuration"),
        ("osrt", "nothing.yaml", "nothing.yaml: no such file"),
        ("clevrtex", "slot", "no experiment 'slot'; did you mean 'slota'?"),
    ],
)
def test_a_configuration_that_is_not_there(paper: str, config: str, message: str, command: Command):
    assert command(MADE[paper](), paper, config) == 1
    assert message in command.said


def test_wrong_sizes(command: Command):
    """The key, what stands in the file, and what the configuration says."""
    settings = [*SMALL["savi_obj3d_params"], "slot_dict.num_slots=5"]
    assert command(of_slotformer(), "slotformer", SAVI, *settings) == 1
    assert "init_latents: [1, 3, 16] in the file, [1, 5, 16] in the model" in command.said
    assert command(of_clevrtex(), "clevrtex", "slota", *SLOTA, "width=16") == 1
    assert "in the file, [16" in command.said
    assert not command.out.exists()


def test_another_model_of_the_paper(command: Command):
    assert command(of_clevrtex(), "clevrtex", "monet") == 1
    assert "not a checkpoint of the original's monet" in command.said
    assert "It looks like one of slota: --config slota" in command.said


def test_a_misspelt_setting(command: Command):
    assert command(of_clevrtex(), "clevrtex", "slota", "slotz=3") == 1
    assert "did you mean 'slots'?" in command.said
    assert command(of_emorl(), "emorl", EMORL, "Net.KK=3") == 1
    assert "unknown key Net.KK" in command.said
    assert command(of_slotformer(), "slotformer", SAVI, "slot_dict.num_slot=3") == 1
    assert "did you mean 'num_slots'?" in command.said


class Payload:
    """Would call a function when it is unpickled."""

    def __reduce__(self) -> tuple:
        return eval, ("open('ran', 'w')",)


@pytest.mark.parametrize(
    ("foreign", "name"),
    [(types.SimpleNamespace(a=1), "types.SimpleNamespace"), (Payload(), "eval")],
    ids=["object", "code"],
)
def test_forbidden_names(foreign: Any, name: str, command: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(command.folder)
    assert command({**of_slotformer(), "extra": foreign}, "slotformer", SAVI) == 1
    assert f"not a readable checkpoint (UnpicklingError: it names {name}). It is damaged, or holds more" in command.said
    assert not (command.folder / "ran").exists()


def test_a_damaged_file(command: Command):
    torch.save(of_slotformer(), command.file)
    half = command.file.read_bytes()[:3000]
    command.file.write_bytes(half)
    assert main([str(command.file), "--paper", "slotformer", "--config", str(SAVI), "--out", str(command.out)]) == 1
    assert "theirs.pth: not a readable checkpoint" in command.capsys.readouterr().err


def test_what_lies_there_stays(command: Command):
    """The same weights replace their import; other weights and other files are not touched."""
    small = SMALL["savi_obj3d_params"]
    for _ in range(2):
        assert command(of_slotformer(), "slotformer", SAVI, *small) == 0
    content = of_slotformer()
    content["state_dict"]["init_latents"] += 1
    assert command(content, "slotformer", SAVI, *small) == 1
    assert f"{command.out}: holds an import of {command.file}" in command.said
    other = command.folder / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert command(content, "slotformer", SAVI, *small, out=other) == 1
    assert f"{other}: is not empty" in command.said
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


def test_an_interrupted_import_is_repeated(command: Command, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    small = SMALL["savi_obj3d_params"]
    with monkeypatch.context() as patched:
        patched.setattr("core.imported.save", interrupted)
        assert command(of_slotformer(), "slotformer", SAVI, *small) == 130
    assert not list(command.out.glob("models/*.pth"))
    assert command(of_slotformer(), "slotformer", SAVI, *small) == 0
    assert load_model(command.out)[1].source["file"] == str(command.file)


def test_where_the_weights_are_from(command: Command):
    assert command(of_clevrtex(), "clevrtex", "slota", *SLOTA) == 0
    _, record = load_model(command.out)
    digest = file_hash(command.file)
    assert record.source == {"paper": "clevrtex", "file": str(command.file), "sha256": digest, "as_original": False}
    assert digest in command.said
    subject = Subject.open(command.out)
    assert (subject.sees, subject.size, subject.num_slots, subject.steps) == ("images", (16, 16), 3, 5)
    trained = open_trained(command.out, torch.device("cpu"))
    assert trained.is_original
    assert trained.name == "slota"


def test_clevrer_is_shown_as_the_original_saw_it(command: Command):
    """Red and blue change places before the model and behind it."""
    model = savi(CLEVRER).eval()
    content = {"state_dict": original.export_state(model)}
    assert command(content, "slotformer", CLEVRER, *SMALL[CLEVRER.stem]) == 0
    subject = Subject.open(command.out)
    video = torch.rand(1, 2, 3, *subject.size, generator=torch.Generator().manual_seed(0))
    found = subject.decompose({"video": video}, [0])
    assert torch.equal(found.recon, Subject.decompose_clips(subject, [video], 0).__next__().recon)
    noise = subject._noise([0])
    with torch.no_grad():
        theirs = model.decompose({"video": video.flip(2)}, noise)
    torch.testing.assert_close(found.recon, theirs.recon.flip(2))
    torch.testing.assert_close(found.slots, theirs.slots)


def test_the_scripts_of_the_paper_take_it(command: Command, run: Runner, videos: Path):
    """SlotFormer's extraction opens the imported weight as one of ours."""
    small = SMALL["savi_obj3d_params"]
    assert command(of_slotformer(), "slotformer", SAVI, *small) == 0
    (weight,) = command.out.glob("models/*.pth")
    flags = ("--params", SAVI, "--weight", weight, "--save_path", command.folder / "obj3d_slots.h5")
    done = run("slotformer/base_slots/extract_slots.py", *flags, "--set", f"data_root={videos / 'OBJ3D'}", *small)
    assert done.returncode == 0, done.stderr
    assert (command.folder / "obj3d_slots.h5").is_file()


def test_no_training_goes_on_from_weights_alone(command: Command, run: Runner, videos: Path, tmp_path: Path):
    small = (*SMALL["savi_obj3d_params"], "n_sample_frames=2", "train_batch_size=2", "val_batch_size=2", "gpus=1")
    content: dict[str, Any] = {**of_slotformer(), "it": 3}
    assert command(content, "slotformer", SAVI, *small) == 0
    assert "note: no training can be continued from it" in command.said
    (weight,) = command.out.glob("models/*.pth")
    flags = ("--task", "base_slots", "--params", SAVI, "--weight", weight)
    settings = (f"data_root={videos / 'OBJ3D'}", *small, "max_epochs=50")
    done = run("slotformer/scripts/train.py", *flags, "--set", *settings, cwd=tmp_path)
    assert done.returncode == 1
    assert "holds no optimizer, so no training continues from it" in done.stderr
