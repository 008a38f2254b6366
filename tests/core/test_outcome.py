"""How commands end."""

from pathlib import Path

import pytest
import torch

from core.outcome import exit_code_of
from tools.bench import main


def test_too_little_memory_says_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    def of_a_gpu() -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")

    def of_the_cpu() -> int:
        return len(torch.empty(1 << 60, dtype=torch.uint8))

    for work, said in ((of_a_gpu, "Tried to allocate 20.00 GiB. Give"), (of_the_cpu, "can't allocate memory")):
        assert exit_code_of(work) == 1
        complaint = capsys.readouterr().err
        assert said in complaint
        assert complaint.endswith("Give a smaller batch\n")


def test_nothing_is_measured_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "nowhere/results.jsonl"
    assert main(["emorl-tetrominoes", "--json", str(file)]) == 1
    assert f"--json {file}: no such folder {file.parent}" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emorl-tetrominoes", "--device", "cuda"]) == 1
    assert "--device cuda: torch finds no GPU" in capsys.readouterr().err
