"""Test README and docs: generated blocks match real output, links resolve, and quoted configurations are valid."""

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from in_process import run_command

from provenlm.reporting.markdown import slug

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^) ]+)(?: \"[^\"]*\")?\)")
CONFIG = re.compile(r"<!-- checked: params -->\n```yaml\n(.*?)```", re.DOTALL)


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()
PAGES = [*GENERATOR.pages(), ROOT / "tests" / "requirements.md"]


def prose(page: Path) -> str:
    """Return the text of a page without its code blocks."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    return {slug(line.lstrip("# ")) for line in prose(page).splitlines() if line.startswith("#")}


def broken_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead to no file or heading."""
    broken = []
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        if "://" in target or path.startswith("../../actions"):  # an external link, or a page of the hosting service
            continue
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_resolves(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", GENERATOR.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_generated_blocks_match_real_output(page):
    assert GENERATOR.generate(page) == page.read_text(encoding="utf-8"), "run: python docs/generate.py"


def test_every_page_of_the_docs_is_listed_in_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(prose(index))}
    listed = {page for page in (ROOT / "docs").rglob("*.md") if page in linked or page.parent in linked}
    assert set((ROOT / "docs").rglob("*.md")) - listed == {index}


def configs() -> list[tuple[str, str]]:
    return [
        (f"{page.relative_to(ROOT).as_posix()}:{i}", text)
        for page in PAGES
        for i, text in enumerate(CONFIG.findall(page.read_text("utf-8")))
    ]


def run_check(folder: Path, config: str) -> subprocess.CompletedProcess[str]:
    (folder / "docs").mkdir()
    (folder / "params.yaml").write_text(config, encoding="utf-8")
    return run_command(folder, "check")


@pytest.mark.parametrize(("name", "config"), configs(), ids=[name for name, _ in configs()])
def test_quoted_configurations_are_valid(tmp_path, name, config):
    result = run_check(tmp_path, config)
    assert (result.returncode, result.stderr) == (0, "")


def test_an_invalid_quoted_configuration_is_found(tmp_path):
    (_, config), *_ = configs()
    result = run_check(tmp_path, config.replace("max_steps", "max_step"))
    assert result.returncode == 1 and "unknown key 'max_step'" in result.stderr


def test_a_block_with_a_wrong_number_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(GENERATOR, "ROOT", tmp_path)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "toy.json").write_text(
        '{"command": "python benchmarks/toy.py", "rows": [{"name": "ours", "value": 2.0, "unit": "s", "ratio": 0.5}]}'
    )
    page = tmp_path / "README.md"
    page.write_text("<!-- generated: benchmark toy -->\n\n| ours | 1 s |\n<!-- end -->\n")
    filled = GENERATOR.generate(page)
    assert "| ours | 2 s | 0.5 × |" in filled and "1 s" not in filled and "`python benchmarks/toy.py`" in filled
    page.write_text(filled)
    assert GENERATOR.generate(page) == filled


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "a.md"
    page.write_text("# A b\n\n[good](#a-b) [bad](#c) [worse](b.md) [external](https://example.org/x)\n")
    assert broken_links(page) == ["#c", "b.md"]
