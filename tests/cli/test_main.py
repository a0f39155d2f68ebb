"""Test the console script: help, exit statuses and imports."""

import argparse
import inspect
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from provenlm.cli import main as cli
from provenlm.core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
COMMANDS_DIR = ROOT / "provenlm" / "cli"
SUPPORT_MODULES = {"__init__", "__main__", "main", "console", "load_model", "prompts"}  # neither is a command


def test_help_lists_every_command_by_group_with_an_example_and_the_exit_codes():
    text = cli.format_help()
    for group, commands in cli.GROUPS.items():
        assert f"\n{group}:\n" in text
        assert all(f"example: {command.example}\n" in text for command in commands)
    assert text.endswith(cli.EXIT_CODES)


def test_help_imports_neither_torch_nor_prefect():
    code = (
        "import sys; from provenlm.cli.main import main; main(['--help']);"
        "print(sorted({'torch', 'prefect', 'dvc', 'transformers', 'pandas'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_every_module_of_the_package_is_a_command_or_known_support():
    names = {path.stem for path in COMMANDS_DIR.glob("*.py")} - SUPPORT_MODULES
    assert names == {name.replace("-", "_") for name in cli.COMMANDS}


@pytest.mark.parametrize("command", cli.COMMANDS.values(), ids=lambda command: command.name)
def test_the_example_of_a_command_parses(command):
    module = command.load()
    assert list(inspect.signature(module.main).parameters) == ["args"]
    program, name, *arguments = shlex.split(command.example)
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    parser.parse_args(arguments)
    assert (program, name) == ("provenlm", command.name)


def test_a_command_has_its_own_help_with_example_and_exit_codes(capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["refresh", "--help"])
    output = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert "usage: provenlm refresh" in output and "example: provenlm refresh" in output and cli.EXIT_CODES in output


def test_an_unknown_command_exits_with_2_and_names_the_commands(capsys):
    assert cli.main(["biuld"]) == 2
    assert capsys.readouterr().err.startswith("provenlm: unknown command 'biuld'; commands: new, build, ")


@pytest.fixture
def restored_signals():
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("restored_signals")
@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("params.yaml: x must be > 0, got 0"), 1, "provenlm build: params.yaml: x must be > 0, got 0\n"),
        (KeyboardInterrupt(), 130, "provenlm build: interrupted; run the same command again to resume\n"),
    ],
)
def test_a_mistake_and_an_interrupt_are_one_line_and_an_exit_status(capsys, error, status, message):
    def command() -> int:
        raise error

    assert cli.run_command("build", command) == status
    assert capsys.readouterr().err == message


@pytest.mark.usefixtures("restored_signals")
def test_a_bug_is_not_taken_for_a_mistake_of_the_user():
    with pytest.raises(ZeroDivisionError):
        cli.run_command("build", lambda: 1 // 0)
