"""Who may import whom (lowest layer first): a module imports only from rows above its own."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "avbench"
LAYERS = (
    ("errors", "batch", "arguments", "settings", "machine", "streams", "class_names"),
    ("records", "description", "quarantine", "dataset", "integrity", "distributed", "models"),
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
