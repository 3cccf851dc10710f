"""Who may import whom (lowest layer first): a module imports only from rows above its own."""

import ast
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

from avbench.vocabulary import MODALITIES, SPLITS

PACKAGE = Path(__file__).resolve().parent.parent / "avbench"
LAYERS = (
    (
        "errors",
        "vocabulary",
        "batch",
        "arguments",
        "settings",
        "machine",
        "progress",
        "run_folder",
        "streams",
        "class_names",
        "wording",
        "entry_points",
    ),
    ("records", "shards", "description", "quarantine", "fingerprint", "dataset", "integrity", "distributed", "models"),
    ("engine", "confidence", "loading", "analysis"),
    ("methods", "packing"),  # packing keeps a preset's spectrogram
    ("training",),
    ("config",),
    ("start",),
    ("curation", "demo", "doctor", "benchmarking", "help"),
    ("bench",),
    ("cli",),
    ("__main__",),
)
LAYER_OF = {part: number for number, parts in enumerate(LAYERS) for part in parts}
MODULES = sorted(
    path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.parent.name != "shipped"
)


def part_of(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__.py"])
def test_a_module_imports_only_from_layers_below(module: str) -> None:
    own = part_of(module)
    assert own in LAYER_OF, f"{module} has no layer; give it one in avbench/README.md and here"
    for name in imported(PACKAGE / module):
        package, _, rest = name.partition(".")
        part = rest.split(".")[0]
        if package != "avbench" or part not in LAYER_OF or part == own:
            continue
        # Rows 1 and 2 are flat records; above them siblings do not know each other.
        allowed = LAYER_OF[part] < LAYER_OF[own] or (LAYER_OF[part] == LAYER_OF[own] <= 1)
        assert allowed, f"{module} imports {name}"


# The floors of analysis/, lowest first, within its own row.
FLOORS = (
    ("__init__",),
    ("measures",),
    ("reading",),
    ("notes", "ranking_notes"),
    ("assessment",),
    ("presenting",),
    ("report", "export"),
)
FLOOR_OF = {part: number for number, parts in enumerate(FLOORS) for part in parts}
OF_ANALYSIS = [module for module in MODULES if module.startswith("analysis/")]
# What opens, names or writes files.
FILES = {"pathlib", "os", "io", "tempfile", "shutil", "csv", "json", "tomllib", "pyarrow", "avbench.records"}


def floor_of(module: str) -> str:
    return module.split("/")[1].removesuffix(".py")


@pytest.mark.parametrize("module", OF_ANALYSIS)
def test_a_module_of_analysis_imports_only_from_floors_below(module: str) -> None:
    own = floor_of(module)
    assert own in FLOOR_OF, f"{module} has no floor; give it one here"
    for name in imported(PACKAGE / module):
        if name.startswith("avbench.analysis."):
            part = name.split(".")[2]
            assert part == own or FLOOR_OF[part] < FLOOR_OF[own], f"{module} imports {name}"


def test_measures_take_arrays_and_know_no_file() -> None:
    allowed = set(sys.stdlib_module_names) - {name for name in FILES if "." not in name}
    for module in OF_ANALYSIS:
        if floor_of(module) == "measures":
            for name in imported(PACKAGE / module):
                own = name.startswith(("avbench.analysis.measures.", "avbench.vocabulary", "avbench.wording"))
                assert own or name.split(".")[0] in allowed | {"numpy", "scipy"}, f"{module} imports {name}"
            calls = {
                node.func.id
                for node in ast.walk(tree_of(module))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            assert "open" not in calls, module


def test_what_is_presented_was_read_before() -> None:
    """Presenting takes records of reading, but reads nothing itself: no file but its own template is opened."""
    records = {"avbench.analysis.reading.results"}
    for module in OF_ANALYSIS:
        if floor_of(module) == "presenting":
            names = imported(PACKAGE / module)
            reading = {name for name in names if name.startswith("avbench.analysis.reading.")}
            assert all(any(name == one or name.startswith(f"{one}.") for one in records) for name in reading), module
            assert not {name for name in names if name.split(".")[0] in ("pyarrow", "tomllib")}, module
            assert not {name for name in names if name.startswith("avbench.records.read")}, module


def test_analysis_begins_with_the_order_of_reading_and_imports_nothing() -> None:
    assert imported(PACKAGE / "analysis/__init__.py") == set()


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text())


def imports_of_modules() -> dict[str, set[str]]:
    """Which modules of avbench each imports while it is imported itself, or for its types; by dotted name."""
    names = {
        f"avbench.{module.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}": module
        for module in MODULES
    }
    names["avbench"] = names.pop("avbench.__init__")
    found: dict[str, set[str]] = {}
    for name, module in names.items():
        found[name] = set()
        for node in outside_functions(tree_of(module)):
            if isinstance(node, ast.ImportFrom):
                wanted = {f"{node.module}.{alias.name}" for alias in node.names}
                # A module of a package, else what the module itself defines.
                found[name] |= {each if each in names else str(node.module) for each in wanted}
            else:
                found[name] |= {alias.name for alias in node.names}
        found[name] = {each for each in found[name] if each in names and each != name}
    return found


def outside_functions(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run, or that types need, when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from outside_functions(child)


def circles(imports: Mapping[str, Set[str]]) -> list[str]:
    """What is left when modules that import nothing left over are taken away, again and again: circles, and above."""
    left = {name: set(others) for name, others in imports.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    # And from the other end: what nobody left over imports stands above a circle.
    while above := [name for name in left if not any(name in others for others in left.values())]:
        for name in above:
            del left[name]
    return sorted(left)


def test_functions_and_modules_can_be_read_at_one_go() -> None:
    long_functions, long_modules, many_arguments = [], [], []
    for module in MODULES:
        if len((PACKAGE / module).read_text().splitlines()) > 500:
            long_modules.append(module)
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                named = f"{module}:{node.lineno} {node.name}"
                if node.end_lineno is not None and node.end_lineno - node.lineno >= 80:
                    long_functions.append(named)
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if len([each for each in arguments if each.arg != "self"]) >= 8:
                    many_arguments.append(named)
    assert (long_functions, long_modules) == ([], [])
    assert len(many_arguments) < 10, many_arguments


def test_no_modules_import_each_other_in_a_circle_not_even_for_types() -> None:
    assert circles(imports_of_modules()) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set(), "e": {"a", "d"}}) == ["b", "c"]


def test_the_names_of_modalities_and_splits_are_written_out_in_one_module() -> None:
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if module != "vocabulary.py" and isinstance(node, ast.Tuple | ast.List | ast.Set):
                values = tuple(each.value if isinstance(each, ast.Constant) else None for each in node.elts)
                again = [names for names in (MODALITIES, SPLITS) if has_run(values, names)]
                assert not again, f"{module}:{node.lineno} writes out {again[0]}; import it from avbench.vocabulary"


def has_run(values: tuple[object, ...], names: tuple[str, ...]) -> bool:
    """Whether the names stand in it one after the other."""
    return any(values[start : start + len(names)] == names for start in range(len(values)))


def importers_of(name: str) -> set[str]:
    return {module for module in MODULES if any(each.startswith(name) for each in imported(PACKAGE / module))}


def test_torch_distributed_has_three_importers() -> None:
    assert importers_of("torch.distributed") <= {"distributed.py", "engine/deepspeed.py", "training/checkpoint.py"}


def test_deepspeed_is_the_business_of_one_module() -> None:
    assert importers_of("deepspeed") == {"engine/deepspeed.py"}


def test_analysis_imports_no_torch() -> None:
    for module in MODULES:
        if part_of(module) == "analysis":
            assert not any(name.split(".")[0] == "torch" for name in imported(PACKAGE / module)), module


def test_training_names_no_method() -> None:
    from avbench.methods import METHODS

    for path in (PACKAGE / "training").glob("*.py"):
        strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not strings & (set(METHODS) - {"audio", "visual"}), path
