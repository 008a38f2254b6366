"""A Slurm cluster of two nodes that are both this machine, for as long as the tests of the Slurm scripts run."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue", "sinfo")
SYSTEM_FOLDERS = "/usr/sbin:/sbin"  # where daemons are, which not every user has on the path
# Every node has more processors, memory and GPUs than this machine; nothing binds a job to them. What is requeued may
# start again after 10 seconds (cred_expire), instead of two minutes.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
ReturnToService=2
MpiDefault=none
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=32 RealMemory=400000 Gres=gpu:4
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=32 RealMemory=400000 Gres=gpu:4
PartitionName=main Nodes=n[1-2] MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE PriorityTier=2
"""


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether a condition comes true within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@dataclass(frozen=True)
class Cluster:
    """Commands of the cluster, and the environment in which they and sbatch find it."""

    environment: dict[str, str]

    def run(self, *words: object) -> str:
        """Standard output of a Slurm command, which must succeed."""
        command = [str(word) for word in words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def state(self, job: int) -> str:
        """`PENDING`, `RUNNING`, `COMPLETED`, ... of a job."""
        words = self.run("scontrol", "show", "job", job).split()
        return next(word.removeprefix("JobState=") for word in words if word.startswith("JobState="))


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Cluster]:
    """Start munge and Slurm below `folder` as the present user; skips the test where that cannot be done."""
    path = os.environ["PATH"] + ":" + SYSTEM_FOLDERS
    missing = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if missing:
        pytest.skip(f"no {missing[0]} here: apt-get install slurmctld slurmd slurm-client munge")
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir(parents=True)
    for number in range(4):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-3]\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    host, user = socket.gethostname().partition(".")[0], subprocess.check_output(["id", "-un"], text=True).strip()
    configuration = CONFIGURATION.format(folder=folder, host=host, user=user, ports=free_ports(3))
    (folder / "slurm.conf").write_text(configuration)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", "SRUN"))}
    cluster = Cluster(inherited | {"PATH": path, "SLURM_CONF": str(folder / "slurm.conf")})
    munge = {name: folder / f"munge.{name}" for name in ("key", "socket", "pid", "log", "seed")}
    options = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    daemons = []

    def start(*words: str, ready: Callable[[], bool]) -> None:
        output = folder / f"{words[0]}-{len(daemons)}.out"
        with output.open("w") as file:
            daemons.append(subprocess.Popen(words, env=cluster.environment, stdout=file, stderr=file, cwd=folder))
        if not wait_until(lambda: ready() or daemons[-1].poll() is not None, 20) or daemons[-1].poll() is not None:
            pytest.skip(f"{words[0]} does not run here: {output.read_text()[-500:]}")

    try:
        words = [f"--{option}={munge[name]}" for option, name in options.items()]
        start("munged", "--foreground", "--force", *words, ready=munge["socket"].exists)
        start("slurmctld", "-D", "-c", ready=lambda: answers(cluster, "scontrol", "ping"))
        for node in ("n1", "n2"):
            idle = ("sinfo", "--noheader", "--partition=main", f"--nodes={node}", "--format=%T")
            start("slurmd", "-D", "-N", node, ready=lambda idle=idle: answers(cluster, *idle).strip() == "idle")
        yield cluster
        cluster.run("scancel", f"--user={user}")
        wait_until(lambda: not cluster.run("squeue", "--noheader"), 30)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


def answers(cluster: Cluster, *words: str) -> str:
    """Standard output of a Slurm command, nothing if it fails."""
    done = subprocess.run(words, env=cluster.environment, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for unused in sockets:
        unused.bind(("127.0.0.1", 0))
    ports = [unused.getsockname()[1] for unused in sockets]
    for unused in sockets:
        unused.close()
    return ports
