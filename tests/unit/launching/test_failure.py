"""The last words of a batch job."""

from __future__ import annotations

from pathlib import Path

from heterotune.launching.failure import main
from heterotune.run_folder import RunFolder


def test_the_first_failing_rank_has_the_last_word(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path)]) == 0
    assert "without a traceback" in capsys.readouterr().err
    RunFolder.open(tmp_path).record_failure(3, "Traceback ...\nValueError: loss is nan\n")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().err == "MPI rank 3 failed:\nTraceback ...\nValueError: loss is nan\n"
