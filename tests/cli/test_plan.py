"""The planner on the command line: a table, a section that params takes, and one line for a mistake."""

import re
import sys

import pytest
from ruamel.yaml import YAML

from provenlm.cli import plan
from provenlm.core import config, registry
from provenlm.models.common.spec import Net


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["plan", *words])
    plan.main()
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", ["moe", "gpt"])
def test_the_printed_section_is_the_net_of_the_printed_size(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = printed(monkeypatch, capsys, "40e6..50e6", "--net", kind, "--vocabulary", "8192", "--pick", "2")
    section = YAML(typ="safe").load(said[said.index("    net:") :])["net"]
    net = registry.load_model(section.pop("kind"), Net)
    total = net.count(config.parse(net.settings, section, "net"), 8192)["total"]
    assert 40e6 <= total <= 50e6
    assert f"{total:,}" in re.search(r"^ *2 .*$", said, re.MULTILINE)[0]


@pytest.mark.parametrize("asked", ["180M..220M", "180M to 220M", "180e6..0.22B"])
def test_every_shape_proposed_for_a_budget_lies_in_it_by_its_own_count(
    asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = registry.load_model("moe", Net)
    sizes = plan.sizes_of(asked, "moe", 32_000, 2048, net)
    assert len(sizes) >= 5
    assert all(180e6 <= net.count(plan.settings_of(net, size.net), 32_000)["total"] <= 220e6 for size in sizes)
    said = printed(monkeypatch, capsys, asked)
    assert re.search(r"219,610,240 .* ≈3\.76\*$", said, re.MULTILINE)


def test_a_depth_gives_one_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(monkeypatch, capsys, "3", "--vocabulary", "4096")
    assert "hidden: 192" in said and not re.search(r"^ *2 ", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "line"), [(["eight"], "neither a depth"), (["9..8"], "no range"), (["3", "--pick", "2"], "rows 1 to 1")]
)
def test_a_mistake_ends_in_one_line(words: list[str], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["plan", *words])
    with pytest.raises(SystemExit, match=line):
        plan.main()
