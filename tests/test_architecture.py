"""The house stands as drawn: imports go down, dvc.yaml tracks the code that a stage runs, every setting is read."""

import ast
import dataclasses
import importlib
import inspect
import re
import sys
import tomllib
import typing
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from provenlm.core import registry

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    {"core"},
    {"scraping", "filtering", "dedup", "data", "reporting"},
    {"tokenizers", "models"},
    {"scaling"},
    {"training"},
    {"evaluation"},
    {"domains"},
    {"cli"},
]
PACKAGES = [ROOT / "provenlm", ROOT / "stages", ROOT / "flows"]
SPECS = {"scrape": "domains", "filter": "domains", "dedupe": "domains", "tokenize": "domains", "evaluate": "domains", "": "models"}


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    modules_by_name = {}
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            modules_by_name[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules_by_name


MODULES = modules()


@cache
def imports(path: Path) -> frozenset[str]:
    """The project's modules that `path` imports, at the top or inside a function; packages only where a module is not meant."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which floor they reach"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            imported.update(inner or {node.module or ""})
    return frozenset(imported & MODULES.keys())


def package(module: str) -> str:
    """The package of a module of `provenlm`: `core`, `training`, …"""
    return module.split(".")[1] if module.count(".") else ""


def layer(module: str) -> int:
    return next((i for i, packages in enumerate(LAYERS) if package(module) in packages), -1)


def import_fault(importer: str, imported: str) -> str | None:
    """Why `importer` may not import `imported`, or None."""
    tops = (importer.split(".")[0], imported.split(".")[0])
    if package(importer) == "cli" and tops[0] == "provenlm":
        return None
    if package(imported) == "cli" and tops[1] == "provenlm":
        return "nothing imports the command line"
    if tops[0] == "flows":
        return None if tops[1] == "flows" or package(imported) == "core" else "flows know only core; DVC runs the rest"
    if tops[0] == "stages":
        return "stages do not start flows" if tops[1] == "flows" else None
    if tops[1] != "provenlm":
        return "the library imports neither stages nor flows"
    if package(importer) == package(imported):
        folders = [module.split(".")[2] if module.count(".") > 1 else "" for module in (importer, imported)]
        plugins = set(registry.plugin_names(package(importer))) if package(importer) in registry.MARKERS else set()
        if folders[1] in plugins and folders[0] != folders[1]:
            return "a plug-in is imported by itself alone; others load it by name"
        return None
    return None if layer(imported) < layer(importer) else "an import goes down, never up or sideways"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module):
    wrong = {other: import_fault(module, other) for other in imports(MODULES[module]) if import_fault(module, other)}
    assert not wrong


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("provenlm.core.audit", "provenlm.filtering.scoring"),
        ("provenlm.filtering.scoring", "provenlm.scraping.crawl.crawler"),
        ("provenlm.training.loop", "provenlm.evaluation.probe"),
        ("provenlm.models.common.spec", "provenlm.models.gpt.spec"),
        ("provenlm.models.gpt.spec", "provenlm.models.moe.spec"),
        ("stages.train", "provenlm.cli.verify"),
        ("provenlm.domains.text.filter.spec", "provenlm.domains.strings.filter.spec"),
        ("provenlm.training.loop", "stages.runner"),
        ("flows.build", "provenlm.training.loop"),
    ],
)
def test_a_planted_upward_or_sideways_import_is_seen(importer, imported):
    assert import_fault(importer, imported)


def test_every_room_has_a_floor():
    packages = {path.parent.name for path in (ROOT / "provenlm").glob("*/__init__.py")}
    assert packages == set().union(*LAYERS)


@pytest.mark.parametrize(
    "path", sorted(p for room in PACKAGES for p in room.rglob("__init__.py")), ids=lambda p: p.parent.as_posix()[-30:]
)
def test_a_package_file_is_a_sentence_and_no_code(path):
    kinds = [type(node) for node in ast.parse(path.read_text(encoding="utf-8")).body]
    setting = [ast.Import, ast.Expr] if path.parent == ROOT / "stages" else []  # what must be said before torch loads
    assert kinds == [ast.Expr, *setting]


def plugin_modules(path: Path, plugins: dict[str, str]) -> set[str]:
    """Modules that `path` loads through the registry, for the domain and the model that the subject names."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "registry.load_domain":
            stage = node.args[1]
            assert isinstance(stage, ast.Constant), f"{path}: the stage must be a literal"
            modules.add(f"provenlm.domains.{plugins['domains']}.{stage.value}.spec")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "registry.load_model":
            modules.add(f"provenlm.models.{plugins['models']}.spec")
    return modules


def closure(stage: str, plugins: dict[str, str]) -> set[str]:
    """Files of the project that `stages/<stage>.py` can import, plug-ins included, package sentences left out."""
    reached: set[str] = set()
    todo = [f"stages.{stage}"]
    while todo:
        module = todo.pop()
        if module in reached:
            continue
        reached.add(module)
        path = MODULES[module]
        todo += imports(path) | plugin_modules(path, plugins)
    return {p.relative_to(ROOT).as_posix() for m in reached if (p := MODULES[m]).name != "__init__.py"}


def dvc_stages() -> list[tuple[str, dict[str, str], list[str]]]:
    """(stage, the plug-ins of its subject, code deps) of every stage as DVC resolves dvc.yaml."""
    from dvc.repo import Repo
    from ruamel.yaml import YAML

    params = YAML(typ="safe").load(ROOT / "params.yaml")
    stages = []
    with Repo(str(ROOT)) as repo:
        for stage in repo.index.stages:
            kind, subject = stage.addressing.split("@")
            row = {**params["corpora"], **params["recipes"], **params["reports"]}[subject]
            plugins = {"domains": row.get("domain", ""), "models": row.get("net", {}).get("kind", "")}
            deps = [d.def_path for d in stage.deps if d.protocol == "local" and d.def_path.startswith(("stages/", "provenlm/"))]
            stages.append((kind, plugins, deps))
    return stages


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(dep + "/")


def test_dvc_tracks_exactly_the_code_that_each_stage_can_import():
    for kind, plugins, deps in dvc_stages():
        files = closure(kind, plugins)
        assert not [f for f in files if not any(covers(dep, f) for dep in deps)], f"{kind}: imported, not in dvc.yaml's deps"
        assert not [dep for dep in deps if not any(covers(dep, f) for f in files)], f"{kind}: in dvc.yaml's deps, never imported"


def test_the_closure_follows_imports_inside_functions_and_plugins():
    files = closure("filter", {"domains": "text", "models": ""})
    assert {"stages/filter.py", "stages/runner.py", "provenlm/domains/text/filter/spec.py", "provenlm/core/audit.py"} <= files
    assert not [f for f in files if f.startswith(("provenlm/scraping", "provenlm/training", "provenlm/domains/strings"))]


def config_classes() -> list[type]:
    """Every dataclass that params.yaml is parsed into, found from the faces of every plug-in and the stages' own settings."""
    classes: set[type] = set()
    todo = [
        spec.settings
        for package in ("domains", "models")
        for name in registry.plugin_names(package)
        for spec in specs_of(package, name)
    ]
    for stage in ("train", "validate", "report"):
        source = MODULES[f"stages.{stage}"].read_text(encoding="utf-8")
        module = importlib.import_module(f"stages.{stage}")
        todo += [
            eval(name, vars(module))
            for name in re.findall(r"run\.settings\(\"\w+\", ([A-Za-z_.]+)\)", source)
            if not name.startswith("face")
        ]
    while todo:
        kind = todo.pop()
        if dataclasses.is_dataclass(kind) and kind not in classes:
            classes.add(typing.cast(type, kind))
            todo += [arg for hint in typing.get_type_hints(kind).values() for arg in flattened(hint)]
    return sorted(classes, key=lambda c: (c.__module__, c.__qualname__))


def flattened(hint: typing.Any) -> list[typing.Any]:
    return [hint, *(inner for arg in typing.get_args(hint) for inner in flattened(arg))]


def specs_of(package: str, name: str) -> list[typing.Any]:
    folder = ROOT / "provenlm" / package / name
    return [
        importlib.import_module(".".join(filter(None, ("provenlm", package, name, stage, "spec")))).SPEC
        for stage, package in SPECS.items()
        if package == package and (folder / stage / "spec.py").exists()
    ]


def test_every_setting_is_read_somewhere():
    """A key of params.yaml that no code reads would be a promise that nobody keeps."""
    read = {
        node.attr
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    unread = [
        f"{kind.__module__}.{kind.__qualname__}.{f.name}"
        for kind in config_classes()
        for f in dataclasses.fields(kind)
        if f.name not in read
    ]
    assert not unread


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in ("domains", "models") for name in registry.plugin_names(room)])
def test_a_plugin_answers_every_question_of_its_kind(room, name):
    for stage, package in SPECS.items():
        assert package != room or (ROOT / "provenlm" / room / name / stage / "spec.py").exists()
    for spec in specs_of(room, name):
        assert dataclasses.is_dataclass(spec.settings)
        assert typing.cast(typing.Any, spec.settings).__dataclass_params__.frozen, f"{spec.settings}: settings are frozen"


def test_only_layout_joins_paths_of_the_project():
    """A second place that knows where things lie would drift from the first."""
    fixed = re.compile(r"[\"'](data|models|reports)/")
    wrong = [
        m for m, path in MODULES.items() if m.startswith(("provenlm", "stages")) and fixed.search(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []


def test_core_needs_neither_torch_nor_a_network():
    heavy = {"torch", "requests", "bs4", "prefect", "dvc", "transformers", "matplotlib", "pandas"}
    for module, path in MODULES.items():
        if package(module) == "core":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            names |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
            assert not names & heavy, module


def test_every_pinned_release_installs_on_each_python_that_we_name():
    """One that asked for 3.11.5 would shut out the Python of Debian 12."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    requirement = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        with suppress(metadata.PackageNotFoundError):
            requirements = metadata.metadata(name)
            if requirements["Version"].partition("+")[0] == version and "Requires-Python" in requirements:
                requirement[line] = SpecifierSet(requirements["Requires-Python"])
    assert len(requirement) > 100
    pythons = [python for python in ("3.11.0", "3.12.0", "3.13.0") if python in SpecifierSet(named)]
    assert len(pythons) == 3
    assert {line: python for line, ask in requirement.items() for python in pythons if python not in ask} == {}


def test_public_functions_say_what_they_do():
    silent = []
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{module}.{node.name}")
    assert silent == []
    assert all(inspect.getdoc(sys.modules[m]) for m in MODULES if m in sys.modules)
