import ast
from pathlib import Path

import numpyro_onestep

ROOT = Path(numpyro_onestep.__file__).parent
TREES = {path.stem: ast.parse(path.read_text()) for path in ROOT.glob("*.py")}
LAYERS = [
    {"block", "compilation", "log_det", "metropolis", "model_function", "model_trace", "schedule", "weights"},
    {"target"},
    {"conditional_scale", "mixture_vi", "modes", "network"},
    {"base", "flow"},
    {"base_search", "losses", "sde", "tempering"},
    {"coverage", "path_losses"},
    {"train"},
    {"plan", "proposal", "replicates", "state"},
    {"chains", "kernel"},
    {"audit", "trained_kernel"},
    {"evidence", "fit", "flow_distribution"},
    {"reparam"},
    {"checkpoint"},
    {"sampler"},
    {"inference_data", "plots"},
    {"compare"},
    {"__init__"},
]
LAYER = {module: i for i, layer in enumerate(LAYERS) for module in layer}
# a method of the sampler that hands over to the module above it
UPWARD = {("sampler", "inference_data")}
HEAVY = {"arviz", "arviz_stats", "matplotlib", "pandas", "xarray"}


def imports(nodes):
    """The dotted names that import statements among `nodes` bring in, `from a import b` as a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_level(tree):
    """All nodes outside of function bodies."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from module_level(node)


def test_every_module_has_a_layer():
    assert set(LAYER) == set(TREES)


def test_imports_point_downward():
    for module, tree in TREES.items():
        for name in (name for name in imports(ast.walk(tree)) if name.split(".")[0] == "numpyro_onestep"):
            used = next((part for part in name.split(".")[1:2] if part in LAYER), "__init__")
            assert LAYER[used] < LAYER[module] or (module, used) in UPWARD, f"{module} imports {name}"


def test_only_the_network_names_flax():
    allowed = {"network": "flax.nnx", "checkpoint": "flax.serialization."}
    for module, tree in TREES.items():
        for name in (name for name in imports(ast.walk(tree)) if name.split(".")[0] == "flax"):
            assert name.startswith(allowed.get(module, "nothing")), f"{module} imports {name}"


def test_heavy_packages_are_imported_where_they_are_used():
    for module, tree in TREES.items():
        assert not HEAVY & {name.split(".")[0] for name in imports(module_level(tree))}, module


def test_a_file_can_be_read_in_one_sitting():
    lines = {path.name: len(path.read_text().splitlines()) for path in ROOT.glob("*.py")}
    assert {name: num for name, num in lines.items() if num > 350} == {}
