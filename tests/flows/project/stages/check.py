"""Whether params.yaml is as the stages want it."""

import sys
from pathlib import Path

from ruamel.yaml import YAML

if not isinstance(steps := YAML(typ="safe").load(Path("params.yaml"))["recipes"]["small"]["train"]["steps"], int):
    sys.exit(f"params.yaml: recipes.small.train.steps: must be a whole number, got {steps!r}")
