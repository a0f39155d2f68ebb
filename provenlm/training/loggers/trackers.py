"""Log to TensorBoard or DVCLive, which are optional packages."""

import importlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from provenlm.core.errors import ConfigError
from provenlm.training.loggers.container import MetricLogger

PACKAGES = {"tensorboard": "torch.utils.tensorboard", "dvclive": "dvclive"}


def build_loggers(names: Sequence[str], folder: Path) -> list[MetricLogger]:
    """Build the named loggers, each with a folder of its own below `folder`.

    Raises ConfigError if a package is not installed.
    """
    logger_types: dict[str, Callable[[Path, Any], MetricLogger]] = {"tensorboard": TensorBoardLogger, "dvclive": DVCLiveLogger}
    return [logger_types[name](folder / name, _package(name)) for name in names]


def _package(name: str) -> Any:
    """Import the package of a logger."""
    try:
        return importlib.import_module(PACKAGES[name])
    except ImportError:
        raise ConfigError(f"train.loggers: {name} is not installed; run `pip install -e '.[loggers]'` or set loggers: []") from None


class TensorBoardLogger:
    """Log every number as a scalar; show them with `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path, package: Any) -> None:
        self.folder, self._package = folder, package
        self._writer: Any = None

    def start(self) -> None:
        """Delete old event files and open a writer."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._writer = self._package.SummaryWriter(str(self.folder), flush_secs=5)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step; dots in names become groups."""
        for name, value in values.items():
            self._writer.add_scalar(name.replace(".", "/"), value, step)

    def close(self) -> None:
        """Close the writer."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class DVCLiveLogger:
    """Log every number as a metric: `plots/metrics/NAME.tsv` and metrics.json.

    DVCLive makes no DVC experiment and no git commit.
    """

    def __init__(self, folder: Path, package: Any) -> None:
        self.folder, self._package = folder, package
        self._live: Any = None

    def start(self) -> None:
        """Delete old files and open a DVCLive run."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._live = self._package.Live(str(self.folder), save_dvc_exp=False, dvcyaml=None, report=None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the finite values of a step.

        metrics.json cannot hold NaN or infinity. Dots in names become underscores: DVCLive makes folders of slashes, and grad_norm would be both
        a file and a folder.
        """
        self._live.step = step
        for name, value in values.items():
            if math.isfinite(value):
                self._live.log_metric(name.replace(".", "_"), value)
        self._live.make_summary()

    def close(self) -> None:
        """Close the run."""
        if self._live is not None:
            self._live.end()
            self._live = None
