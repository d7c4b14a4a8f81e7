# Installs Debian's slurm-wlm, munge and libpmix-dev (which srun --mpi=pmix loads) for tests/cluster if root runs the
# tests; tests/run.sh sources this file.
# A failure is said and is not fatal: pytest then skips those tests and says so. No service is started.

slurm_is_there() {
    local tool path="$PATH:/usr/sbin:/sbin"
    for tool in munged slurmctld slurmd sbatch; do
        PATH="$path" command -v "$tool" >/dev/null || return 1
    done
}

install_packages() {
    local policy=/usr/sbin/policy-rc.d code=0
    if [[ -e "$policy" ]]; then
        policy=""
    else
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" # 101: services may not be started now
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends "$@" </dev/null || code=$?
    if [[ -n "$policy" ]]; then
        rm -f "$policy"
    fi
    return "$code"
}

install_slurm() {
    local skipped="tests/cluster: the tests on a real Slurm will be skipped:" log
    if slurm_is_there; then
        return 0
    fi
    if [[ $EUID -ne 0 ]]; then
        echo "$skipped only root can install and start it (Debian: apt-get install slurm-wlm munge)." >&2
        return 0
    fi
    if ! command -v apt-get >/dev/null; then
        echo "$skipped there is no apt-get to install it with." >&2
        return 0
    fi
    echo "Installing slurm-wlm, munge and libpmix-dev for tests/cluster (once) ..." >&2
    log="$(mktemp)"
    if install_packages slurm-wlm munge libpmix-dev >"$log" 2>&1 ||
        { apt-get update --quiet=2 >>"$log" 2>&1 && install_packages slurm-wlm munge libpmix-dev >>"$log" 2>&1; }; then
        rm -f "$log"
        return 0
    fi
    echo "$skipped apt-get could not install slurm-wlm, munge and libpmix-dev. The end of what it said:" >&2
    tail -n 5 "$log" >&2
    rm -f "$log"
}

install_slurm
