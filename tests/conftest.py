"""Set the environment and the order of all tests.

Each worker of pytest-xdist has one thread, as the workers share the cores.
"""

import os
from pathlib import Path

import pytest

os.environ["DVC_NO_ANALYTICS"] = "1"  # each command would start another process for its report, which takes a second
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The longest files, in the order in which workers take them; one that started last would run alone.
LONGEST = (
    "stages/test_train_stage.py",
    "flows/test_build.py",
    "contracts/test_toy_plugins.py",
    "flows/test_refresh.py",
    "test_pipeline.py",
    "stages/test_report_stage.py",
    "test_docs.py",
    "training/test_distributed.py",
    "flows/test_dvc_runner.py",
    "flows/test_remotes.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the longest files to the front."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
