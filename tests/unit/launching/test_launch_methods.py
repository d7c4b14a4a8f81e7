"""Which launchers work: told from versions and from srun's list, with commands that stand in for the real ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from heterotune import doctor
from heterotune.launching.launch_methods import (
    LaunchMethod,
    launch_methods,
    listed_mpi_types,
    mpi_family,
    srun_mpi_type,
    working_launch_methods,
)

OPENMPI = "Open MPI v5.0.11, package: Open MPI, ident: 5.0.11"
MPICH = "MPICH Version: 4.0.2"
LISTED_22 = "MPI plugin types are...\n\tnone\n\tpmi2\n\tcray_shasta\n"
LISTED_23 = (
    "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix\nspecific pmix plugin versions available: pmix_v3,pmix_v4\n"
)
LISTED_19 = "srun: MPI types are...\nsrun: none\nsrun: pmix\nsrun: pmi2\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch):
    """Make a machine whose python, mpirun, srun and deepspeed print what a test says, and nothing else on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(**printed: str) -> Path:
        for name, text in printed.items():
            (folder / name).write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{text}\nEND\n")
            (folder / name).chmod(0o755)
        return folder / "python"

    return make


@pytest.mark.parametrize(
    ("text", "family"),
    [
        (OPENMPI, "openmpi"),
        ("mpirun (Open MPI) 5.0.11\nReport bugs to https://www.open-mpi.org/community/help/", "openmpi"),
        (MPICH, "mpich"),
        ("HYDRA build details:\n    Version: 4.0.2", "mpich"),
        ("Intel(R) MPI Library 2021.10 for Linux* OS", "mpich"),
        ("MVAPICH2 Version: 2.3.7", "mpich"),
        ("", None),
    ],
)
def test_the_family_of_an_mpi(text: str, family: str | None) -> None:
    assert mpi_family(text) == family


@pytest.mark.parametrize(
    ("listing", "types"),
    [
        (LISTED_22, ("none", "pmi2", "cray_shasta")),
        (LISTED_23, ("none", "pmi2", "pmix", "pmix_v3", "pmix_v4")),
        (LISTED_19, ("none", "pmix", "pmi2")),
        ("", ()),
    ],
)
def test_the_types_that_srun_lists(listing: str, types: tuple[str, ...]) -> None:
    assert listed_mpi_types(listing) == types


@pytest.mark.parametrize(
    ("library", "types", "chosen"),
    [
        ("openmpi", ("none", "pmi2", "pmix", "pmix_v4"), "pmix"),
        ("openmpi", ("none", "pmix_v4"), "pmix_v4"),
        ("openmpi", ("none", "pmi2"), None),
        ("mpich", ("none", "pmix", "pmi2"), "pmi2"),
        ("mpich", ("none",), None),
        (None, ("pmix", "pmi2"), None),
    ],
)
def test_srun_must_speak_the_pmi_of_the_library(library, types, chosen) -> None:
    assert srun_mpi_type(library, types) == chosen


def test_everything_works_and_mpirun_is_best(machine) -> None:
    python = machine(python=OPENMPI, mpirun="mpirun (Open MPI) 5.0.11", srun=LISTED_23, deepspeed="")
    assert working_launch_methods(python) == ("mpirun", "srun", "deepspeed")
    assert [method.flag for method in launch_methods(python)] == ["", "--mpi=pmix", "--launcher openmpi"]


def test_without_slurm_and_deepspeed(machine) -> None:
    python = machine(python=OPENMPI, mpirun="mpirun (Open MPI) 5.0.11")
    mpirun, srun, deepspeed = launch_methods(python)
    assert mpirun == LaunchMethod("mpirun", True, str(python.parent / "mpirun"))
    assert srun == LaunchMethod("srun", False, "no srun on PATH")
    assert not deepspeed.works and "no deepspeed beside" in deepspeed.detail


def test_a_cluster_without_pmix(machine) -> None:
    python = machine(python=OPENMPI, mpirun="mpirun (Open MPI) 5.0.11", srun=LISTED_22, deepspeed="")
    assert working_launch_methods(python) == ("mpirun", "deepspeed")
    srun = launch_methods(python)[1]
    assert srun.detail == "mpi4py needs pmix; srun --mpi=list names none, pmi2, cray_shasta"


def test_a_pmix_that_is_listed_but_does_not_load(machine) -> None:
    python = machine(python=OPENMPI, mpirun="mpirun (Open MPI) 5.0.11", srun=LISTED_23)
    (python.parent / "srun").write_text(
        f"""#!/bin/sh\ncase "$*" in *--test-only*) echo "srun: error: Invalid MPI type 'pmix'" >&2; exit 1;; esac
/bin/cat <<'END'\n{LISTED_23}\nEND\n"""
    )
    assert working_launch_methods(python) == ("mpirun",)
    assert launch_methods(python)[1].detail == "srun --mpi=list names pmix, but srun cannot load its library"


def test_a_cluster_with_mpich_and_the_mpirun_of_another(machine) -> None:
    python = machine(python=MPICH, mpirun="mpirun (Open MPI) 5.0.11", srun=LISTED_22, deepspeed="")
    assert working_launch_methods(python) == ("srun",)
    mpirun, srun, deepspeed = launch_methods(python)
    assert mpirun.detail.endswith("mpirun is of openmpi, but mpi4py loads mpich")
    assert srun.flag == "--mpi=pmi2"
    assert deepspeed.detail.startswith("on one machine only")


@pytest.mark.parametrize(("printed", "detail"), [({}, "No mpirun beside"), ({"mpirun": ""}, "mpi4py finds no MPI")])
def test_a_machine_without_mpi(machine, printed, detail) -> None:
    python = machine(python="", srun=LISTED_23, **printed)
    assert working_launch_methods(python) == ()
    assert detail in launch_methods(python)[0].detail
    assert "mpi4py needs an MPI library" in launch_methods(python)[1].detail


def test_the_doctor_lists_them(machine, monkeypatch) -> None:
    machine(srun=LISTED_22)
    monkeypatch.setenv("PATH", os.pathsep.join([os.environ["PATH"], "/usr/bin", "/bin"]))
    check = doctor.check_launching()
    assert check.ok and check.name == "launchers"
    assert [line.split(":")[:2] for line in check.detail.splitlines()] == [
        ["works", " mpirun"],
        ["no", " srun"],
        ["works", " deepspeed"],
    ]
