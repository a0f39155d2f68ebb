"""Let tests of commands use the projects that the tests of the stages build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
