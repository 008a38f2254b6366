"""Rules of the house that a machine can check."""

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from emorl.models import build_model
from emorl.settings import arguments_of_model, check, defaults

ROOT = Path(__file__).parents[2]
PAPERS = {"slotformer", "slotdiffusion", "clevrtex", "emorl", "osrt"}
MAY_USE = {"slotdiffusion": {"slotformer"}, "clevrtex": {"emorl"}}
HOUSE = ("core", "tools", "tests", *sorted(PAPERS))
SOURCES = sorted(path for folder in HOUSE for path in (ROOT / folder).rglob("*.py"))
CONFIGS = sorted((ROOT / "emorl" / "configs").rglob("*.json"))
LONGEST_FILE = 400
LONGEST_WITHOUT_DOCSTRING = 12

Function = ast.FunctionDef | ast.AsyncFunctionDef


def in_folder(name: str) -> list[Path]:
    return [path for path in SOURCES if path.relative_to(ROOT).parts[0] == name]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imported_packages(tree: ast.Module) -> set[str]:
    """First parts of the names of all modules imported anywhere in a file."""
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in plain | parts}


def called_name(call: ast.Call) -> str:
    """`torch.load` for torch.load(...), `?.save` for anything()[0].save(...)."""
    parts, node = [], call.func
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "?")
    return ".".join(reversed(parts))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    return ((called_name(node), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def test_core_imports_no_paper_and_no_tool():
    assert len(in_folder("core")) > 20
    wrong = {str(path): imported_packages(parse(path)) & (PAPERS | {"tools", "tests"}) for path in in_folder("core")}
    assert {path: found for path, found in wrong.items() if found} == {}


@pytest.mark.parametrize("paper", sorted(PAPERS))
def test_papers_import_no_other_paper_and_no_tool(paper):
    allowed = {paper} | MAY_USE.get(paper, set())
    wrong = {str(path): imported_packages(parse(path)) & (PAPERS | {"tools", "tests"}) for path in in_folder(paper)}
    assert {path: found - allowed for path, found in wrong.items() if found - allowed} == {}


def test_files_are_short():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def is_public(name: str) -> bool:
    return not name.startswith("_")


def public_definitions(node: ast.AST) -> Iterator[Function | ast.ClassDef]:
    """Public functions and classes, and public methods of public classes; nothing inside functions."""
    for child in getattr(node, "body", []):
        if isinstance(child, ast.If):
            yield from public_definitions(child)
        if isinstance(child, (Function, ast.ClassDef)) and is_public(child.name):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child)


@pytest.mark.parametrize("folder", ["clevrtex", "core", "emorl", "slotformer"])
def test_public_functions_and_classes_say_what_they_are(folder):
    silent = [
        f"{place(path, node)} {node.name}"
        for path in in_folder(folder)
        for node in public_definitions(parse(path))
        if node.end_lineno - node.lineno + 1 > LONGEST_WITHOUT_DOCSTRING and not ast.get_docstring(node)
    ]
    assert silent == []


def is_true(keyword: ast.keyword) -> bool:
    return isinstance(keyword.value, ast.Constant) and keyword.value.value is True


def test_nothing_is_unpickled_or_evaluated_that_came_from_a_file():
    unsafe = []
    for path in SOURCES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                unsafe += [f"{place(path, node)} {alias.name}" for alias in node.names if alias.name.startswith("load")]
        for name, call in calls(parse(path)):
            safe_load = any(keyword.arg == "weights_only" and is_true(keyword) for keyword in call.keywords)
            allow_pickle = any(keyword.arg == "allow_pickle" and is_true(keyword) for keyword in call.keywords)
            forbidden = name in {"pickle.load", "pickle.loads", "dill.load", "joblib.load", "eval", "exec", "yaml.load"}
            if forbidden or allow_pickle or (name == "torch.load" and not safe_load):
                unsafe.append(f"{place(path, call)} {name}")
    assert unsafe == []


def asserts(node: ast.AST, helpers: Mapping[str, Function], seen: frozenset[str] = frozenset()) -> bool:
    """Whether a function asserts, itself or through a function of the tests."""
    if any(isinstance(child, ast.Assert) for child in ast.walk(node)):
        return True
    for name, _ in calls(node):
        last = name.rpartition(".")[2]
        if name in {"pytest.raises", "pytest.warns", "pytest.fail"} or last.startswith("assert"):
            return True
        if last in helpers and last not in seen and asserts(helpers[last], helpers, seen | {last}):
            return True
    return False


def test_every_test_asserts_something():
    functions = {
        path: {node.name: node for node in ast.walk(parse(path)) if isinstance(node, Function)}
        for path in in_folder("tests")
    }
    shared = {name: node for found in functions.values() for name, node in found.items()}
    silent, count = [], 0
    for path, found in functions.items():
        for name, node in found.items():
            if name.startswith("test_") and path.name.startswith("test_"):
                count += 1
                if not asserts(node, {**shared, **found}):
                    silent.append(f"{place(path, node)} {name}")
    assert count > 100
    assert silent == []


def test_no_two_tests_of_a_file_have_one_name():
    twice = []
    for path in in_folder("tests"):
        names = [node.name for node in parse(path).body if isinstance(node, Function)]
        twice += [f"{path.relative_to(ROOT)} {name}" for name in set(names) if names.count(name) > 1]
    assert twice == []


def with_defaults(config: dict, section: str) -> dict:
    """A configuration file over the defaults, as sacred lays it."""
    complete = {key: dict(value) if isinstance(value, Mapping) else value for key, value in defaults(section).items()}
    for key, value in config.items():
        if isinstance(value, dict):
            complete[key].update(value)
        else:
            complete[key] = value
    return complete


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "emorl" / "configs")))
def test_configurations_of_emorl_build_their_model(path):
    config = json.loads(path.read_text())
    section = "training" if "training" in config else "test"
    complete = with_defaults(config, section)
    check(complete, section)
    with torch.device("meta"):
        model = build_model(**arguments_of_model(complete, section))
    assert type(model).__name__ == complete[section]["model"]
    assert {value.device.type for value in model.parameters()} == {"meta"}
    assert sum(value.numel() for value in model.parameters()) > 100_000
    assert model.num_slots == complete["Net"]["K"]


def test_there_are_configurations():
    assert len(CONFIGS) >= 14


def test_modules_of_tests_have_names_of_their_own():
    """Without a package around it a test file is a module by its bare name, in processes that it starts as well."""
    bare = [path for path in in_folder("tests") if path.parent != ROOT / "tests" and path.name != "__init__.py"]
    names = [path.stem for path in bare if not (path.parent / "__init__.py").exists()]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []
