"""The last words of a batch job: why it failed. `python -m heterotune.launching.failure RUN_DIR`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from heterotune.run_folder import RunFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the traceback of the rank that failed first, if one left any; returns the exit code of this process."""
    (run_dir,) = sys.argv[1:] if arguments is None else arguments
    print(batch_failure_text(RunFolder.open(Path(run_dir))), file=sys.stderr)
    return 0


def batch_failure_text(run_folder: RunFolder) -> str:
    """Return why a batch job failed, as far as its run folder knows."""
    without = f"The ranks ended without a traceback. Their logs are in {run_folder.log_folder}."
    return run_folder.first_failure_text() or without


if __name__ == "__main__":
    sys.exit(main())
