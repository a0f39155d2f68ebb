"""Test `provenlm plan`: its table, its `model` section and its errors."""

import re

import pytest
from ruamel.yaml import YAML

from provenlm.cli import plan
from provenlm.core import registry
from provenlm.core.config import parse_config
from provenlm.models.common.spec import ModelSpec


@pytest.mark.parametrize("arch", ["moe", "gpt"])
def test_the_printed_section_is_the_model_of_the_printed_size(arch, run_cli):
    _, output, _ = run_cli("plan", "40e6..50e6", "--arch", arch, "--vocab-size", "8192", "--pick", "2")
    section = YAML(typ="safe").load(output[output.index("    model:") :])["model"]
    spec = registry.load_model(section.pop("arch"), ModelSpec)
    total = spec.num_params(parse_config(spec.config_type, section, "model"), 8192)["total"]
    assert 40e6 <= total <= 50e6
    assert f"{total:,}" in re.search(r"^ *2 .*$", output, re.MULTILINE)[0]


@pytest.mark.parametrize("budget", ["180M..220M", "180M to 220M", "180e6..0.22B"])
def test_every_suggested_model_is_within_the_parameter_budget(budget, run_cli):
    spec = registry.load_model("moe", ModelSpec)
    sizes = plan.parse_sizes(budget, "moe", 32_000, 2048, spec)
    assert len(sizes) >= 5
    assert all(180e6 <= spec.num_params(plan.parse_model_config(spec, size.model), 32_000)["total"] <= 220e6 for size in sizes)
    _, output, _ = run_cli("plan", budget)
    assert re.search(r"219,610,240 .* -$", output, re.MULTILINE)


def test_a_depth_gives_one_row(run_cli):
    _, output, _ = run_cli("plan", "3", "--vocab-size", "4096")
    assert "hidden_size: 192" in output and not re.search(r"^ *2 ", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eight"], "provenlm plan: size: must be a depth such as 8 or a range such as 180e6..220e6, got 'eight'"),
        (["9..8"], "provenlm plan: size: "),
        (["3", "--pick", "2"], "provenlm plan: --pick: must be 1 to 1, got 2"),
    ],
)
def test_an_invalid_size_is_a_one_line_error(words, message, run_cli):
    status, _, errors = run_cli("plan", *words)
    assert status == 1 and errors.startswith(message) and errors.count("\n") == 1
