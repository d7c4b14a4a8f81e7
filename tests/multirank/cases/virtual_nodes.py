"""A worker on one machine whose ranks count to nodes of two.

python virtual_nodes.py RUN.yaml --run-dir DIR
"""

from __future__ import annotations

import os
import sys

from heterotune import worker
from heterotune.collective.roll_call import NODE_VARIABLE

RANKS_PER_NODE = 2

os.environ[NODE_VARIABLE] = f"node{int(os.environ['OMPI_COMM_WORLD_RANK']) // RANKS_PER_NODE}"
sys.exit(worker.main())
