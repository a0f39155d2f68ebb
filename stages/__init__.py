"""Run the seven DVC stages.

Each reads files, calls the library, writes files and records metrics.
"""

import os

# Must be set before torch loads: spinning OpenMP threads lose most of a step when another process uses a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
