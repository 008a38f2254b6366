"""What a configuration may say, checked before anything is built or read."""

from pathlib import Path

import pytest
from sacred import Experiment

from emorl import train
from emorl.settings import UserError, check_command_line, complete, find_checkpoint, run_commandline
from tests.tiny_runs import ROOT

CONFIG = ROOT / "emorl/configs/train/tetrominoes/EMORL.json"
CURRICULUM = "training.refinement_curriculum="


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("Net.K=0", "Net.K=0 must be at least 1"),
        ("Net.z_size=0", "Net.z_size=0 must be at least 1"),
        ("Net.stochastic_layers=0", "Net.stochastic_layers=0 must be at least 1"),
        ("Net.refinement_iters=-1", "Net.refinement_iters=-1 must be at least 0"),
        ("training.decay_steps=0", "training.decay_steps=0 must be at least 1"),
        ("training.images_per_chunk=-1", "training.images_per_chunk=-1 must be at least 0"),
        ("training.keep_checkpoints=-1", "training.keep_checkpoints=-1 must be at least 0"),
        ("training.num_workers=-1", "training.num_workers=-1 must be at least 0"),
        ("training.iters=-1", "training.iters=-1 must be at least 0"),
        ("Net.input_size=[3,16]", "Net.input_size=[3, 16]: expected [3, height, width]"),
        ("Net.input_size=[3,'a',16]", "Net.input_size=[3, 'a', 16]: expected [3, height, width]"),
        (f"{CURRICULUM}[[-1,-1]]", "pairs of the step from which on and the number of refinements .* found [-1, -1]"),
        (f"{CURRICULUM}[5]", "training.refinement_curriculum=[5]: expected pairs .* found 5"),
        (f"{CURRICULUM}[['a',3]]", "found ['a', 3]"),
        (f"{CURRICULUM}[[-1,1.5]]", "found [-1, 1.5]"),
        (f"{CURRICULUM}[[0,3,1]]", "found [0, 3, 1]"),
        ("training.run_suffix=a/b", "training.run_suffix='a/b' is a path, expected a name; use training.out_dir"),
    ],
)
def test_values_that_cannot_be(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        complete(CONFIG, "training", [override])
    assert str(caught.value).startswith(override.partition("=")[0])
    assert all(part in str(caught.value) for part in said.split(" .* "))


@pytest.mark.parametrize("seed", ["-1", str(2**32), "1.0", "one", "True"])
def test_seeds_are_checked_before_sacred_sees_them(tmp_path: Path, seed: str) -> None:
    with pytest.raises(UserError, match=r"seed=.*: expected a whole number from 0 to 4294967295"):
        check_command_line(["train.py", "with", f"seed={seed}"], "training")
    path = tmp_path / "mine.json"
    path.write_text('{"seed": -1}')
    with pytest.raises(UserError, match=r"mine\.json: seed=-1: expected"):
        check_command_line(["train.py", "with", str(path)], "training")


def test_bounds_are_allowed() -> None:
    words = ["training.keep_checkpoints=0", "training.iters=0", "training.images_per_chunk=0", "seed=0"]
    config = complete(CONFIG, "training", [*words, "Net.refinement_iters=0", f"{CURRICULUM}[]"])
    assert config["training"]["refinement_curriculum"] == []


def test_a_checkpoint_is_a_name_or_a_path(tmp_path: Path) -> None:
    weights, elsewhere = tmp_path / "weights", tmp_path / "elsewhere.pth"
    weights.mkdir()
    elsewhere.touch()
    assert find_checkpoint(weights, str(elsewhere)) == elsewhere
    assert find_checkpoint(weights, "elsewhere.pth") == weights / "elsewhere.pth"
    (weights / "a.pth").touch()
    assert find_checkpoint(weights, "a.pth") == weights / "a.pth"


def test_an_interrupted_command_says_so_in_one_line(capsys: pytest.CaptureFixture) -> None:
    experiment = Experiment("interrupted", save_git_info=False)

    @experiment.main
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_commandline(experiment, ["program"], "training")
    assert ended.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "error: interrupted"


# ---- several processes ----


@pytest.mark.parametrize("words", [["--processes", "two"], ["--processes=two"], ["--processes=0"], ["--processes"]])
def test_the_number_of_processes_is_checked(capsys: pytest.CaptureFixture, words: list[str]) -> None:
    assert train.main(["train.py", *words]) == 1
    assert "--processes needs a number, as in `train.py --processes 2 with ...`" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--processes", "2"], ["--processes=2"]])
def test_processes_meet_at_the_port_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("MASTER_PORT", "")
    monkeypatch.delenv("MASTER_PORT")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(os.environ['MASTER_PORT'] + ' '.join(sys.argv[2:]))\n"
    )
    assert train.main([str(script), *words, str(tmp_path), "with", "training.DDP_port=29512"]) == 0
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["29512with training.DDP_port=29512"] * 2


def test_a_killed_process_gives_the_code_of_a_shell(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os\nos.kill(os.getpid(), 9)\n")
    assert train.main([str(script), "--processes=2"]) == 137
