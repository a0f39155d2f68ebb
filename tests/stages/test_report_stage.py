"""Test the report stage and its verification as a user runs them: files and exit codes from a folder of audits."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from unittest import mock

import in_process
import pytest

from provenlm.cli import verify
from provenlm.core import audit, config, hashing
from provenlm.core.examples import Example, write_examples
from provenlm.core.paths import ProjectPaths
from stages import runner as stage

ROOT = Path(__file__).resolve().parents[2]
PARAMS = """
corpora:
  words: {domain: strings, scrape: {pages: 3}, filter: {}, dedupe: {}, tokenize: {}}
recipes:
  toy: {corpus: words, domain: strings, base_model: none, model: {}, train: {steps: 7}, validate: {}}
reports:
  proof:
    title: A proof for Grüße
    recipes: [toy]
    corpora: [words]
    schedule: null
    checks:
      toy/validate.loss: {expect: "< toy/validate.bigram", hint: train longer}
      words/scrape.records: {expect: 3..5, hint: look at the site}
"""


def write_stage_audit(folder: Path, subject: str, stage: str, sections: dict, reads: str, writes: str, **metrics: float) -> None:
    """Write an audit as stages.runner does, for a stage that copied one file."""
    (folder / writes).parent.mkdir(parents=True, exist_ok=True)
    (folder / writes).write_text(f"made by {stage}")
    provenance = {
        "command": f"python -m stages.{stage} {subject}",
        "params": sections,
        "params_digest": hashing.sha256_json(sections),
        "inputs": [[reads, hashing.sha256_path(folder / reads)]] if reads else [],
        "outputs": [[writes, hashing.sha256_path(folder / writes)]],
        "code": [],
        "code_digest": hashing.sha256_files([], folder),
        "seed": 1,
    }
    curve = audit.PlotSeries("curve", "line", "loss by step", "step", "nats", [1, 2, 3], {"training": [3.0, 2.0, 1.5]})
    curves = [curve] if stage in ("scrape", "train") else []
    descriptions = {name: audit.Metric(value, "nats", "a metric", "measured") for name, value in metrics.items()}
    audit.write_audit(
        folder / "reports" / "audits" / subject / f"{stage}.json", audit.Audit(subject, stage, descriptions, curves, [], provenance)
    )


def project(tmp_path: Path) -> Path:
    """Create a project whose six stages have run."""
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    write_stage_audit(tmp_path, "words", "scrape", {"corpora.words.scrape": {"pages": 3}}, "", "data/words/scraped", records=4)
    steps = ["scraped", "filtered", "deduped", "tokens"]
    for step, reads, writes in zip(("filter", "dedupe", "tokenize"), steps, steps[1:], strict=False):
        write_stage_audit(
            tmp_path, "words", step, {f"corpora.words.{step}": {}}, f"data/words/{reads}", f"data/words/{writes}", records=4
        )
    write_stage_audit(tmp_path, "toy", "train", {"recipes.toy.train": {"steps": 7}}, "data/words/tokens", "models/toy", loss=1.5)
    write_stage_audit(
        tmp_path, "toy", "validate", {"recipes.toy.validate": {}}, "models/toy", "reports/samples/toy", loss=1.9123456, bigram=2.8
    )
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    return project(tmp_path)


def run(folder: Path, module: str, name: str = "proof") -> subprocess.CompletedProcess[str]:
    with mock.patch.dict(os.environ, {"GIT_DIR": os.devnull}):
        return in_process.run_command(folder, "verify", name) if module == "verify" else in_process.run_stage(folder, module, name)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "reports").glob("proof*")) if p.is_file()} | {
        p.name: p.read_bytes() for p in sorted((folder / "reports" / "proof_files").iterdir())
    }


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Run the report stage once for all tests."""
    folder = project(tmp_path_factory.mktemp("project"))
    result = run(folder, "report")
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


@pytest.fixture
def reported(once, tmp_path):
    """Copy the project with its report, so that a test can change it."""
    return shutil.copytree(once[0], tmp_path / "copy")


def test_it_prints_the_verdict_and_the_path_of_the_page(once):
    _, output = once
    assert "proof: PASS: 2 checks (0 standard, 2 custom): 2 pass, 0 fail, 0 not_run, 0 estimated, 0 not_applicable\n" in output
    assert "reports/proof.md\n" in output


def test_it_writes_page_html_summary_cards_and_plots(reported):
    report_paths = files(reported)
    assert {"proof.md", "proof.html", "proof.json", "proof_versions.json"} <= set(report_paths)
    assert sorted(path.name for path in (reported / "reports" / "proof_cards").iterdir()) == ["toy.md", "words.md"]
    assert [name for name in report_paths if name.endswith(".svg")] == [
        "toy-train.curve.svg", "words-scrape.curve.svg",
    ]  # fmt: skip
    assert "# A proof for Grüße" in report_paths["proof.md"].decode("utf-8")


def test_its_own_audit_counts_the_checks_and_lists_its_inputs(reported):
    own_audit = audit.read_audit(reported / "reports" / "audits" / "proof" / "report.json")
    assert (own_audit.metrics["verdict"].value, own_audit.metrics["checks.pass"].value) == ("PASS", 2)
    assert [path for path, _ in own_audit.provenance["inputs"]] == [
        f"reports/audits/{name}.json"
        for name in ("words/scrape", "words/filter", "words/dedupe", "words/tokenize", "toy/train", "toy/validate")
    ]


def test_a_second_run_writes_the_same_bytes(reported):
    before = files(reported)
    assert run(reported, "report").returncode == 0
    assert files(reported) == before


def test_a_failed_check_is_a_result_and_not_a_crash(folder):
    (folder / "params.yaml").write_text(PARAMS.replace("3..5", "5..9"), encoding="utf-8")
    result = run(folder, "report")
    assert result.returncode == 0 and "proof: FAIL: 2 checks (0 standard, 2 custom): 1 pass, 1 fail" in result.stdout
    assert json.loads((folder / "reports" / "proof.json").read_text())["status"] == "FAIL"
    assert "- `words/scrape.records`: look at the site" in (folder / "reports" / "proof.md").read_text()


def test_a_stage_that_was_not_run_prevents_the_verdict_pass(folder):
    (folder / "reports" / "audits" / "words" / "scrape.json").unlink()
    result = run(folder, "report")
    assert result.returncode == 0 and "proof: NOT RUN: 2 checks (0 standard, 2 custom): 1 pass, 0 fail, 1 not_run" in result.stdout


def test_a_plot_that_no_audit_contains_any_more_is_deleted(reported):
    (reported / "reports" / "audits" / "words" / "scrape.json").unlink()
    assert run(reported, "report").returncode == 0
    assert "words-scrape.curve.svg" not in files(reported)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "3..5",
            "about 4",
            "report@proof: params.yaml: reports.proof.checks.words/scrape.records.expect: must be `a..b`",
        ),
        ("3..5", "5", "report@proof: params.yaml: reports.proof.checks.words/scrape.records.expect: must be text, got 5"),
        (
            "hint: look",
            "advice: look",
            "report@proof: params.yaml: reports.proof.checks.words/scrape.records: unknown key 'advice'",
        ),
        (
            "words/scrape.records",
            "words/scrape.record",
            "report@proof: params.yaml: reports.proof.checks.words/scrape.record: "
            "the audit of words/scrape has no metric 'record' (did you mean 'records'?)",
        ),
    ],
)
def test_a_malformed_check_stops_the_stage_with_one_line(folder, old, new, message):
    (folder / "params.yaml").write_text(PARAMS.replace(old, new), encoding="utf-8")
    result = run(folder, "report")
    assert result.returncode == 1 and result.stderr.startswith(message), result.stderr
    assert not (folder / "reports" / "proof.md").exists()


def test_a_consistent_report_verifies(reported):
    result = run(reported, "verify")
    assert (result.returncode, result.stdout) == (0, "verify proof: no mismatch\n"), result.stdout + result.stderr


def find_mismatches_of(folder: Path) -> list[str]:
    """Return the lines that `provenlm verify proof` would print."""
    layout = ProjectPaths(folder)
    return verify.find_mismatches(stage.StageContext("report", "reports", "proof", layout, config.load_params(layout.params_yaml)))


def replace_in_file(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("reports/proof.md", "[1.912 nats]", "[1.812 nats]", "proof.md: line 13 must be "),
        ("reports/proof.md", "= 1.9123456 nats", "= 1.9123457 nats", "proof.md: line 13 must be "),
        ("reports/proof.html", "**".strip("*") + "PASS</strong>", "FAIL</strong>", "proof.html: line "),
        ("reports/proof.json", '"status": "PASS"', '"status": "FAIL"', "proof.json: line 3 must be "),
        (
            "reports/proof_versions.json",
            '"toy/validate.loss": 1.9123456',
            '"toy/validate.loss": 1.9123457',
            "proof_versions.json: line ",
        ),
        ("reports/proof_files/toy-train.curve.svg", "<path", "<path ", "proof_files/toy-train.curve.svg: line "),
        ("reports/audits/toy/validate.json", '"loss": 1.9123456', '"loss": 1.8123456', "proof.md: line "),
        ("reports/audits/proof/report.json", '"checks.fail": 0', '"checks.fail": 1', "proof/report.checks.fail: must be 0"),
        ("models/toy", "made", "Made", "toy/train: models/toy has changed since it was recorded in the outputs"),
        ("data/words/tokens", "made", "Made", "toy/train: data/words/tokens has changed since it was recorded in the inputs"),
        ("params.yaml", "steps: 7", "steps: 8", "toy/train: recipes.toy.train in params.yaml has changed since the stage ran"),
        ("params.yaml", "3..5", "3..6", "proof/report: reports.proof.checks in params.yaml has changed since the stage ran"),
    ],
)
def test_verification_finds_one_planted_change(reported, file, old, new, fault):
    replace_in_file(reported / file, old, new)
    assert [mismatches for mismatches in find_mismatches_of(reported) if mismatches.startswith(fault)]


def test_verification_finds_an_audit_of_a_different_stage(reported):
    (reported / "reports" / "audits" / "toy" / "train.json").write_bytes(
        (reported / "reports" / "audits" / "toy" / "validate.json").read_bytes()
    )
    result = run(reported, "verify")
    assert result.returncode == 1
    assert "audits/toy/train.json: must be the audit of toy/train, got that of toy/validate\n" in result.stdout
    assert re.search(r"^verify proof: \d+ mismatches$", result.stdout, re.MULTILINE)


def test_changes_since_the_previous_version_are_shown_and_verify(reported):
    write_stage_audit(
        reported, "toy", "validate", {"recipes.toy.validate": {}}, "models/toy", "reports/samples/toy", loss=1.5, bigram=2.8
    )
    assert [fault for fault in find_mismatches_of(reported) if fault.startswith("proof_versions.json: line ")]
    assert run(reported, "report").returncode == 0
    new_page = files(reported)
    summary = new_page["proof.md"].decode().split("## Changes since the previous version")[1]
    assert "= 1.9123456 → 1.5" in summary
    assert find_mismatches_of(reported) == []
    assert run(reported, "report").returncode == 0 and files(reported) == new_page


def test_an_edited_previous_version_is_found(reported):
    write_stage_audit(
        reported, "toy", "validate", {"recipes.toy.validate": {}}, "models/toy", "reports/samples/toy", loss=1.5, bigram=2.8
    )
    assert run(reported, "report").returncode == 0
    replace_in_file(reported / "reports" / "proof_versions.json", "1.9123456", "2.9123456")
    mismatches = find_mismatches_of(reported)
    assert [fault for fault in mismatches if fault.startswith("proof.md: line ")]
    assert "proof/report: reports/proof_versions.json has changed since it was recorded in the outputs" in mismatches


def test_an_audit_edited_before_the_report_was_rendered_is_found(reported):
    audits = sorted((reported / "reports" / "audits").glob("*/*.json"))
    recorded = {p.relative_to(reported).as_posix(): hashlib.md5(p.read_bytes()).hexdigest() for p in audits}
    outs = "".join(f"    - path: {path}\n      hash: md5\n      md5: {md5}\n" for path, md5 in recorded.items())
    (reported / "dvc.lock").write_text(f"schema: '2.0'\nstages:\n  all:\n    cmd: x\n    outs:\n{outs}")
    assert find_mismatches_of(reported) == []
    replace_in_file(reported / "reports" / "audits" / "toy" / "validate.json", '"loss": 1.9123456', '"loss": 0.9123456')
    assert run(reported, "report").returncode == 0
    assert find_mismatches_of(reported) == [
        "toy/validate: reports/audits/toy/validate.json differs from the file that dvc.lock records"
    ]


def test_a_check_in_the_summary_carries_its_provenance(reported):
    check, _ = json.loads((reported / "reports" / "proof.json").read_text(encoding="utf-8"))["checks"]
    audit_json = reported / "reports" / "audits" / "toy" / "validate.json"
    provenance = audit.read_audit(audit_json).provenance
    assert (check["id"], check["value"], check["unit"], check["kind"]) == ("toy/validate.loss", 1.9123456, "nats", "measured")
    assert (check["expect"], check["audit"]) == ("< toy/validate.bigram", "audits/toy/validate.json")
    assert check["digest"] == hashing.sha256_file(audit_json)
    for fact in ("command", "params_digest", "code_digest", "seed"):
        assert check[fact] == provenance[fact]
    assert {"commit", "dirty", "device", "versions", "started"} <= set(check)


def test_examples_are_embedded_and_an_edited_one_is_found(folder):
    samples, audit_json = folder / "reports" / "samples" / "toy", folder / "reports" / "audits" / "toy" / "validate.json"
    old_digest = hashing.sha256_path(samples)
    samples.unlink()
    write_examples(samples, [Example("sample-1", "Samples", "Sample 1", True, 0, {".txt": b"a text of the model"})])
    replace_in_file(audit_json, old_digest, hashing.sha256_path(samples))
    assert run(folder, "report").returncode == 0
    assert "<pre>a text of the model</pre>" in (folder / "reports" / "proof.html").read_text()
    own_audit = audit.read_audit(folder / "reports" / "audits" / "proof" / "report.json")
    assert "reports/samples/toy" in [path for path, _ in own_audit.provenance["inputs"]]
    assert find_mismatches_of(folder) == []
    replace_in_file(samples / "sample-1.txt", "model", "mouse")
    mismatches = find_mismatches_of(folder)
    assert "toy/validate: reports/samples/toy has changed since it was recorded in the outputs" in mismatches
    assert [fault for fault in mismatches if fault.startswith("proof.html: line ")]


def test_a_report_covers_a_family_of_recipes(folder):
    three = "\n".join(
        f"  toys/{name}: {{corpus: words, domain: strings, base_model: none, model: {{}}, train: {{steps: 7}}, validate: {{}}}}"
        for name in "abc"
    )
    summary = re.sub(r"  toy: .*", three, PARAMS).replace("recipes: [toy]", "recipes: [toys]").replace("toy/", "toys/b/")
    (folder / "params.yaml").write_text(summary, encoding="utf-8")
    for name in "abc":
        recipe = f"toys/{name}"
        write_stage_audit(
            folder, recipe, "train", {f"recipes.{recipe}.train": {"steps": 7}}, "data/words/tokens", f"models/{recipe}", loss=1.5
        )
        write_stage_audit(
            folder,
            recipe,
            "validate",
            {f"recipes.{recipe}.validate": {}},
            f"models/{recipe}",
            f"reports/samples/{recipe}",
            loss=1.9,
            bigram=2.8,
        )
    assert run(folder, "report").returncode == 0
    page = (folder / "reports" / "proof.md").read_text(encoding="utf-8")
    assert all(f"### toys/{name}/train" in page for name in "abc") and "### toy/train" not in page
    assert "toys/b/validate.loss = 1.9 nats" in page and "proof_cards/toys-b.md" in page
    assert find_mismatches_of(folder) == []
