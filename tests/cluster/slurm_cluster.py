"""A real Slurm of two nodes on this one machine: munged, slurmctld and two slurmd, all state in one folder.

Both nodes are this host under two names and ports, so a job of two nodes runs its ranks side by side here. Nothing of a
Slurm that the machine may have is touched: own ports, own configuration (SLURM_CONF), own munge socket and key.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

TOOLS = ("munged", "slurmctld", "slurmd", "slurmstepd", "sbatch", "srun", "scontrol", "scancel", "sinfo", "squeue")
NODES = ("n1", "n2")
PARTITION = "main"
CPUS_PER_NODE = 4
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY")

_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")  # not on everybody's PATH
_READY_SECONDS = 30.0
_END_SECONDS = 10.0
_COMMAND_SECONDS = 60.0
_POLL_SECONDS = 0.1

# cred_expire is also how long a requeued job waits before it may start again; 5 is the least that Slurm takes.
_SLURM_CONF = """\
ClusterName=heterotune-tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


@dataclass(frozen=True)
class SlurmCluster:
    """A cluster that runs.

    Attributes:
        folder: All its state and logs.
        conf: Its configuration, slurm.conf.
    """

    folder: Path
    conf: Path

    def variables(self, environment: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return an environment with what a command needs to reach the cluster."""
        environ = dict(environment or {})
        path = environ.get("PATH", os.environ.get("PATH", os.defpath))
        return environ | {"SLURM_CONF": str(self.conf), "PATH": os.pathsep.join([path, *_SYSTEM_FOLDERS])}

    def run(self, *words: str | Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands; standard output and error apart."""
        environ = {**os.environ, **self.variables(environment)}
        command = [str(word) for word in words]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=_COMMAND_SECONDS)

    def ask(self, *words: str | Path, environment: Mapping[str, str] | None = None) -> str:
        """Return what a command prints; it must succeed."""
        done = self.run(*words, environment=environment)
        assert done.returncode == 0, f"{words}: {done.stderr}\n{self.logs()}"
        return done.stdout

    def submit(self, script: Path, *options: str, environment: Mapping[str, str] | None = None) -> int:
        """Submit a batch script with this environment and return the job's id."""
        return int(self.ask("sbatch", "--parsable", *options, script, environment=environment).split(";")[0])

    def job(self, job_id: int) -> dict[str, str]:
        """Return what Slurm says of a job: JobState, ExitCode, Restarts, ..."""
        words = self.ask("scontrol", "show", "job", "--oneliner", str(job_id)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job_id: int, *, limit_seconds: float) -> dict[str, str]:
        """Return what Slurm says of a job once it has ended; fails, and cancels it, if that takes too long."""
        try:
            wait_until(lambda: self.job(job_id)["JobState"] in ENDED, limit_seconds, f"the end of job {job_id}")
        except AssertionError:
            told = self.job(job_id)
            self.run("scancel", str(job_id))
            raise AssertionError(f"job {job_id} did not end in {limit_seconds:g} s: {told}\n{self.logs()}") from None
        return self.job(job_id)

    def logs(self) -> str:
        """Return the ends of all logs, for a message."""
        ends = (f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in self.folder.glob("*.log"))
        return "\n".join(ends)


def reason_to_skip() -> str | None:
    """Return why no cluster can be started here, or None."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS])
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if missing:
        return f"no Slurm of two nodes here: {', '.join(missing)} missing (Debian: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "no Slurm of two nodes here: only root may start it"
    return None


@contextmanager
def running_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Start munged, slurmctld and two slurmd, and end them with all that their jobs left, by process id."""
    host = socket.gethostname().split(".")[0]
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(_SLURM_CONF.format(host=host, ports=free_ports(3), folder=folder, cpus=CPUS_PER_NODE))
    cluster = SlurmCluster(folder, conf)
    with ExitStack() as daemons:
        daemons.callback(_end_leftovers, conf)
        _start_munge(daemons, cluster)
        daemons.enter_context(_daemon(cluster, "slurmctld", ["slurmctld", "-D", "-i"]))
        for node in NODES:
            daemons.enter_context(_daemon(cluster, f"slurmd-{node}", ["slurmd", "-D", "-N", node]))
        daemons.callback(_end_jobs, cluster)
        try:
            wait_until(lambda: _idle_nodes(cluster) == set(NODES), _READY_SECONDS, "two idle nodes")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{cluster.logs()}") from None
        yield cluster


def wait_until(condition: Callable[[], bool], limit_seconds: float, what: str) -> None:
    """Return when a condition holds; fails if it does not by the limit."""
    deadline, never = time.monotonic() + limit_seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come in {limit_seconds:g} s"
        never.wait(_POLL_SECONDS)


def free_ports(count: int) -> list[int]:
    """Return different ports that were free a moment ago."""
    with ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def _start_munge(daemons: ExitStack, cluster: SlurmCluster) -> None:
    folder = cluster.folder
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    files = [f"--{name}-file={folder / f'munge.{name}'}" for name in ("key", "pid", "log", "seed")]
    command = ["munged", "--foreground", "--force", f"--socket={folder / 'munge.socket'}", *files, "--num-threads=2"]
    daemons.enter_context(_daemon(cluster, "munged", command))
    wait_until((folder / "munge.socket").exists, _READY_SECONDS, "munge's socket")


@contextmanager
def _daemon(cluster: SlurmCluster, name: str, command: Sequence[str]) -> Iterator[None]:
    environ = {**os.environ, **cluster.variables()}
    with open(cluster.folder / f"{name}.out.log", "wb") as log:
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
            process.kill()
            process.wait()


def _idle_nodes(cluster: SlurmCluster) -> set[str]:
    done = cluster.run("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N")
    return set(done.stdout.split())


def _end_jobs(cluster: SlurmCluster) -> None:
    """Cancel what a failed test left in the queue, and wait until the nodes are rid of it."""
    for job_id in cluster.run("squeue", "--noheader", "--format=%A").stdout.split():
        cluster.run("scancel", "--full", "--signal=KILL", job_id)
        cluster.run("scancel", job_id)
    with suppress(AssertionError):
        wait_until(lambda: not cluster.run("squeue", "--noheader").stdout.strip(), _END_SECONDS, "an empty queue")


def _end_leftovers(conf: Path) -> None:
    """Kill processes of this cluster that outlived its daemons: they carry its SLURM_CONF."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("SLURM_CONF") == str(conf) and process.pid != os.getpid():
                process.kill()
