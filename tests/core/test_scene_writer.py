"""Scene by scene: what is counted is complete, whatever interrupts the writing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.synth.scene_writer import write_scenes
from tests.core import scenes_of_text

DESCRIPTION = {"name": "text", "seed": 1}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_scenes_and_description_are_written(tmp_path: Path):
    made = write_scenes(tmp_path, scenes_of_text.make, 5, DESCRIPTION, finish=lambda: {"list.txt": b"five"})
    assert made == 5
    found = contents(tmp_path)
    assert found["scenes/3/a.txt"] == b"scene 3"
    assert found["list.txt"] == b"five"
    assert set(found[".entries"].decode().split()) == {"scenes", "list.txt"}
    assert len(found) == 5 * 2 + 3
    description = json.loads(found["dataset.json"])
    assert description == {"generated": True, **DESCRIPTION, "count": 5, "complete": True}


def test_files_do_not_depend_on_the_number_of_workers(tmp_path: Path):
    for workers in (1, 3):
        write_scenes(tmp_path / str(workers), scenes_of_text.make, 7, DESCRIPTION, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_the_same_call_again_makes_nothing_and_a_larger_one_continues(tmp_path: Path):
    write_scenes(tmp_path, scenes_of_text.make, 3, DESCRIPTION)
    first = contents(tmp_path)
    assert write_scenes(tmp_path, scenes_of_text.make, 3, DESCRIPTION) == 0
    assert contents(tmp_path) == first
    assert write_scenes(tmp_path, scenes_of_text.make, 5, DESCRIPTION) == 2
    assert {name: content for name, content in contents(tmp_path).items() if name in first and "json" not in name} == {
        name: content for name, content in first.items() if "json" not in name
    }
    assert json.loads((tmp_path / "dataset.json").read_text())["count"] == 5
    with pytest.raises(FileExistsError, match=r"holds 5 scenes of this description, 2 are asked for"):
        write_scenes(tmp_path, scenes_of_text.make, 2, DESCRIPTION)


def breaks(index: int) -> dict[str, bytes]:
    if index == 3:
        raise OSError(28, "No space left on device")
    return scenes_of_text.make(index)


def test_fewer_than_an_interrupted_call_has_made_are_refused(tmp_path: Path):
    with pytest.raises(OSError, match="No space left"):
        write_scenes(tmp_path, breaks, 6, DESCRIPTION)
    with pytest.raises(FileExistsError, match=r"holds 3 scenes of this description, 2 are asked for\. Pass --force"):
        write_scenes(tmp_path, scenes_of_text.make, 2, DESCRIPTION)
    assert write_scenes(tmp_path, scenes_of_text.make, 4, DESCRIPTION) == 1
    assert len(list((tmp_path / "scenes").iterdir())) == 4


def test_scenes_of_a_file_are_counted(tmp_path: Path):
    def count() -> int:
        return json.loads((tmp_path / "dataset.json").read_text())["count"]

    assert write_scenes(tmp_path, scenes_of_text.make, 2, DESCRIPTION, scenes_each=16) == 32
    assert (count(), len(list((tmp_path / "scenes").iterdir()))) == (32, 2)
    assert write_scenes(tmp_path, scenes_of_text.make, 2, DESCRIPTION, scenes_each=16) == 0
    assert write_scenes(tmp_path, scenes_of_text.make, 3, DESCRIPTION, scenes_each=16) == 16
    assert (count(), len(list((tmp_path / "scenes").iterdir()))) == (48, 3)
    with pytest.raises(FileExistsError, match="holds 48 scenes of this description, 32 are asked for"):
        write_scenes(tmp_path, scenes_of_text.make, 2, DESCRIPTION, scenes_each=16)


def test_another_description_is_refused_and_force_begins_anew(tmp_path: Path):
    write_scenes(tmp_path, scenes_of_text.make, 4, DESCRIPTION, finish=lambda: {"lists/all.txt": b"four"})
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError, match=r"holds another data set \(seed: 1 there, 2 asked for\)"):
        write_scenes(tmp_path, scenes_of_text.make, 4, DESCRIPTION | {"seed": 2})
    assert write_scenes(tmp_path, scenes_of_text.make, 2, DESCRIPTION | {"seed": 2}, force=True) == 2
    assert sorted(path.name for path in (tmp_path / "scenes").iterdir()) == ["0", "1"]
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert not (tmp_path / "lists").exists()


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError, match=r"is not empty, and holds no dataset\.json of ours"):
        write_scenes(tmp_path, scenes_of_text.make, 2, DESCRIPTION)
    assert list(contents(tmp_path)) == [".lock", "mine.txt"]


def test_an_error_in_between_keeps_what_is_complete(tmp_path: Path):
    with pytest.raises(OSError, match="No space left"):
        write_scenes(tmp_path, breaks, 6, DESCRIPTION)
    assert not json.loads((tmp_path / "dataset.json").read_text())["complete"]
    assert write_scenes(tmp_path, scenes_of_text.make, 6, DESCRIPTION) == 3
    write_scenes(tmp_path / "whole", scenes_of_text.make, 6, DESCRIPTION)
    whole = contents(tmp_path / "whole")
    assert {name: content for name, content in contents(tmp_path).items() if not name.startswith("whole")} == whole


def test_a_line_cut_short_in_the_journal_does_not_count(tmp_path: Path):
    write_scenes(tmp_path, scenes_of_text.make, 2, DESCRIPTION)
    description = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(description | {"complete": False, "count": 20}))
    (tmp_path / ".scenes-written").write_text("0\n1")
    assert write_scenes(tmp_path, scenes_of_text.make, 20, DESCRIPTION) == 19
    assert len(list((tmp_path / "scenes").iterdir())) == 20


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_continued_equals_undisturbed(tmp_path: Path, workers: int):
    program = (
        "import sys; from pathlib import Path; from core.synth.scene_writer import write_scenes\n"
        "from tests.core import scenes_of_text\n"
        f"write_scenes(Path(sys.argv[1]), scenes_of_text.slow, 40, {DESCRIPTION}, workers={workers})"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "killed")]
    for _ in range(2):
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True)
        until = time.monotonic() + 20
        begun = len(list((tmp_path / "killed").glob("scenes/*")))
        while len(list((tmp_path / "killed").glob("scenes/*"))) < begun + 3 and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not json.loads((tmp_path / "killed/dataset.json").read_text())["complete"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    write_scenes(tmp_path / "whole", scenes_of_text.make, 40, DESCRIPTION)
    left = {name: content for name, content in contents(tmp_path / "killed").items() if "partial" not in name}
    assert left == contents(tmp_path / "whole")
