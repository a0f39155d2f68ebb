"""Rows in; TensorBoard's event files and dvclive's folder out, by their own packages, which are an optional extra."""

import importlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from provenlm.core.errors import ProvenlmError
from provenlm.training.loggers.container import MetricLogger

PACKAGES = {"tensorboard": "torch.utils.tensorboard", "dvclive": "dvclive"}


def build_loggers(names: Sequence[str], folder: Path) -> list[MetricLogger]:
    """A sink for each of `wanted`, below `folder`. ProvenlmError naming the extra to install if its package is not there."""
    logger_types: dict[str, Callable[[Path, Any], MetricLogger]] = {"tensorboard": TensorBoardLogger, "dvclive": DVCLiveLogger}
    return [logger_types[name](folder / name, _package(name)) for name in names]


def _package(name: str) -> Any:
    try:
        return importlib.import_module(PACKAGES[name])
    except ImportError:
        raise ProvenlmError(
            f"train.watch: {name} is not installed; `pip install -e '.[watch]'` brings it, [] does without"
        ) from None


class TensorBoardLogger:
    """Every number as a scalar of its name; read by `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path, package: Any) -> None:
        self.folder, self._package = folder, package
        self._writer: Any = None

    def start(self) -> None:
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._writer = self._package.SummaryWriter(str(self.folder), flush_secs=5)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name.replace(".", "/"), value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class DVCLiveLogger:
    """Every number as a metric: `plots/metrics/NAME.tsv` by step, and the newest in metrics.json. DVC and git are left alone."""

    def __init__(self, folder: Path, package: Any) -> None:
        self.folder, self._package = folder, package
        self._live: Any = None

    def start(self) -> None:
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._live = self._package.Live(str(self.folder), save_dvc_exp=False, dvcyaml=None, report=None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """What is not finite is left out: its metrics.json would be no JSON. No folders: grad_norm would be a number and one at once."""
        self._live.step = step
        for name, value in values.items():
            if math.isfinite(value):
                self._live.log_metric(name.replace(".", "_"), value)
        self._live.make_summary()

    def close(self) -> None:
        if self._live is not None:
            self._live.end()
            self._live = None
