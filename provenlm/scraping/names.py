"""Check the names of corpora, recipes and reports.

They become folders and words of a shell command.
"""

import re

from provenlm.core.config import Params
from provenlm.core.errors import ConfigError

MAX_NAME_CHARS = 100
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def check_names(params: Params) -> None:
    """Raise ConfigError for the first name in params.yaml that is not allowed."""
    for table in params.tables:
        for name in params.names(table):
            check_name(params.file, table, name)


def check_name(file: str, table: str, name: object) -> None:
    """Raise ConfigError if the name of an entry is not allowed.

    It could leave its folder, or be more than one word of a shell.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        shown = repr(name) if len(str(name)) <= MAX_NAME_CHARS else f"{str(name)[:20]!r}… of {len(str(name))} characters"
        raise ConfigError(
            f"{file}: {table}: a name must be letters, digits, `.`, `_` and `-`, with `/` between parts that begin with a letter or digit, "
            f"at most {MAX_NAME_CHARS} characters, got {shown}"
        )
