"""The batch script of a run, as text: pure functions of a frozen description. Golden files in tests/golden/slurm/."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath

from heterotune.errors import PREEMPTED
from heterotune.launching.launch_methods import MethodName
from heterotune.launching.mpirun import SESSION_VARIABLE, WORKER_MODULE
from heterotune.launching.stopping import STOP_FILE

SCRIPT_FILE = "job.sbatch"
EXIT_CODE_FILE = "exit-code"
"""In the run folder: the exit code of a job that ended and was not put back into the queue."""


@dataclass(frozen=True)
class BatchScript:
    """Everything that the text of a batch script depends on.

    Attributes:
        name: The job's name.
        run_dir: Absolute run folder; of an array, the folder that holds one run folder `seed-N` for each seed.
        python: Absolute path of the interpreter on the nodes; mpirun and deepspeed are beside it.
        num_nodes: Nodes of the job.
        ranks_per_node: MPI ranks on each of them.
        via: What starts the ranks.
        time: Time limit as Slurm writes it; None = the partition's.
        partition: Partition; None = the cluster's default.
        account: Account to charge; None = the user's default.
        gpus_per_node: GPUs on each node; None = do not ask for any.
        cpus_per_rank: CPU cores of each rank; None = the cluster's default.
        array: Slurm's list of array indices, which are the seeds ("1-5"); None = one job.
        container: Apptainer image in which the ranks run; None = none.
        signal_seconds: How long before the time limit the run is asked to save and stop.
        work_dir: Folder that relative paths of the run file start from; None = there are none.
        run_file: Run file that a run folder without one gets a copy of; None = it is there already.
        options: More options of sbatch, `name` or `name=value`.
    """

    name: str
    run_dir: str
    python: str
    num_nodes: int
    ranks_per_node: int
    via: MethodName = "mpirun"
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    gpus_per_node: int | None = None
    cpus_per_rank: int | None = None
    array: str | None = None
    container: str | None = None
    signal_seconds: int = 120
    work_dir: str | None = None
    run_file: str | None = None
    options: tuple[str, ...] = ()

    @property
    def num_ranks(self) -> int:
        """Ranks of the whole job."""
        return self.num_nodes * self.ranks_per_node

    @property
    def log_pattern(self) -> str:
        """Where Slurm writes what the job prints; %j, %A and %a are filled in by Slurm."""
        return f"{self.run_dir}/seed-%a/logs/slurm-%A_%a.out" if self.array else f"{self.run_dir}/logs/slurm-%j.out"


def render(script: BatchScript) -> str:
    """Return the text of a batch script, ready for sbatch."""
    parts = [_header(script), _places(script), _CLEAN, _signals(script), _MAIN[script.via](script), _WAIT, _END]
    return "\n\n".join(parts) + "\n"


def _header(script: BatchScript) -> str:
    """The lines that sbatch reads."""
    wanted = {
        "job-name": script.name,
        "nodes": script.num_nodes,
        "ntasks-per-node": script.ranks_per_node,
        "cpus-per-task": script.cpus_per_rank,
        "gpus-per-node": script.gpus_per_node,
        "partition": script.partition,
        "account": script.account,
        "time": script.time,
        "array": script.array,
        "output": script.log_pattern,
        "open-mode": "append",
        "signal": f"B:USR1@{script.signal_seconds}",
    }
    options = [f"{name}={value}" for name, value in wanted.items() if value is not None]
    author = "submit" if script.run_file is None else "init"
    beside = PurePosixPath(script.run_dir) if script.run_file is None else PurePosixPath(script.run_file).parent
    again = f"sbatch {beside / SCRIPT_FILE}"
    about = [
        "#!/usr/bin/env bash",
        f"# {script.name} on {script.num_nodes} x {script.ranks_per_node} ranks, written by `heterotune {author}`.",
        f"# A run that stopped goes on from its newest checkpoint with: {again}",
    ]
    return "\n".join([*about, *(f"#SBATCH --{option}" for option in (*options, "requeue", *script.options))])


def _places(script: BatchScript) -> str:
    """Where things are on the nodes."""
    run_dir = shlex.quote(script.run_dir)
    if script.array:
        run_dir += '/seed-"${SLURM_ARRAY_TASK_ID:?submit this script with sbatch}"'
    lines = [f"RUN_DIR={run_dir}", f"PYTHON={shlex.quote(script.python)}"]
    if script.work_dir:
        lines += ["# The run file names paths that start here.", f"cd {shlex.quote(script.work_dir)} || exit 1"]
    if script.run_file:
        copy = f'[[ -e "$RUN_DIR/config.yaml" ]] || cp {shlex.quote(script.run_file)} "$RUN_DIR/config.yaml" || exit 1'
        lines += [
            "# A new run; for another one, choose another RUN_DIR here and in --output, and make its logs folder.",
            copy,
        ]
    return "\n".join([*lines, 'export PATH="${PYTHON%/*}:$PATH"  # mpirun and deepspeed are beside python'])


_CLEAN = f"""\
# What an attempt before this one, or another launcher in the shell that submitted, may have left.
rm -f "$RUN_DIR/{STOP_FILE}" "$RUN_DIR/failure.json" "$RUN_DIR/{EXIT_CODE_FILE}"
unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT HETEROTUNE_NUM_RANKS"""

_SESSION = f"""\
# mpirun's session files in a folder of this job's own: what a killed one leaves stops the next of its process id.
{SESSION_VARIABLE}=$(mktemp -d "${{TMPDIR:-/tmp}}/heterotune-XXXXXX")
export {SESSION_VARIABLE}
trap 'rm -rf "${SESSION_VARIABLE}"' EXIT"""


def _mpirun(script: BatchScript) -> str:
    """Open MPI's mpirun: under Slurm it asks Slurm for the hosts, under PBS it gets a file."""
    return f"""\
{_SESSION}
# Slurm tells mpirun its hosts; under PBS they are in a file.
HOSTS=()
if [[ -n "${{PBS_NODEFILE:-}}" ]]; then
    sort -u "$PBS_NODEFILE" | sed 's/$/ slots={script.ranks_per_node}/' >"$RUN_DIR/hostfile"
    HOSTS=(--hostfile "$RUN_DIR/hostfile")
fi
# mpirun sends only those variables to other nodes that it is told to.
EXPORTS=()
for name in $(compgen -e | grep -E '^(PATH|LD_LIBRARY_PATH|PYTHONPATH)$|^(OMP|HF|NCCL|GLOO|DS|HETEROTUNE)_'); do
    EXPORTS+=(-x "$name")
done
mpirun -n {script.num_ranks} --map-by ppr:{script.ranks_per_node}:node --bind-to none \\
    "${{HOSTS[@]}}" "${{EXPORTS[@]}}" \\
    {_worker(script)} &
RANKS=$!"""


def _srun(script: BatchScript) -> str:
    """Slurm's own srun; PMIx makes the ranks one MPI world."""
    cpus = "" if script.cpus_per_rank is None else f" --cpus-per-task={script.cpus_per_rank}"
    return f"""\
srun --mpi=pmix --cpu-bind=none{cpus} \\
    {_worker(script)} &
RANKS=$!"""


def _deepspeed(script: BatchScript) -> str:
    """DeepSpeed's launcher over Open MPI; it wants a hostfile, and an interface unless that is eth0."""
    mpi_options = f"--map-by ppr:{script.ranks_per_node}:node --bind-to none --mca btl_tcp_if_include $INTERFACE"
    return f"""\
{_SESSION}
# The hosts of this job, from Slurm or from PBS.
if [[ -n "${{SLURM_JOB_NODELIST:-}}" ]]; then
    scontrol show hostnames "$SLURM_JOB_NODELIST"
else
    sort -u "${{PBS_NODEFILE:?neither Slurm nor PBS says which hosts this job has}}"
fi | sed 's/$/ slots={script.ranks_per_node}/' >"$RUN_DIR/hostfile"
if [[ ! -s "$RUN_DIR/hostfile" ]]; then
    echo "No host could be found for $RUN_DIR/hostfile." >&2
    exit 1
fi
# The launcher takes eth0 unless it is told: the interface of the default route, or what INTERFACE says.
INTERFACE="${{INTERFACE:-$(ip -o -4 route show default 2>/dev/null | sed -n '1s/.* dev \\([^ ]*\\).*/\\1/p')}}"
INTERFACE="${{INTERFACE:-lo}}"
deepspeed --hostfile "$RUN_DIR/hostfile" --launcher openmpi --force_multi --no_ssh_check --master_addr "$(hostname)" \\
    --launcher_args "{mpi_options}" \\
    --module {WORKER_MODULE} "$RUN_DIR/config.yaml" --run-dir "$RUN_DIR" --resume &
RANKS=$!"""


_MAIN = {"mpirun": _mpirun, "srun": _srun, "deepspeed": _deepspeed}


def _worker(script: BatchScript) -> str:
    """The command of one rank. Under `-m mpi4py` a rank that raises ends the whole job."""
    python = '"$PYTHON"'
    if script.container is not None:
        gpu = " --nv" if script.gpus_per_node else ""
        python = f'apptainer exec{gpu} --bind "$RUN_DIR" {shlex.quote(script.container)} \\\n    python3'
    return f'{python} -m mpi4py -m {WORKER_MODULE} "$RUN_DIR/config.yaml" --run-dir "$RUN_DIR" --resume'


def _signals(script: BatchScript) -> str:
    """Pass on the wish to stop as a file, which works under every launcher."""
    return f"""\
# USR1 comes {script.signal_seconds} s before the time limit; TERM with the limit, a preemption or scancel. The ranks
# then end their chunks, save, and end with code {PREEMPTED}. After TERM that must be quick: KillWait is all there is.
stopping=no terminated=no late=no timer=
KILL_WAIT=$(scontrol show config 2>/dev/null | sed -n 's/^KillWait *= *\\([0-9]*\\).*/\\1/p')
GRACE=$((${{KILL_WAIT:-30}} / 2))  # seconds for the ranks after TERM; the rest is for putting the job back
ask_to_stop() {{ stopping=yes; touch "$RUN_DIR/{STOP_FILE}"; }}
trap ask_to_stop USR1
trap 'ask_to_stop; terminated=yes; (sleep $GRACE; kill -USR2 $$) >/dev/null 2>&1 & timer=$!' TERM
trap 'stopping=yes; late=yes' USR2"""


_WAIT = """\
while true; do
    stopping=no
    wait "$RANKS"
    code=$?
    if [[ $late == yes || $stopping == no ]]; then break; fi  # else a signal ended the wait, not the ranks
done
if [[ -n $timer ]]; then kill "$timer" 2>/dev/null; fi"""

_END = f"""\
if [[ $code -eq 0 && ! -e "$RUN_DIR/summary.json" ]]; then code=1; fi  # a launcher that hides a rank's end
if [[ $code -eq {PREEMPTED} || ($terminated == yes && $code -ne 0) ]] && [[ -n "${{SLURM_JOB_ID:-}}" ]]; then
    if "$PYTHON" -m heterotune.launching.requeue "$RUN_DIR" --job "$SLURM_JOB_ID"; then
        scontrol requeue "$SLURM_JOB_ID" && exit "$code"
    fi
elif [[ $code -ne 0 ]]; then
    "$PYTHON" -m heterotune.launching.failure "$RUN_DIR"  # the first failing rank's cause comes last
fi
echo "$code" >"$RUN_DIR/{EXIT_CODE_FILE}"
exit "$code\""""
