# Installs Debian packages that some tests drive, if root runs the tests: Slurm, munge and libpmix-dev (which
# srun --mpi=pmix loads) for tests/cluster, Chromium for the tests of reports. tests/run.sh sources this file.
# A failure is said and is not fatal: pytest then skips those tests and says so. No service is started.

all_on_path() {
    local tool path="$PATH:/usr/sbin:/sbin"
    for tool in "$@"; do
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

# provide "WHICH TESTS" "PROGRAMS" "PACKAGES"
provide() {
    local tests="$1" programs="$2" packages="$3" log skipped
    skipped="$tests will be skipped:"
    # shellcheck disable=SC2086 # lists of words
    if all_on_path $programs; then
        return 0
    fi
    if [[ $EUID -ne 0 ]]; then
        echo "$skipped only root can install what they drive (Debian: apt-get install $packages)." >&2
        return 0
    fi
    if ! command -v apt-get >/dev/null; then
        echo "$skipped there is no apt-get to install $packages with." >&2
        return 0
    fi
    echo "Installing $packages for $tests (once) ..." >&2
    log="$(mktemp)"
    # shellcheck disable=SC2086
    if install_packages $packages >"$log" 2>&1 ||
        { apt-get update --quiet=2 >>"$log" 2>&1 && install_packages $packages >>"$log" 2>&1; }; then
        rm -f "$log"
        return 0
    fi
    echo "$skipped apt-get could not install $packages. The end of what it said:" >&2
    tail -n 5 "$log" >&2
    rm -f "$log"
}

provide "tests on a real Slurm" "munged slurmctld slurmd sbatch" "slurm-wlm munge libpmix-dev"
provide "tests of reports in a browser" "chromium chromedriver" "chromium chromium-driver"
