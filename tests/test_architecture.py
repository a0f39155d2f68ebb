"""Test the architecture: imports go down without cycles, dvc.yaml tracks the code of each stage, every setting is read."""

import ast
import dataclasses
import importlib
import re
import tomllib
import typing
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from provenlm.core import registry
from provenlm.core.report_config import ReportConfig
from provenlm.domains.text.filter.thresholds import FilterThresholds
from provenlm.evaluation.suite import ValidateConfig
from provenlm.training.config import TrainConfig

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
    """Map the dotted name of every module to its file."""
    modules_by_name = {}
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            modules_by_name[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules_by_name


MODULES = modules()


@cache
def imports(path: Path) -> frozenset[str]:
    """List the modules of the project that `path` imports, at the top or in a function; packages only if no module is meant."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports must be absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            imported.update(inner or {node.module or ""})
    return frozenset(imported & MODULES.keys())


def package(module: str) -> str:
    """Return the package of a module of `provenlm`: "core", "training", …"""
    return module.split(".")[1] if module.count(".") else ""


def layer(module: str) -> int:
    """Return the layer of a module; -1 if it has none."""
    return next((i for i, packages in enumerate(LAYERS) if package(module) in packages), -1)


def import_fault(importer: str, imported: str) -> str | None:
    """Say why `importer` may not import `imported`; None if it may."""
    tops = (importer.split(".")[0], imported.split(".")[0])
    if package(importer) == "cli" and tops[0] == "provenlm":
        return None
    if package(imported) == "cli" and tops[1] == "provenlm":
        return "nothing may import the command line"
    if tops[0] == "flows":
        return None if tops[1] == "flows" or package(imported) == "core" else "flows import only core; DVC runs the rest"
    if tops[0] == "stages":
        return "stages must not import flows" if tops[1] == "flows" else None
    if tops[1] != "provenlm":
        return "the library must import neither stages nor flows"
    if package(importer) == package(imported):
        folders = [module.split(".")[2] if module.count(".") > 1 else "" for module in (importer, imported)]
        plugins = set(registry.plugin_names(package(importer))) if package(importer) in registry.MARKERS else set()
        if folders[1] in plugins and folders[0] != folders[1]:
            return "a plug-in is loaded by name, not imported"
        return None
    return None if layer(imported) < layer(importer) else "an import must go down a layer"


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
def test_a_planted_upward_or_sideways_import_is_found(importer, imported):
    assert import_fault(importer, imported)


def test_every_package_has_a_layer():
    packages = {path.parent.name for path in (ROOT / "provenlm").glob("*/__init__.py")}
    assert packages == set().union(*LAYERS)


@pytest.mark.parametrize(
    "path", sorted(p for folder in PACKAGES for p in folder.rglob("__init__.py")), ids=lambda p: p.parent.as_posix()[-30:]
)
def test_a_package_file_has_a_docstring_and_no_code(path):
    kinds = [type(node) for node in ast.parse(path.read_text(encoding="utf-8")).body]
    extensible = {ROOT / "provenlm", ROOT / "provenlm" / "domains", ROOT / "provenlm" / "models"}
    code = [ast.ImportFrom, ast.Assign] if path.parent in extensible else []
    if path.parent == ROOT / "stages":
        code = [ast.Import, ast.Expr]  # an environment variable that must be set before torch loads
    assert kinds == [ast.Expr, *code]


def find_cycle(graph: dict[str, frozenset[str]]) -> list[str]:
    """Return the nodes of one cycle of a graph; empty if there is none."""
    finished: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node not in finished:
            for neighbour in sorted(graph.get(node, frozenset())):
                if cycle := visit(neighbour, [*path, node]):
                    return cycle
            finished.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := visit(node, []))), [])


def test_there_is_no_import_cycle():
    assert find_cycle({module: imports(path) for module, path in MODULES.items()}) == []


def test_a_planted_import_cycle_is_found():
    graph = {"a": frozenset("b"), "b": frozenset("cd"), "c": frozenset("a"), "d": frozenset()}
    assert sorted(find_cycle(graph)) == ["a", "b", "c"]


def test_text_only_code_stays_below_its_domain():
    outside = [
        module for module, path in MODULES.items() if any(name.startswith("provenlm.domains.text") for name in imports(path))
    ]
    assert [module for module in outside if not module.startswith("provenlm.domains.text")] == []


@cache
def registry_calls(path: Path) -> tuple[frozenset[str], bool]:
    """List the stages whose domain `path` loads through the registry, and whether it loads a model."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    stages = [node.args[1] for node in calls if ast.unparse(node.func) == "registry.load_domain"]
    assert all(isinstance(stage, ast.Constant) for stage in stages), f"{path}: the stage must be a literal"
    loads_model = any(ast.unparse(node.func) == "registry.load_model" for node in calls)
    return frozenset(str(stage.value) for stage in stages if isinstance(stage, ast.Constant)), loads_model


def plugin_modules(path: Path, plugins: dict[str, str]) -> set[str]:
    """List the modules that `path` loads through the registry, for the plug-ins of a subject."""
    stages, loads_model = registry_calls(path)
    models = {f"provenlm.models.{plugins['models']}.spec"} if loads_model else set()
    return models | {f"provenlm.domains.{plugins['domains']}.{stage}.spec" for stage in stages}


def closure(stage: str, plugins: dict[str, str]) -> set[str]:
    """List the files that `stages/<stage>.py` can import, with plug-ins, without package files."""
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
    """List (stage, plug-ins of its subject, code deps) of every stage as DVC resolves dvc.yaml."""
    from dvc.repo import Repo
    from ruamel.yaml import YAML

    params = YAML(typ="safe").load(ROOT / "params.yaml")
    stages = []
    with Repo(str(ROOT)) as repo:
        for stage in repo.index.stages:
            kind, subject = stage.addressing.split("@")
            row = {**params["corpora"], **params["recipes"], **params["reports"]}[subject]
            plugins = {"domains": row.get("domain", ""), "models": row.get("model", {}).get("arch", "")}
            deps = [d.def_path for d in stage.deps if d.protocol == "local" and d.def_path.startswith(("stages/", "provenlm/"))]
            stages.append((kind, plugins, deps))
    return stages


def covers(dep: str, file: str) -> bool:
    """Whether `file` is `dep` or below it."""
    return file == dep or file.startswith(dep + "/")


def test_dvc_tracks_exactly_the_code_that_each_stage_can_import():
    """dvc.yaml has one list for all subjects of a stage, so a folder must be imported for one of them, not for each."""
    is_used: dict[tuple[str, str], bool] = {}
    for kind, plugins, deps in dvc_stages():
        files = closure(kind, plugins)
        assert not [f for f in files if not any(covers(dep, f) for dep in deps)], f"{kind}: imported, not in dvc.yaml's deps"
        for dep in deps:
            key = (kind, dep.replace(f"/domains/{plugins['domains']}/", "/domains/*/"))
            is_used[key] = is_used.get(key, False) or any(covers(dep, f) for f in files)
    assert not [key for key, used in is_used.items() if not used], "in dvc.yaml's deps, never imported"


def test_the_closure_follows_local_imports_and_plugins():
    files = closure("filter", {"domains": "text", "models": ""})
    assert {"stages/filter.py", "stages/runner.py", "provenlm/domains/text/filter/spec.py", "provenlm/core/audit.py"} <= files
    assert not [f for f in files if f.startswith(("provenlm/scraping", "provenlm/training", "provenlm/domains/strings"))]


def config_classes() -> list[type]:
    """List every dataclass that params.yaml is parsed into, from the SPEC of each plug-in and the sections of the stages."""
    classes: set[type] = set()
    todo = [
        spec.config_type
        for package in ("domains", "models")
        for name in registry.plugin_names(package)
        for spec in specs_of(package, name)
    ]
    todo += [TrainConfig, ValidateConfig, ReportConfig]
    while todo:
        kind = todo.pop()
        if dataclasses.is_dataclass(kind) and kind not in classes:
            classes.add(typing.cast(type, kind))
            todo += [arg for hint in typing.get_type_hints(kind).values() for arg in flattened(hint)]
    return sorted(classes, key=lambda c: (c.__module__, c.__qualname__))


def flattened(hint: typing.Any) -> list[typing.Any]:
    """List a type and all types in its arguments."""
    return [hint, *(inner for arg in typing.get_args(hint) for inner in flattened(arg))]


def specs_of(package: str, name: str) -> list[typing.Any]:
    """Load every SPEC of one plug-in."""
    folder = ROOT / "provenlm" / package / name
    return [
        importlib.import_module(".".join(filter(None, ("provenlm", package, name, stage, "spec")))).SPEC
        for stage, kind in SPECS.items()
        if kind == package and (folder / stage / "spec.py").exists()
    ]


def test_every_setting_is_read_somewhere():
    """A key of params.yaml that no code reads would have no effect."""
    nodes = [node for path in MODULES.values() for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    read |= {node.slice.value for node in nodes if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)}
    read |= {
        node.args[0].value
        for node in nodes
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(".get")
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    read |= {field.name for field in dataclasses.fields(FilterThresholds)}  # thresholds.py iterates over its fields
    unread = [
        f"{kind.__module__}.{kind.__qualname__}.{f.name}"
        for kind in config_classes()
        for f in dataclasses.fields(kind)
        if f.name not in read
    ]
    assert unread == []


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package in ("domains", "models") for name in registry.plugin_names(package)]
)
def test_a_plugin_has_every_spec_of_its_kind(package, name):
    for stage, kind in SPECS.items():
        assert kind != package or (ROOT / "provenlm" / package / name / stage / "spec.py").exists()
    for spec in specs_of(package, name):
        assert dataclasses.is_dataclass(spec.config_type)
        assert typing.cast(typing.Any, spec.config_type).__dataclass_params__.frozen, f"{spec.config_type}: must be frozen"


def test_only_core_paths_joins_paths_of_the_project():
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


def test_every_pinned_release_installs_on_each_supported_python():
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
