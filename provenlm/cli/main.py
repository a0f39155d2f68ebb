"""Run a sub-command of `provenlm`.

`provenlm --help` lists all of them with an example each.
"""

import argparse
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType, ModuleType

from provenlm.core.errors import ProvenlmError

EXIT_CODES = """exit status:
  0         done
  1         a setting is wrong, a stage failed, or a report does not match its files (one line on standard error)
  2         wrong usage, or `build --require-pass` and a report did not pass
  130, 143  interrupted by Ctrl-C or SIGTERM; checkpoints and finished stages are kept"""


@dataclass(frozen=True)
class Command:
    """Describe a sub-command: its name, what it does and an example call."""

    name: str
    summary: str
    example: str

    def load(self) -> ModuleType:
        """Import the command's module.

        It has `add_arguments(parser)` and `main(args) -> int`.
        """
        return importlib.import_module(f"provenlm.cli.{self.name.replace('-', '_')}")


GROUPS = {
    "begin": (
        Command(
            "new",
            "look at your data and write a corpus, a recipe and a report",
            "provenlm new my_docs ~/documents --minutes 3",
        ),
    ),
    "build": (
        Command("build", "build reports and all stages they depend on", "provenlm build docs_verification --jobs 2"),
        Command("refresh", "scrape again, rebuild, and publish unless the model regressed", "provenlm refresh docs_verification"),
        Command("serve", "start the Prefect UI and serve builds and scheduled refreshes", "provenlm serve --port 4200"),
        Command("status", "show running and scheduled runs and published versions", "provenlm status"),
    ),
    "configure": (
        Command("check", "check every setting of params.yaml and run nothing", "provenlm check"),
        Command("plan", "suggest model sizes and print a `model` section", "provenlm plan 180M..220M --arch moe"),
    ),
    "use a model": (
        Command("generate", "continue prompts with a trained model", 'provenlm generate docs_moe --prompt "def "'),
        Command(
            "continue-training",
            "train some more steps from a checkpoint",
            "provenlm continue-training docs_moe --checkpoint models/docs_moe/checkpoints/step-00000200 --steps 50",
        ),
        Command("export", "write a model for Hugging Face transformers", "provenlm export docs_moe exported/docs_moe"),
        Command("solve", "solve ARC tasks and write a submission", "provenlm solve arc-agi_test_challenges.json --minutes 60"),
        Command(
            "compare", "compare the models of two checkouts on common validation records", "provenlm compare docs_moe ../other"
        ),
    ),
    "use a corpus": (
        Command(
            "export-corpus",
            "write a corpus as a folder that `datasets.load_dataset` reads",
            "provenlm export-corpus python_docs exported/python_docs",
        ),
    ),
    "verify": (Command("verify", "check a report against its files, audits and settings", "provenlm verify docs_verification"),),
}
COMMANDS = {command.name: command for commands in GROUPS.values() for command in commands}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sub-command named on the command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(format_help())
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"provenlm {version('provenlm')}")
        return 0
    if name not in COMMANDS:
        print(f"provenlm: unknown command {name!r}; commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return run_command(name, lambda: _run(COMMANDS[name], arguments[1:]))


def format_help() -> str:
    """Return the help text: commands by group, an example for each, and exit codes."""
    lines = ["usage: provenlm COMMAND [ARGUMENT …]", "       provenlm COMMAND --help", ""]
    for group, commands in GROUPS.items():
        lines.append(f"{group}:")
        for command in commands:
            lines += [f"  {command.name:<18}{command.summary}", f"  {'':<18}example: {command.example}"]
        lines.append("")
    return "\n".join([*lines, EXIT_CODES])


def run_command(name: str, command: Callable[[], int]) -> int:
    """Run `command` and return its exit status.

    It is 1, with a one-line message, after a ProvenlmError, and 130 after Ctrl-C.
    """
    # a shell starts background jobs with SIGINT ignored, and the stages would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        return command()
    except ProvenlmError as error:
        print(f"provenlm {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"provenlm {name}: interrupted; run the same command again to resume", file=sys.stderr)
        return 128 + signal.SIGINT


def _run(command: Command, arguments: Sequence[str]) -> int:
    module = command.load()
    parser = argparse.ArgumentParser(
        prog=f"provenlm {command.name}",
        description=f"{command.summary[0].upper()}{command.summary[1:]}.",
        epilog=f"example: {command.example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    status: int = module.main(parser.parse_args(arguments))
    return status


def _exit_on_signal(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)
