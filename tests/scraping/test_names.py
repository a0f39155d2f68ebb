import pytest

from provenlm.core.config import Params
from provenlm.core.errors import ConfigError
from provenlm.scraping.names import check_name, check_names


@pytest.mark.parametrize("name", ["docs", "my-docs_2", "v1.5", "music/bach", "0", "a" * 100])
def test_a_plain_name_is_allowed(name: str) -> None:
    check_name("params.yaml", "corpora", name)


@pytest.mark.parametrize(
    "name",
    [
        "../escape",
        "..",
        ".",
        "",
        ".state",
        "/etc",
        "a/../b",
        "a//b",
        "a/",
        "x;touch y #",
        "x y",
        "$(id)",
        "a@b",
        "-rf",
        "a\nb",
        "é",
        "a" * 101,
        7,
    ],
)
@pytest.mark.parametrize("table", ["corpora", "recipes", "reports"])
def test_a_name_that_could_leave_its_folder_or_reach_a_shell_is_refused(table: str, name: object) -> None:
    tables = {"corpora": {}, "recipes": {}, "reports": {}} | {table: {name: {}}}
    with pytest.raises(ConfigError, match=f"^params.yaml: {table}: a name must be letters, digits, [^\n]*, got [^\n]*$"):
        check_names(Params("params.yaml", tables))
