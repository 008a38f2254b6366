"""What the Slurm scripts write for Slurm, and how their job behaves, on machines without it.

Here `sbatch` is a stand-in that runs the job as it is, and keeps a copy; tests/e2e/test_slurm.py has the real one.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "slotformer" / "scripts"
PROGRAMS = ("bash", "cat", "cp", "date", "dirname", "grep", "head", "hostname", "mkdir", "rm")
SBATCH = """#!/usr/bin/env bash
echo "Submitted batch job $(( $(ls "$COPIES" | wc -l) + 1 ))"
cp "$1" "$COPIES/"
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*"
"""
STOPPED = """
import signal, sys, time
told = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: told.append(number))
print("running", flush=True)
while not told:
    time.sleep(0.01)
time.sleep(0.2)
print("saved", flush=True)
sys.exit(int(sys.argv[1]))
"""

SUBMIT = ["gpu", "name", "train.py", "no"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to submit from, with stand-ins for Slurm in bin/ and the jobs that they were given in jobs/."""
    for name in ("bin", "jobs"):
        (tmp_path / name).mkdir()
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "train.py").write_text("import sys; print(sys.argv[1:])")
    (tmp_path / "stopped.py").write_text(STOPPED)
    return tmp_path


def variables(folder: Path, **more: object) -> dict[str, str]:
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    own = {"PATH": path, "PYTHON": sys.executable, "COPIES": str(folder / "jobs")}
    return os.environ | own | {name: str(value) for name, value in more.items()}


def submit(folder: Path, script: str, *words: object, **more: object) -> subprocess.CompletedProcess:
    command = [str(SCRIPTS / script), *map(str, words)]
    return subprocess.run(
        command, cwd=folder, env=variables(folder, **more), capture_output=True, text=True, check=False
    )


def job_of(folder: Path, *words: object, **more: object) -> str:
    """The one job that a call of sbatch_run.sh submits."""
    done = submit(folder, "sbatch_run.sh", *words, **more)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Submitted batch job 1\nlog: checkpoint/")
    assert not list(folder.glob("*.slrm"))
    [job] = (folder / "jobs").iterdir()
    return job.read_text()


def directives(job: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in job.splitlines() if line.startswith("#SBATCH --")]
    return dict(line.split("=", 1) for line in lines if '="' in line)


def start_job(folder: Path, *words: object) -> subprocess.Popen:
    """The job of a submission, running."""
    script = folder / "job"
    script.write_text(job_of(folder, *words))
    slurm = {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_PARTITION": "gpu"}
    environment = variables(folder) | slurm
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(["bash", script], cwd=folder, env=environment, start_new_session=True, **pipes)


def test_directives_by_default(folder):
    job = job_of(folder, "gpu", "savi/obj3d", "train.py", "no")
    found = directives(job)
    output = found.pop("output").strip('"')
    assert found == {
        "job-name": '"savi/obj3d"',
        "partition": '"gpu"',
        "qos": '"normal"',
        "time": '"0"',
        "nodes": '"1"',
        "ntasks-per-node": '"1"',
        "cpus-per-task": '"8"',
        "mem-per-cpu": '"5G"',
        "gres": '"gpu:1"',
    }
    assert "#SBATCH --open-mode=append --requeue --signal=B:USR1@120\n" in job
    assert Path(output).parent == Path("checkpoint/obj3d")
    assert (folder / "checkpoint" / "obj3d").is_dir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d\.log", Path(output).name)
    assert [path.name for path in (folder / "jobs").iterdir()] == ["run-savi_obj3d.slrm"]


def test_directives_from_the_environment(folder):
    settings = {"GPUS": 4, "CPUS_PER_GPU": 6, "MEM_PER_CPU": 3, "QOS": "long", "TIME": "1-12:00:00", "NODES": 2}
    job = job_of(folder, "a100", "slots", "train.py", "ddp", "--ddp", **settings)
    found = directives(job)
    assert found["gres"] == '"gpu:4"'
    assert found["cpus-per-task"] == '"24"'
    assert found["mem-per-cpu"] == '"3G"'
    assert (found["qos"], found["time"], found["nodes"]) == ('"long"', '"1-12:00:00"', '"2"')
    launcher = f"{sys.executable} -m core.training.launch --processes 4 --nodes 2 train.py --ddp"
    assert (
        f"( srun --ntasks=2 --ntasks-per-node=1 --cpus-per-task=24 --kill-on-bad-exit=0 --wait=60 {launcher} )" in job
    )


def test_arguments_arrive_as_they_were_typed(folder):
    awkward = [
        "a b",
        "it's",
        'say "no"',
        "$HOME",
        "`id`",
        "two\nlines",
        "*",
        "",
        "--",
        "back\\slash",
        "#",
        ";",
        "&",
        "~",
    ]
    job = start_job(folder, "gpu", "slots", "train.py", "no", *awkward)
    output, _ = job.communicate(timeout=30)
    lines = output.splitlines()
    assert lines[0] == "job 17 on partition gpu, restarts: 0"
    assert lines[2] == f"Python {sys.version.split()[0]}"
    assert lines[-2:] == [str(awkward), "ended with exit code 0"]


@pytest.mark.parametrize(
    ("number", "exit_code", "requeued"),
    [(signal.SIGUSR1, 75, True), (signal.SIGUSR1, 1, False), (signal.SIGUSR1, 0, False), (signal.SIGTERM, 75, False)],
)
@pytest.mark.parametrize("whole_job", [False, True])
def test_a_signalled_job_waits_for_its_training_and_requeues_itself(folder, number, exit_code, requeued, whole_job):
    job = start_job(folder, "gpu", "slots", "stopped.py", "no", exit_code)
    while job.stdout.readline() != "running\n":
        assert job.poll() is None
    if whole_job:
        os.killpg(job.pid, number)
    else:
        job.send_signal(number)
    output, _ = job.communicate(timeout=30)
    expected = ["saved", f"ended with exit code {exit_code} after the signal {number.name.removeprefix('SIG')}"]
    assert output.splitlines() == expected + ["scontrol requeue 17"] * requeued
    assert job.returncode == exit_code


def test_a_job_that_cannot_be_requeued_says_what_to_do(folder):
    (folder / "bin" / "scontrol").write_text("#!/bin/sh\necho 'Requested operation is presently disabled'; exit 1")
    job = start_job(folder, "gpu", "slots", "stopped.py", "no", 75)
    while job.stdout.readline() != "running\n":
        assert job.poll() is None
    job.send_signal(signal.SIGUSR1)
    assert job.communicate(timeout=30)[0].splitlines()[-2:] == [
        "Requested operation is presently disabled",
        "not requeued: submit the same command again, and it continues",
    ]


def test_duplicates(folder):
    (folder / "savi params.py").write_text("lr = 1\n")
    words = ["gpu", "exp/savi", "train.py", "no", "savi params", "--task", "base_slots"]
    done = submit(folder, "dup_run_sbatch.sh", *words)
    assert done.returncode == 0, done.stderr
    for number in (1, 2, 3):
        copy = f"savi params-dup{number}.py"
        assert (folder / copy).read_text() == "lr = 1\n"
        job = (folder / "jobs" / f"run-exp_savi-dup{number}.slrm").read_text()
        assert f"train.py --params {copy.replace(' ', chr(92) + ' ')} --seed {number} --task base_slots )" in job
    assert len(list((folder / "jobs").iterdir())) == 3


def test_splits_of_phyre(folder):
    done = submit(
        folder, "parallel_phyre.sh", "gpu", "train.py", "p.py", "w.pth", 3, "--bs", 8, CPUS_PER_TASK=4, QOS="q"
    )
    assert done.returncode == 0, done.stderr
    for split in range(3):
        job = (folder / "jobs" / f"run-phyre_slots-split{split}.slrm").read_text()
        found = directives(job)
        assert (found["cpus-per-task"], found["mem-per-cpu"], found["gres"]) == ('"4"', '"4G"', '"gpu:1"')
        assert found["qos"] == '"q"'
        assert f"train.py --params p.py --weight w.pth --split {split} --total_split 3 --cpus 4 --bs 8 )" in job


@pytest.mark.parametrize(
    ("script", "words", "settings", "message"),
    [
        (
            "sbatch_run.sh",
            SUBMIT[:3],
            {},
            "needs PARTITION JOB_NAME PY_FILE DDP [python args...], found 3 of the first four",
        ),
        ("sbatch_run.sh", ["gpu", "name", "trian.py", "no"], {}, "trian.py: no such Python file (seen from "),
        ("sbatch_run.sh", SUBMIT, {"GPUS": "two"}, "GPUS must be a whole number above 0, found 'two'"),
        ("sbatch_run.sh", SUBMIT, {"MEM_PER_CPU": 0}, "MEM_PER_CPU must be a whole number"),
        ("sbatch_run.sh", SUBMIT, {"NODES": 2}, "NODES=2 needs the word ddp as fourth argument"),
        ("sbatch_run.sh", ["gpu", "a\nb", "train.py", "no"], {}, "must be one line each"),
        ("sbatch_run.sh", ["gpu", "runs/", "train.py", "no"], {}, "JOB_NAME 'runs/' must neither end with a slash"),
        ("dup_run_sbatch.sh", SUBMIT, {}, "found 4 of the first five"),
        ("dup_run_sbatch.sh", [*SUBMIT, "x.py"], {}, "x.py: no such params file"),
        ("dup_run_sbatch.sh", [*SUBMIT, "train"], {"REPEAT": "0"}, "REPEAT must be a whole number"),
        ("parallel_phyre.sh", ["gpu", "train.py", "p", "w"], {}, "found 4 of the first five"),
        (
            "parallel_phyre.sh",
            ["gpu", "train.py", "p", "w", "ten"],
            {},
            "TOTAL_SPLIT must be a whole number above 0, found 'ten'",
        ),
    ],
)
def test_wrong_usage_is_explained(folder, script, words, settings, message):
    done = submit(folder, script, *words, **settings)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stdout == ""
    assert not list((folder / "jobs").iterdir())
    assert not (folder / "checkpoint").exists()


def test_without_slurm(folder):
    programs = folder / "programs"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).symlink_to(shutil.which(name))
    done = submit(folder, "sbatch_run.sh", *SUBMIT, PATH=programs)
    assert done.returncode == 2
    assert "error: sbatch not found: Slurm is not installed here" in done.stderr
    assert f"or start without Slurm: {sys.executable} train.py" in done.stderr


def test_a_refused_job_leaves_no_file(folder):
    (folder / "bin" / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpo' >&2; exit 1"
    )
    done = submit(folder, "sbatch_run.sh", "gpo", "name", "train.py", "no")
    assert done.returncode == 1
    assert "invalid partition specified: gpo" in done.stderr
    assert done.stdout == ""
    assert not list(folder.glob("*.slrm"))


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here: apt-get install shellcheck")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", *sorted(SCRIPTS.glob("*.sh"))], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0
