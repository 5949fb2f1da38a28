"""The house: its rooms, the order in which they stand, and what may be imported where."""

import ast
from pathlib import Path
from statistics import median

import numpyro_onestep

ROOT = Path(numpyro_onestep.__file__).parent
NAME = ROOT.name

# rooms and single files from the ground up, and the files of a room likewise: each imports only from what stands before
HOUSE: dict[str, list[str]] = {
    "options": [],
    "threads": [],
    "devices": [],
    "compilation": [],
    "cache": [],
    "encoding": [],
    "archive": [],
    "traces": ["fingerprint", "work", "sums"],
    "members": ["banded", "dependence", "directions", "laplace", "find"],
    "model": ["function", "trace", "bounds", "look", "target", "setup", "initialize"],
    "gaussians": ["factors", "mixture", "dense", "low_rank", "fit"],
    "base": ["modes", "conditional_scale", "distribution", "problem", "tails", "broad", "search"],
    "flow": ["block", "scores", "network", "steps", "density", "folds"],
    "bridge": ["hamiltonian", "ladder", "clouds", "crossing"],
    "draws": ["weights", "metropolis", "proposal", "chains", "move"],
    "training": ["losses", "plan", "state", "optimizer", "evaluation", "loop", "fit"],
    "audit": ["regions", "lines", "flat", "coverage", "report"],
    "trust": ["evidence", "checks", "precision", "estimate", "bridged"],
    "paper": ["noise", "control", "log_det", "sde", "losses"],
    "state": [],
    "journal": [],
    "warmup": [],
    "sampling": [],
    "iteration": [],
    "check": [],
    "kernel": [],
    "run": [],
    "results": ["samples", "stream", "inference_data", "compare", "checkpoint", "flow_distribution", "reparam"],
    "plots": ["axes", "weights", "budgets", "training", "evidence"],
    "sampler": [],
    "__init__": [],
    "__main__": [],
}
ORDER = [f"{room}.{file}" if files else room for room, files in HOUSE.items() for file in files or [""]]
PATHS = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}
HEAVY = {"arviz", "arviz_stats", "matplotlib", "pandas", "xarray"}


def imports(nodes):
    """The dotted names that import statements among `nodes` bring in, `from a import b` as a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name):
    """The file of the package that an imported name comes from; None for other packages."""
    package, *parts = name.split(".")
    if package != NAME:
        return None
    return next((known for known in (".".join(parts[:2]), parts[0]) if known in ORDER), "__init__")


def module_level(tree):
    """All nodes outside of function bodies."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from module_level(node)


def test_every_file_has_its_place():
    of_rooms = {f"{room}.__init__" for room, files in HOUSE.items() if files}
    assert set(TREES) == {*ORDER, *of_rooms}


def test_imports_point_downward_between_rooms_and_within_them():
    for name, tree in TREES.items():
        for used in filter(None, map(own, imports(ast.walk(tree)))):
            assert name in ORDER, f"{name} imports {used}: a room's front page imports nothing"
            assert ORDER.index(used) < ORDER.index(name), f"{name} imports {used}"


def test_rooms_hold_three_to_seven_files_and_say_what_they_are():
    for room, files in HOUSE.items():
        if files:
            assert 3 <= len(files) <= 7, room
            lines = (ast.get_docstring(TREES[f"{room}.__init__"]) or "").splitlines()
            assert 3 <= len(lines) <= 5, room
            assert any(f"Open `{name}.py` first." in " ".join(lines) for name in files), room


def test_only_the_networks_name_flax():
    allowed = {"paper.control": "flax.nnx"}
    for module, tree in TREES.items():
        for name in (name for name in imports(ast.walk(tree)) if name.split(".")[0] == "flax"):
            assert name.startswith(allowed.get(module, "nothing")), f"{module} imports {name}"


def test_heavy_packages_are_imported_where_they_are_used():
    for module, tree in TREES.items():
        assert not HEAVY & {name.split(".")[0] for name in imports(module_level(tree))}, module


def test_a_file_can_be_read_in_one_sitting():
    lines = {name: len(path.read_text().splitlines()) for name, path in PATHS.items()}
    assert {name: num for name, num in lines.items() if num > 300} == {}
    assert median(num for name, num in lines.items() if name in ORDER) <= 120


def test_the_architecture_page_knows_every_room():
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    for name in ORDER:
        room, _, file = name.partition(".")
        assert f"`{file or room}`" in page or f"`{file or room}.py`" in page or f"{room}/{file}" in page, name
