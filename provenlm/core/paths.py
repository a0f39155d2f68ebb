"""Where everything lies. The only file that joins paths of the project."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProjectPaths:
    """Paths below the project's root (the folder that holds dvc.yaml)."""

    root: Path

    @property
    def params_yaml(self) -> Path:
        return self.root / "params.yaml"

    @property
    def dvc_lock(self) -> Path:
        """What DVC noted of every stage that it ran."""
        return self.root / "dvc.lock"

    def corpus_dir(self, name: str, step: str) -> Path:
        """A corpus at one step of its life: scraped (beside it `fetches`, what became of each address), filtered, deduped or tokens."""
        return self.root / "data" / name / step

    def crawl_state_dir(self, corpus: str) -> Path:
        """What a scrape remembers between runs; DVC must not delete it, so it is no out."""
        return self.root / "data" / ".state" / corpus

    def model_dir(self, recipe: str) -> Path:
        return self.root / "models" / recipe

    def resume_dir(self, recipe: str) -> Path:
        """Checkpoints of an unfinished training: outside the outs, which DVC deletes before a stage runs."""
        return self.root / "models" / ".resume" / recipe

    def log_dir(self, recipe: str) -> Path:
        """Files for TensorBoard and dvclive, which are read while training runs; no out, so DVC does not delete them before."""
        return self.root / "models" / ".watch" / recipe

    def curves_csv(self, recipe: str) -> Path:
        return self.root / "reports" / "curves" / f"{recipe}.csv"

    def samples_parquet(self, recipe: str) -> Path:
        return self.root / "reports" / "samples" / f"{recipe}.parquet"

    def audit_json(self, subject: str, stage: str) -> Path:
        return self.root / "reports" / "audits" / subject / f"{stage}.json"

    def report_file(self, name: str, suffix: str) -> Path:
        return self.root / "reports" / f"{name}.{suffix}"

    def snapshot_file(self, report: str) -> Path:
        """What a report says now and said before."""
        return self.root / "reports" / f"{report}_versions.json"

    def report_files(self, report: str) -> list[Path]:
        """The files of a report but for its plots."""
        return [*(self.report_file(report, suffix) for suffix in ("md", "html", "json")), self.snapshot_file(report)]

    def plots_dir(self, report: str) -> Path:
        return self.root / "reports" / f"{report}_files"

    def worktree(self, name: str) -> Path:
        """A further checkout of the project, beside the first: for overrides, for a refresh."""
        return self.root / ".worktrees" / name

    def cards_dir(self, report: str) -> Path:
        """A card for each recipe and each corpus of a report."""
        return self.root / "reports" / f"{report}_cards"

    def stage_log(self, stage: str) -> Path:
        """All that the last run of a stage (`train@docs_moe`) said, when a flow ran it."""
        return self.root / ".prefect" / "logs" / f"{stage}.log"

    def file_lock(self, name: str) -> Path:
        """Held by a flow while it works on `name`; below a folder that DVC keeps out of git."""
        return self.root / ".dvc" / "tmp" / f"flow-{name}.lock"
