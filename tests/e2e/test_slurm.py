"""Jobs of a real Slurm: they get their arguments, save before they must go, and continue from there."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.training.checkpoint import CheckpointFolder, load
from tests.slurm_cluster import Cluster, free_ports, slurm_cluster, wait_until
from tests.tiny_runs import assert_same_weights
from tests.video_files import smooth_frames, write_frames

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "slotformer" / "scripts"
TOY = ROOT / "tests" / "core" / "toy_training.py"
AWKWARD = ["a b", "it's", 'say "no"', "$HOME", "`id`", "two\nlines", "*", "", "--", "-n", "back\\slash", "käse"]
REPORT = """
import json, os, sys
names = ("SLURM_JOB_NAME", "SLURM_JOB_PARTITION", "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_CPU", "SLURM_GPUS_ON_NODE")
print(json.dumps({"arguments": sys.argv[1:], "folder": os.getcwd(), **{name: os.environ.get(name) for name in names}}))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@dataclass(frozen=True)
class Job:
    number: int
    log: Path

    def says(self, text: str, times: int = 1) -> bool:
        """Whether the log holds so many lines that begin like this, within a minute."""
        return wait_until(lambda: self.lines_with(text) >= times)

    def lines_with(self, text: str) -> int:
        return sum(line.startswith(text) for line in self.log.read_text().splitlines()) if self.log.exists() else 0


def submit(cluster: Cluster, folder: Path, script: str, *words: object, **variables: object) -> list[Job]:
    """The jobs that a script submits from `folder`, which it leaves without a .slrm file."""
    environment = cluster.environment | {"PYTHON": sys.executable} | {k: str(v) for k, v in variables.items()}
    command = [str(SCRIPTS / script), *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob("*.slrm"))
    lines = done.stdout.splitlines()
    numbers = [int(line.removeprefix("Submitted batch job ")) for line in lines[::2]]
    return [Job(number, folder / line.removeprefix("log: ")) for number, line in zip(numbers, lines[1::2])]


def reports(jobs: list[Job]) -> list[dict]:
    """What REPORT printed in each of the jobs."""
    for job in jobs:
        assert job.says("ended with exit code 0"), job.log.read_text()
    return [json.loads(next(line for line in job.log.read_text().splitlines() if line[0] == "{")) for job in jobs]


def toy(folder: Path, last_step: int, pause: float = 0.05, *more: object) -> list[object]:
    return [folder / "toy", "--last-step", last_step, "--pause", pause, "--checkpoint-every", 10**6, *more]


def logged_steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "toy" / "tb" / "scalars.jsonl").read_text().splitlines()]


def test_a_job_gets_its_arguments_and_resources(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "where it's run"
    folder.mkdir()
    (folder / "my report.py").write_text(REPORT)
    name = 'slots/obj3d 100% %j $x "q"'
    words = ["main", name, "my report.py", "no", *AWKWARD]
    [job] = submit(cluster, folder, "sbatch_run.sh", *words, GPUS=2, CPUS_PER_GPU=3, MEM_PER_CPU=2)
    [report] = reports([job])
    assert report == {
        "arguments": AWKWARD,
        "folder": str(folder),
        "SLURM_JOB_NAME": name,
        "SLURM_JOB_PARTITION": "main",
        "SLURM_CPUS_PER_TASK": "6",
        "SLURM_MEM_PER_CPU": "2048",
        "SLURM_GPUS_ON_NODE": "2",
    }
    assert job.log.parent == folder / "checkpoint" / 'obj3d 100% %j $x "q"'
    assert job.lines_with(f"job {job.number} on partition main, restarts: 0") == 1
    assert job.lines_with(f"Python {sys.version.split()[0]}") == 1


def test_duplicates_have_files_and_seeds_of_their_own(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "report.py").write_text(REPORT)
    params = tmp_path / "configs" / "savi_params.py"
    params.parent.mkdir()
    params.write_text("lr = 1e-4\n")
    words = ["main", "savi", "report.py", "no", "configs/savi_params.py", "--task", "base_slots"]
    jobs = submit(cluster, tmp_path, "dup_run_sbatch.sh", *words, REPEAT=2)
    for number, report in enumerate(reports(jobs), start=1):
        copy = f"configs/savi_params-dup{number}.py"
        assert (tmp_path / copy).read_text() == "lr = 1e-4\n"
        assert report["arguments"] == ["--params", copy, "--seed", str(number), "--task", "base_slots"]
        assert report["SLURM_JOB_NAME"] == f"savi-dup{number}"
    assert len(list(params.parent.iterdir())) == 3


def test_splits_of_phyre_have_the_processors_that_they_are_told_of(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "report.py").write_text(REPORT)
    words = ["main", "report.py", "p.py", "model 30.pth", 2, "--save_path", "data/PHYRE"]
    jobs = submit(cluster, tmp_path, "parallel_phyre.sh", *words, CPUS_PER_TASK=5, CPUS_PER_GPU=9, GPUS=3)
    for split, report in enumerate(reports(jobs)):
        told = ["--params", "p.py", "--weight", "model 30.pth", "--split", str(split), "--total_split", "2"]
        assert report["arguments"] == [*told, "--cpus", "5", "--save_path", "data/PHYRE"]
        assert report["SLURM_CPUS_PER_TASK"] == "5"
        assert report["SLURM_GPUS_ON_NODE"] == "1"
        assert report["SLURM_JOB_NAME"] == f"phyre_slots-split{split}"


@pytest.mark.slow
def test_a_job_that_is_signalled_saves_goes_back_to_the_queue_and_continues(cluster: Cluster, tmp_path: Path) -> None:
    [job] = submit(cluster, tmp_path, "sbatch_run.sh", "main", "toy", TOY, "no", *toy(tmp_path, 80))
    assert job.says("step 5"), job.log.read_text()
    cluster.run("scancel", "--batch", "--signal=USR1", job.number)  # as --signal=B:USR1@120 has Slurm do it
    assert job.says("ended with exit code 75 after the signal USR1"), job.log.read_text()
    [saved] = CheckpointFolder(tmp_path / "toy", "toy-state-").steps()
    assert 5 <= saved < 80
    assert job.says(f"job {job.number} on partition main, restarts: 1"), job.log.read_text()
    assert job.says("ended with exit code 0"), job.log.read_text()
    assert logged_steps(tmp_path) == list(range(81))
    assert json.loads((tmp_path / "toy" / "process-0.json").read_text())["hooked"][0] == saved + 1
    assert wait_until(lambda: cluster.state(job.number) == "COMPLETED")


@pytest.mark.slow
def test_a_job_that_is_pre_empted_saves_and_continues(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm tells all processes of the job, the launcher among them, which tells the others once more."""
    words = ["main", "toy", TOY, "ddp", *toy(tmp_path, 80, 0.05, "--batch-size", 4)]
    [job] = submit(cluster, tmp_path, "sbatch_run.sh", *words, GPUS=2)
    assert job.says("step 5"), job.log.read_text()
    (tmp_path / "sleep.py").write_text("import time; time.sleep(1)")
    for number in range(2):  # one for each node, with all of its GPUs
        submit(cluster, tmp_path, "sbatch_run.sh", "urgent", f"urgent{number}", "sleep.py", "no", GPUS=4)
    assert job.says("ended with exit code 75 after the signal TERM"), job.log.read_text()
    [saved] = CheckpointFolder(tmp_path / "toy", "toy-state-").steps()
    assert job.says("ended with exit code 0"), job.log.read_text()
    assert job.lines_with(f"job {job.number} on partition main, restarts: 1") == 1
    assert logged_steps(tmp_path) == list(range(81))
    seen = [json.loads((tmp_path / "toy" / f"process-{rank}.json").read_text()) for rank in range(2)]
    assert [process["hooked"] for process in seen] == [list(range(saved + 1, 81)), []]
    assert seen[0]["weights"] == seen[1]["weights"]


def test_a_job_that_is_cancelled_saves_and_stays_away(cluster: Cluster, tmp_path: Path) -> None:
    [job] = submit(cluster, tmp_path, "sbatch_run.sh", "main", "toy", TOY, "no", *toy(tmp_path, 10**6))
    assert job.says("step 5"), job.log.read_text()
    cluster.run("scancel", job.number)
    assert job.says("ended with exit code 75 after the signal TERM"), job.log.read_text()
    assert len(CheckpointFolder(tmp_path / "toy", "toy-state-").steps()) == 1
    assert wait_until(lambda: cluster.state(job.number) == "CANCELLED")
    assert job.lines_with(f"job {job.number} on partition") == 1


def test_a_failed_job_keeps_its_exit_code(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "fail.py").write_text("import sys; sys.exit('no such data set')")
    [job] = submit(cluster, tmp_path, "sbatch_run.sh", "main", "fail", "fail.py", "no")
    assert job.says("ended with exit code 1")
    assert job.lines_with("no such data set") == 1
    assert wait_until(lambda: cluster.state(job.number) == "FAILED")


@pytest.mark.slow
def test_two_nodes_train_one_model_save_together_and_continue(cluster: Cluster, tmp_path: Path) -> None:
    words = ["main", "toy", TOY, "ddp", *toy(tmp_path, 80, 0.05, "--batch-size", 2)]
    [job] = submit(cluster, tmp_path, "sbatch_run.sh", *words, NODES=2, GPUS=2)
    assert job.says("step 5"), job.log.read_text()
    cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    assert job.says("ended with exit code 75 after the signal USR1"), job.log.read_text()
    assert job.says("ended with exit code 0"), job.log.read_text()
    assert logged_steps(tmp_path) == list(range(81))
    weights = [json.loads((tmp_path / "toy" / f"process-{rank}.json").read_text())["weights"] for rank in range(4)]
    assert all(other == weights[0] for other in weights)
    assert not (tmp_path / "toy" / "process-4.json").exists()


@pytest.mark.slow
def test_srun_accelerate_launch_joins_two_tasks_of_one_node(cluster: Cluster, tmp_path: Path) -> None:
    [port] = free_ports(1)
    machines = f"--multi_gpu --num_machines 2 --num_processes 2 --main_process_ip 127.0.0.1 --main_process_port {port}"
    launch = f"{sys.executable} -m accelerate.commands.launch {machines} --machine_rank $SLURM_PROCID"
    words = shlex.join(str(word) for word in toy(tmp_path, 20, 0.0, "--batch-size", 4))
    cluster.run(
        *("srun", "--partition=main", "--ntasks=2", "--nodes=1", "--overcommit", "--time=5", f"--chdir={ROOT}"),
        *("bash", "-c", f"{launch} {TOY} {words}"),
    )
    assert logged_steps(tmp_path) == list(range(21))
    weights = [json.loads((tmp_path / "toy" / f"process-{rank}.json").read_text())["weights"] for rank in range(2)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_job_near_its_time_limit_saves_and_continues(cluster: Cluster, tmp_path: Path) -> None:
    [job] = submit(cluster, tmp_path, "sbatch_run.sh", "main", "toy", TOY, "no", *toy(tmp_path, 10**6), TIME=3)
    assert wait_until(lambda: job.lines_with("ended with exit code 75 after the signal USR1") > 0, 150)
    [saved] = CheckpointFolder(tmp_path / "toy", "toy-state-").steps()
    assert job.says(f"step {saved + 1}"), job.log.read_text()
    assert job.lines_with(f"job {job.number} on partition main, restarts: 1") == 1


TINY_SAVI = [
    "--params",
    ROOT / "slotformer" / "base_slots" / "configs" / "savi_obj3d_params.py",
    "--set",
    *("data_root=data", "gpus=2", "train_batch_size=1", "val_batch_size=1", "num_workers=0", "max_epochs=16"),
    *("video_len=7", "n_sample_frames=2", "input_frames=2", "n_samples=1", "eval_interval=16", "save_interval=1"),
    *("num_slots=3", "slot_dict.num_slots=3", "enc_dict.enc_channels=(3,8,8,8,8)", "enc_dict.enc_out_channels=16"),
    "dec_dict.dec_channels=(128,8,8,8,8)",
]


@pytest.mark.slow
def test_slotformers_training_is_requeued_and_ends_as_if_it_had_not_been(cluster: Cluster, tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 1)):
        for video in range(count):
            frames = smooth_frames(8, 64, 64, seed=video)
            write_frames(tmp_path / "data" / split / str(video), frames, "test_{}.png", first=1)
    train = [ROOT / "slotformer" / "scripts" / "train.py", "ddp", "--ddp", *TINY_SAVI]
    [job] = submit(cluster, tmp_path, "sbatch_run.sh", "main", "slots/tiny", *train, "--name", "requeued", GPUS=2)
    assert job.says("epoch 2 of 16 begins"), job.log.read_text()
    cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    assert job.says("ended with exit code 75 after the signal USR1"), job.log.read_text()
    launcher = [sys.executable, "-m", "core.training.launch", "--processes", "2"]
    words = [*launcher, train[0], *train[2:], "--name", "undisturbed", "--seed", "0"]
    done = subprocess.run(list(map(str, words)), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert job.says("ended with exit code 0"), job.log.read_text()
    assert job.lines_with(f"job {job.number} on partition main, restarts: 1") == 1
    requeued, undisturbed = (
        load(tmp_path / "checkpoint" / name / "models" / "model_144.pth") for name in ("requeued", "undisturbed")
    )
    assert_same_weights(requeued, undisturbed)
