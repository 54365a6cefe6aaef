"""The house: rooms import only what lies below them, and public names speak plainly."""

import ast
import re
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"kernels", "runtime", "partition", "configs"},
    {"model"},
    {"data", "tokens"},
    {"features"},
    {"losses", "metrics"},
    {"weights"},
    {"tokenizer"},  # below those who hold one: previews of a training, subjects of an evaluation
    {"training", "generation", "evaluation"},
    {"generator"},
    {"viewer"},
    {"programs", "train", "eval"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
RIDDLE = re.compile(r"(What|How|Where|Which|Whether|Who|Why|When)\b")


def _files():
    places = [ROOT / "train.py", ROOT / "eval.py"]
    for folder in ("gpstoken_jax", "kernels", "configs", "scripts", "examples", "tests"):
        places += (p for p in sorted((ROOT / folder).rglob("*.py")) if not p.is_symlink())
    return {str(p.relative_to(ROOT)): ast.parse(p.read_text()) for p in places}


FILES = _files()


def _imports(path, tree):
    """Modules that a file imports, at its top and inside functions: (line, dotted name)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _room(path):
    parts = Path(path).with_suffix("").parts
    return parts[1] if parts[0] == "gpstoken_jax" else parts[0]


def test_no_arrow_points_upwards():
    """A room may import rooms of lower floors, and those of its own that do not lead back to it."""
    upward, below = [], {}
    for path, tree in FILES.items():
        room = _room(path)
        if room not in FLOOR:
            continue  # the package's own __init__ and __main__, scripts, examples
        for line, name in _imports(path, tree):
            parts = name.split(".")
            if parts[0] != "gpstoken_jax" or len(parts) < 2 or parts[1] not in FLOOR:
                continue
            other = parts[1]
            if FLOOR[other] > FLOOR[room]:
                upward.append(f"{path}:{line} imports {name}")
            elif other != room:
                below.setdefault(room, set()).add(other)
    assert not upward, "\n".join(upward)
    TopologicalSorter(below).prepare()  # names a circle


def test_no_files_import_each_other_in_a_circle():
    """Also not where an import stands in a function, which hides a circle."""
    modules = {_module(path): path for path in FILES if not path.startswith(("tests", "examples"))}
    imports = {}
    for module, path in modules.items():
        names = [name for _, name in _imports(path, FILES[path])]
        found = {part for name in names for part in (name, name.rpartition(".")[0])}
        # A package's own __init__ gathers what is below it.
        imports[module] = {n for n in found & modules.keys() if not _is_package(modules[n])}
    TopologicalSorter({m: i - {m} for m, i in imports.items()}).prepare()  # names a circle


def _module(path):
    module = ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")
    return module if module.startswith("gpstoken_jax") else f"gpstoken_jax.{module}"


def _is_package(path):
    return path.endswith("__init__.py")


def test_no_docstring_begins_with_a_question():
    found = []
    for path, tree in FILES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if RIDDLE.match(text):
                    found.append(f"{path}:{getattr(node, 'lineno', 1)} {text.splitlines()[0]}")
    assert not found, "\n".join(found)


def _moves(call):
    """True for ``os.rename``, ``path.replace(other)`` and their like, not for ``text.replace``."""
    name, of = getattr(call.func, "attr", ""), getattr(getattr(call.func, "value", None), "id", "")
    one = len(call.args) == 1 and not call.keywords
    return name == "rename" or (name == "replace" and (one or of == "os"))


def test_files_get_their_names_in_one_place():
    """A file that is not there whole is not there: one writer knows how; directories move."""
    movers = {"gpstoken_jax/runtime/files.py": 1, "gpstoken_jax/runtime/checkpoint.py": 1}
    movers["gpstoken_jax/runtime/mirror.py"] = 1
    found = Counter(
        path
        for path, tree in FILES.items()
        if not path.startswith("tests")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _moves(node)
    )
    assert found == movers


def _public_functions(body):
    for node in body:
        if not getattr(node, "name", "_").startswith("_"):
            if isinstance(node, ast.ClassDef):
                yield from _public_functions(node.body)
            elif isinstance(node, ast.FunctionDef):
                yield node


@pytest.mark.parametrize("folder", ["gpstoken_jax", "kernels", "configs"])
def test_arguments_of_public_functions_have_types(folder):
    untyped = []
    for path, tree in FILES.items():
        if not path.startswith(folder):
            continue
        for function in _public_functions(tree.body):
            arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
            names = [a.arg for a in arguments if a.annotation is None]
            if names := [name for name in names if name not in ("self", "cls")]:
                untyped.append(f"{path}:{function.lineno} {function.name}: {', '.join(names)}")
    assert not untyped, "\n".join(untyped)
