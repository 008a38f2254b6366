"""The strict command line of all programs."""

import pytest

from core.commandline import StrictParser, natural, positive


def parser() -> StrictParser:
    made = StrictParser("tools/some.py", "Does something.\n\nAt length.")
    made.add_argument("--data_root", required=True)
    made.add_argument("--batch_size", type=positive, default=8)
    made.add_argument("--seed", type=natural, default=0)
    made.add_argument("--set", nargs="+", default=[])
    made.refuse("amp", "use --fp16")
    return made


def test_hyphens_and_underscores_are_equal() -> None:
    for words in (["--data-root", "a-b", "--batch-size=3"], ["--data_root=a-b", "--batch_size", "3"]):
        found = parser().parse([*words, "--set", "some-key=--x", "y"])
        assert (found.data_root, found.batch_size, found.seed, found.set) == ("a-b", 3, 0, ["some-key=--x", "y"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # A misspelt flag is named although one that is required is missing for that very reason.
        (["--dta_root", "x"], "no flag '--dta_root'; did you mean '--data_root'?"),
        (["--data_root", "x", "--bach-size=3"], "no flag '--bach_size'; did you mean '--batch_size'?"),
        (["--data_root", "x", "--entirely-else"], "no flag '--entirely_else'; see --help"),
        (["--data_root", "x", "-q"], "no flag '-q'; see --help"),
        (["--data_root", "x", "--batch", "3"], "no flag '--batch'; did you mean '--batch_size'?"),
        (["--data_root", "my", "pictures"], "unexpected word 'pictures': quote a path with spaces"),
        (["--data_root", "x", "--amp"], "--amp: use --fp16"),
        (["--data_root", "x", "--batch_size", "0"], "expected a whole number of at least 1, found '0'"),
        (["--data_root", "x", "--seed", "-1"], "--seed"),
        ([], "the following arguments are required: --data_root"),
    ],
)
def test_what_is_not_understood_ends_the_process(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse(words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_help_has_the_whole_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse(["--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "usage: python tools/some.py" in printed
    assert "Does something." in printed
    assert "At length." in printed
    assert "--amp" not in printed
