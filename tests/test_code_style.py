"""Test the rules of style that a machine can check: docstrings, names, words, file counts, unused modules."""

import ast
import collections
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted(path for folder in ("provenlm", "stages", "flows") for path in (ROOT / folder).rglob("*.py"))
MAX_FILES = 22  # Python files in one folder
MAX_SUMMARY = 80  # characters of a docstring's first line
CROWDED = ("training", "scraping", "evaluation")

# The verbs that docstrings start with. A new verb is added here; a noun, an article or a third person ("Returns") is a fault.
VERBS = """
    accept accumulate add advance align allow analyze annotate answer append apply ask assemble assert assign attend augment average balance
    become bind block bound bring broadcast build cache calculate call cast change check choose cite classify clip clone close collapse
    collect combine commit compare compile complete compute concatenate condition configure connect construct consume contain continue
    contrast control convert coordinate copy count crawl create crop cut decay decide declare decode deduplicate defer define delay delete
    derive describe detect diagnose differentiate disable discard discriminate divide do download draw drop dump embed emit enable encode enqueue ensure
    enter enumerate escape estimate evaluate execute exit expand expect export expose extract fail fetch fill filter find finish fit flatten
    flush fold follow forbid format freeze gather generate get give group halve handle hash hear hold identify implement import include
    increase index infer initialize inject insert inspect install interpolate interpret invert invoke iterate join keep kill label launch
    lay learn let limit link list listen load locate lock log look lower manage map mark mask match measure memory-map merge modify move
    multiply mutate name normalize notify observe obtain open optimize order overfit override pack pad pair parametrize parse partition pass
    perform permute pick plan plant play plot poll predict prefix prepare preserve prevent print process project propagate provide prune
    publish push quantize query quote raise rank reach read rebuild receive recompute record recover redirect reduce refresh refuse register
    reject relay release reload remove rename render repeat replace replay report reproduce request require reset reshape resolve restore
    resume retrieve retry return reverse rewrite roll rotate round route run sample satisfy save say scale schedule score scrape search see
    seed select send separate serialize serve set shard shift show shrink shuffle shut sign simulate skip slice smooth snap solve sonify
    sort spawn split spread squeeze start state step stop store strip submit subtract suggest sum support suppress swap switch synchronize
    synthesize tabulate take tell terminate test tie time tokenize touch trace track train transform translate transpose truncate try turn
    unpack unwrap update upload use validate verify visit voice wait walk warm warn watch weight widen wrap write yield zip"""

# Words that say nothing about what they name, and at most this many of them per 1,000 lines.
VAGUE_WORDS = """
    found said told asked wanted those made kept left once own given taken done seen one other others beside over under anew
    settled whole fresh chosen judged sifted drawn known gone ready coming course figures figure meaning place places twin twins
    crew room face way ways least most share shown listed compared built moved"""
MAX_VAGUE_PER_1000_LINES = 3


@cache
def parse(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def documented(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Yield the name and docstring of a module and of its public classes, functions and methods, but for torch's `forward`."""
    yield "module", ast.get_docstring(tree)
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield node.name, ast.get_docstring(node)
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                overload = isinstance(member, ast.FunctionDef) and any("setter" in ast.unparse(d) for d in member.decorator_list)
                if (
                    isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
                    and not member.name.startswith("_")
                    and not overload
                    and member.name != "forward"
                ):
                    yield f"{node.name}.{member.name}", ast.get_docstring(member)


def docstring_fault(docstring: str | None) -> str | None:
    """Say what is wrong with the first line of a docstring; None if nothing is."""
    if not docstring:
        return "no docstring"
    line = docstring.splitlines()[0]
    first_word, *rest = line.split()
    if len(line) > MAX_SUMMARY:
        return f"first line longer than {MAX_SUMMARY} characters: {line}"
    if not line.endswith("."):
        return f"first line without a period: {line}"
    is_noun = rest[:1] == ["of"]  # "State of …", "Name of …"
    if not first_word[:1].isupper() or first_word.strip("`,.:'\"").lower() not in VERBS.split() or is_noun:
        return f"first line does not start with a verb in the imperative: {line}"
    return None


def test_every_module_and_public_name_has_an_imperative_docstring():
    faults = [
        f"{path.relative_to(ROOT)}: {name}: {fault}"
        for path in PATHS
        for name, docstring in documented(parse(path))
        if (fault := docstring_fault(docstring))
    ]
    assert faults == []


@pytest.mark.parametrize(
    "docstring",
    [
        None,
        "",
        "The mean of values.",
        "Mean of values.",
        "State of the optimizer.",
        "Returns the mean.",
        "Compute the mean",
        "compute the mean.",
        "Compute " + "x" * 72 + ".",
    ],
)
def test_a_planted_docstring_fault_is_found(docstring):
    assert docstring_fault(docstring)
    assert docstring_fault("Compute the mean of values.") is None


def class_names(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """List the places of every class name."""
    places = collections.defaultdict(list)
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    return places


def test_class_names_are_unique():
    places = class_names({path.relative_to(ROOT).as_posix(): parse(path) for path in PATHS})
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_a_planted_duplicate_class_name_is_found():
    assert class_names({"a": ast.parse("class Config: pass"), "b": ast.parse("class Config: pass")})["Config"] == ["a", "b"]


def identifiers(tree: ast.Module) -> Iterator[str]:
    """Yield every identifier of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg) or (isinstance(node, ast.keyword) and node.arg):
            yield str(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def vague_names(tree: ast.Module) -> list[str]:
    """List the identifiers that say nothing about what they name."""
    return [name for name in identifiers(tree) if name.strip("_").lower() in VAGUE_WORDS.split()]


def test_few_names_are_vague():
    names = {path.relative_to(ROOT).as_posix(): vague_names(parse(path)) for path in PATHS}
    num_lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PATHS)
    total = sum(map(len, names.values()))
    assert total <= MAX_VAGUE_PER_1000_LINES * num_lines / 1000, {path: sorted(vague) for path, vague in names.items() if vague}


def test_a_planted_vague_name_is_found():
    assert sorted(vague_names(ast.parse("found = other.given(made=1)"))) == ["found", "given", "made", "other"]


def imported_modules(tree: ast.Module) -> set[str]:
    """List the dotted names that a module imports."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_every_module_is_used_outside_tests():
    """Modules that are loaded by name count as used: commands, stages, the SPEC of a plug-in, and modules that a string names."""
    used = set().union(*(imported_modules(parse(path)) for path in [*PATHS, *sorted((ROOT / "benchmarks").rglob("*.py"))]))
    by_name = ("provenlm.cli.", "stages.")
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PATHS if path.name != "__init__.py"}
    texts = [node.value for path in PATHS for node in ast.walk(parse(path)) if isinstance(node, ast.Constant)]
    text = " ".join(value for value in texts if isinstance(value, str))
    used |= {name for name in modules if name in text}
    unused = [name for name in modules if name not in used and not name.startswith(by_name) and not name.endswith(".spec")]
    assert unused == []


def test_folders_stay_small():
    sizes = {
        folder.relative_to(ROOT).as_posix(): len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        for package in CROWDED
        for folder in [ROOT / "provenlm" / package, *(ROOT / "provenlm" / package).rglob("*/")]
        if folder.is_dir()
    }
    assert {folder: size for folder, size in sizes.items() if size > MAX_FILES} == {}
