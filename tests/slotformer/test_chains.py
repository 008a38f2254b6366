"""The commands from a data set to the paper's numbers: each is one that its script understands."""

import importlib
from pathlib import Path

import pytest

from slotformer.framework.chains import CHAINS, Chain, Step
from slotformer.framework.params import load_params, parse_overrides
from slotformer.scripts import run_chain, train
from tests.conftest import ROOT

ALL_FLAGS = Chain(Path("elsewhere"), flags=("--ddp", "--bf16"), training_flags=("--cudnn", "--resident"), fold=3)


def steps_of(name: str, chain: Chain = ALL_FLAGS) -> list[Step]:
    return list(CHAINS[name](chain))


def check_params(task: str, file: str, settings: list[str]) -> None:
    keys = importlib.import_module(f"slotformer.{task}").Keys
    assert load_params(ROOT / file, keys, parse_overrides(settings)).model


@pytest.mark.parametrize("name", CHAINS)
def test_every_command_is_understood(name: str) -> None:
    for step in steps_of(name):
        script, *words = step.words
        assert (ROOT / script).is_file()
        if script == train.SCRIPT:
            arguments = train.parse_arguments(words)
            check_params(arguments.task, arguments.params, arguments.set)
            assert {"--ddp", "--bf16", "--cudnn", "--resident"} <= set(words)
            continue
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        arguments = module.parse_arguments(words)
        for prefix in ("", "savi_", "task_cls_"):
            if params := vars(arguments).get(f"{prefix}params"):
                check_params(Path(params).parts[1], params, vars(arguments)[f"{prefix}set"])


@pytest.mark.parametrize("name", CHAINS)
def test_what_a_step_reads_was_written_before(name: str) -> None:
    written = {Path("elsewhere") / folder for folder in ("OBJ3D", "CLEVRER", "CLEVRER/questions", "Physion")}
    for step in steps_of(name):
        assert set(step.reads) <= written, step.what
        written |= set(step.writes)


def test_settings_reach_the_configurations_that_they_name(capsys: pytest.CaptureFixture) -> None:
    words = ["obj3d", "--dry-run", "--last", "3", "--set", "slot_size=16", "savi_obj3d_params:lr=1e-3"]
    assert run_chain.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line[0].isdigit()] == [
        *("1. find objects", "2. slots of all videos", "3. learn how slots move")
    ]
    commands = [line for line in lines if line.startswith("   python ")]
    assert all(command.count("slot_size=16") == 1 for command in commands)
    assert ["lr=1e-3" in command for command in commands] == [True, True, False]
    assert "   writes data/OBJ3D/obj3d_slots.h5  (not there)" in lines
    assert run_chain.main(["obj3d", "--dry-run", "--script_flags", "test_vp:batch_size=2"]) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("   python ")]
    assert ["--batch_size=2" in command for command in commands] == [False, False, False, True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "savi_obj3d_parms:lr=1"], "no such configuration in this chain; did you mean 'savi_obj3d_params'?"),
        (["--script_flags", "test_pv:bs=1"], "no such script in this chain; did you mean 'test_vp'?"),
        (["--script_flags", "test_vp"], "expected SCRIPT:FLAG=VALUE"),
        (["--first", "5"], "--first 5 --last 4: the steps of obj3d are 1 to 4"),
    ],
)
def test_misuse(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert run_chain.main(["obj3d", *words]) == 2
    assert message in capsys.readouterr().err
