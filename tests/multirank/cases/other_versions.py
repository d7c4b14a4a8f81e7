"""A worker whose rank 1 is on a host with another numpy and without deepspeed.

python other_versions.py RUN.yaml --run-dir DIR
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from heterotune import worker
from heterotune.collective.roll_call import NOT_INSTALLED, RankFacts
from heterotune.launching import placement

_own_facts = placement.own_facts


def _facts_elsewhere(environ: dict[str, str], local_rank: int) -> RankFacts:
    facts = _own_facts(environ, local_rank)
    return replace(facts, host="n17", versions={**facts.versions, "numpy": "1.0.1", "deepspeed": NOT_INSTALLED})


if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    placement.own_facts = _facts_elsewhere
sys.exit(worker.main())
