"""What users may import: a name that goes, or comes, is a change that the changelog must tell."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

import limbeck

SOURCE = Path(limbeck.__file__).parent
# Imports point downward only: a module may import its own layer and those above it in this list.
LAYERS = [
    ["limbeck", "limbeck.errors", "limbeck.files", "limbeck.folders", "limbeck.config"],
    ["limbeck.objectives", "limbeck.compress", "limbeck.machine", "limbeck.nearest", "limbeck.http_client"],
    ["limbeck.data", "limbeck.teacher", "limbeck.model"],
    [
        "limbeck.evaluation",
        "limbeck.classify",
        "limbeck.cluster",
        "limbeck.dedup",
        "limbeck.search",
        "limbeck.encoding",
        "limbeck.encode_file",
        "limbeck.scale",
        "limbeck.export",
        "limbeck.doctor",
    ],
    ["limbeck.training", "limbeck.plan", "limbeck.serve"],
    ["limbeck.ablation", "limbeck.smoke"],
    ["limbeck.cli_parts"],
    [
        "limbeck.cli_ablate",
        "limbeck.cli_classify",
        "limbeck.cli_cluster",
        "limbeck.cli_dedup",
        "limbeck.cli_encode",
        "limbeck.cli_export",
        "limbeck.cli_index",
        "limbeck.cli_serve",
    ],
    ["limbeck.cli"],
    ["limbeck.__main__"],
]


def test_the_public_names_are_these() -> None:
    assert sorted(limbeck.__all__) == ["Encoder", "LimbeckError", "__version__", "load", "spans_of"]


@pytest.mark.parametrize("name", limbeck.__all__)
def test_every_public_name_can_be_imported_and_says_what_it_is(name: str) -> None:
    value = getattr(limbeck, name)
    assert name == "__version__" or value.__doc__
    assert name in dir(limbeck)


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'encode'; it has Encoder, LimbeckError"):
        limbeck.encode  # type: ignore[attr-defined]  # noqa: B018


def test_every_error_is_a_limbeck_error() -> None:
    errors = importlib.import_module("limbeck.errors")
    made_here = [
        value for value in vars(errors).values() if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    assert len(made_here) > 5
    assert all(issubclass(error, limbeck.LimbeckError) for error in made_here)


def _layer(module: str) -> int:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        for number, names in enumerate(LAYERS):
            if ".".join(parts[:length]) in names and (length > 1 or len(parts) == 1):
                return number
    raise AssertionError(f"{module} is in no layer: add it to LAYERS")


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if name in MODULES else node.module for name in submodules]
    return [name for name in found if name.split(".")[0] == "limbeck"]


MODULES = {
    ".".join(["limbeck", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downward_only(module: str) -> None:
    if module == "limbeck":  # its names are imported lazily from wherever they live
        return
    upward = [name for name in _imports(MODULES[module]) if _layer(name) > _layer(module)]
    assert upward == []


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("limbeck.objectives")))
def test_an_objective_knows_tensors_only(module: str) -> None:
    allowed = {"torch", "limbeck", "math", "collections", "typing", "__future__", "functools", "dataclasses"}
    tree = ast.parse(MODULES[module].read_text())
    roots = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    roots |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert roots <= allowed | sys.stdlib_module_names
