"""The planner on the command line: a table, a section that params takes, and one line for a mistake."""

import re
import sys

import pytest
from ruamel.yaml import YAML

from provenlm.cli import plan
from provenlm.core import config, registry
from provenlm.models.common.spec import ModelSpec


def run_plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["plan", *words])
    plan.main()
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", ["moe", "gpt"])
def test_the_printed_section_is_the_net_of_the_printed_size(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = run_plan(monkeypatch, capsys, "40e6..50e6", "--net", kind, "--vocabulary", "8192", "--pick", "2")
    section = YAML(typ="safe").load(output[output.index("    net:") :])["net"]
    net = registry.load_model(section.pop("kind"), ModelSpec)
    total = net.num_params(config.parse_config(net.config_type, section, "net"), 8192)["total"]
    assert 40e6 <= total <= 50e6
    assert f"{total:,}" in re.search(r"^ *2 .*$", output, re.MULTILINE)[0]


@pytest.mark.parametrize("asked", ["180M..220M", "180M to 220M", "180e6..0.22B"])
def test_every_shape_proposed_for_a_budget_lies_in_it_by_its_own_count(
    asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = registry.load_model("moe", ModelSpec)
    sizes = plan.parse_sizes(asked, "moe", 32_000, 2048, net)
    assert len(sizes) >= 5
    assert all(180e6 <= net.num_params(plan.parse_model_config(net, size.model), 32_000)["total"] <= 220e6 for size in sizes)
    output = run_plan(monkeypatch, capsys, asked)
    assert re.search(r"219,610,240 .* ≈3\.76\*$", output, re.MULTILINE)


def test_a_depth_gives_one_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    output = run_plan(monkeypatch, capsys, "3", "--vocabulary", "4096")
    assert "hidden: 192" in output and not re.search(r"^ *2 ", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "line"), [(["eight"], "neither a depth"), (["9..8"], "no range"), (["3", "--pick", "2"], "rows 1 to 1")]
)
def test_a_mistake_ends_in_one_line(words: list[str], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["plan", *words])
    with pytest.raises(SystemExit, match=line):
        plan.main()
