"""Define the paths of the project. No other module joins them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProjectPaths:
    """Build paths below the project root, the folder that holds dvc.yaml."""

    root: Path

    @property
    def params_yaml(self) -> Path:
        """Return the configuration file."""
        return self.root / "params.yaml"

    @property
    def dvc_lock(self) -> Path:
        """Return the file where DVC records every stage that it ran."""
        return self.root / "dvc.lock"

    def corpus_dir(self, name: str, step: str) -> Path:
        """Return the folder of a corpus after `step`.

        The steps are "fetches" (outcome of each URL), "scraped", "filtered", "deduped" and "tokens".
        """
        return self.root / "data" / name / step

    def crawl_state_dir(self, corpus: str) -> Path:
        """Return the folder that a scrape keeps between runs.

        It is no DVC out, because DVC deletes outs before a stage runs.
        """
        return self.root / "data" / ".state" / corpus

    def model_dir(self, recipe: str) -> Path:
        """Return the folder of a finished training."""
        return self.root / "models" / recipe

    def base_model_dir(self, name: str) -> Path:
        """Return the folder of a base model to start training from.

        `name` is a recipe, "base/NAME" for weights from elsewhere, or "none", whose folder has no weights.
        """
        return self.root / "models" / name

    def resume_dir(self, recipe: str) -> Path:
        """Return the folder with the checkpoints of an unfinished training.

        It is no DVC out, because DVC deletes outs.
        """
        return self.root / "models" / ".resume" / recipe

    def log_dir(self, recipe: str) -> Path:
        """Return the folder for TensorBoard and DVCLive, which read it during training.

        It is no DVC out.
        """
        return self.root / "models" / ".logs" / recipe

    def curves_csv(self, recipe: str) -> Path:
        """Return the training curves that DVC plots."""
        return self.root / "reports" / "curves" / f"{recipe}.csv"

    def samples_dir(self, recipe: str) -> Path:
        """Return the folder with the texts and the examples of validation."""
        return self.root / "reports" / "samples" / recipe

    def samples_parquet(self, recipe: str) -> Path:
        """Return the texts that validation generated."""
        return self.samples_dir(recipe) / "texts.parquet"

    def audit_json(self, subject: str, stage: str) -> Path:
        """Return the audit of one stage of a corpus, recipe or report."""
        return self.root / "reports" / "audits" / subject / f"{stage}.json"

    def report_file(self, name: str, suffix: str) -> Path:
        """Return a file of a report; `suffix` is "md", "html" or "json"."""
        return self.root / "reports" / f"{name}.{suffix}"

    def snapshot_file(self, report: str) -> Path:
        """Return the file with a report's current and previous metric snapshots."""
        return self.root / "reports" / f"{report}_versions.json"

    def report_files(self, report: str) -> list[Path]:
        """List the files of a report, without plots and cards."""
        return [*(self.report_file(report, suffix) for suffix in ("md", "html", "json")), self.snapshot_file(report)]

    def plots_dir(self, report: str) -> Path:
        """Return the folder with the plots of a report."""
        return self.root / "reports" / f"{report}_files"

    def worktree(self, name: str) -> Path:
        """Return a second checkout of the project, used for overrides and refreshes."""
        return self.root / ".worktrees" / name

    def cards_dir(self, report: str) -> Path:
        """Return the folder with a card for each recipe and corpus of a report."""
        return self.root / "reports" / f"{report}_cards"

    def stage_log(self, stage: str) -> Path:
        """Return the output of the last run of a stage that a flow started.

        `stage` is a name such as "train@docs_moe".
        """
        return self.root / ".prefect" / "logs" / f"{stage}.log"

    def file_lock(self, name: str) -> Path:
        """Return the lock that a flow holds while it works on `name`.

        It lies in a folder that DVC ignores in git.
        """
        return self.root / ".dvc" / "tmp" / f"flow-{name}.lock"
