"""The arrow: who may import whom, read off the sources; and the size of the house."""
import ast
import subprocess
from pathlib import Path

import pytest

from sleepnet import tasks

ROOT = Path(__file__).resolve().parents[2]
MODELS = "sleepnet.models"
# a module or package → what of sleepnet it may import; imports inside functions count
MAY = {
    "sleepnet.errors": (),
    "sleepnet.files": ("sleepnet.errors", "sleepnet.paths"),
    "sleepnet.lock": ("sleepnet.errors",),
    "sleepnet.paths": ("sleepnet.errors",),
    "sleepnet.pictures": (),
    "sleepnet.scalars": (),
    "sleepnet.seeds": ("sleepnet.errors",),
    "sleepnet.signals": (),
    "sleepnet.orbax_log": (),
    "sleepnet.state": (),
    "sleepnet.step_folders": (),
    "sleepnet.losses": (),
    "sleepnet.trust": ("sleepnet.errors",),
    "sleepnet.rules": ("sleepnet.errors", "sleepnet.trust"),
    "sleepnet.refusals": ("sleepnet.errors", "sleepnet.rules", "sleepnet.seeds", "sleepnet.trust"),
    "sleepnet.config": ("sleepnet.errors", "sleepnet.refusals", "sleepnet.released", "sleepnet.rules", "sleepnet.scalars", "sleepnet.trust"),
    "sleepnet.presets": ("sleepnet.config",),
    "sleepnet.released": ("sleepnet.errors", "sleepnet.files", "sleepnet.paths"),
    "sleepnet.cli": ("sleepnet.config_files", "sleepnet.errors", "sleepnet.files", "sleepnet.signals", "sleepnet.trust"),
    "sleepnet.talk": ("sleepnet.decode", "sleepnet.errors", MODELS, "sleepnet.seeds", "sleepnet.state"),
    "sleepnet.sleep": ("sleepnet.config", "sleepnet.mesh", "sleepnet.state"),
    "sleepnet.optim": ("sleepnet.config",),
    "sleepnet.tasks": ("sleepnet.cli", "sleepnet.config_files", "sleepnet.errors", "sleepnet.files", "sleepnet.lock", "sleepnet.paths", "sleepnet.registry", "sleepnet.scalars", "sleepnet.seeds", "sleepnet.tokenizers"),
    "sleepnet.tokenizers": ("sleepnet.errors", "sleepnet.paths"),
    "sleepnet.config_files": ("sleepnet.errors",),
    "sleepnet.hf": ("sleepnet.cli", "sleepnet.config", "sleepnet.errors", "sleepnet.files", MODELS, "sleepnet.paths", "sleepnet.registry", "sleepnet.released", "sleepnet.seeds", "sleepnet.sharding", "sleepnet.state", "sleepnet.talk", "sleepnet.tokenizers"),
    "sleepnet.hf.trained": ("sleepnet.checkpoint", "sleepnet.errors", "sleepnet.hf", "sleepnet.lineage", MODELS, "sleepnet.origin", "sleepnet.paths", "sleepnet.released"),
    "sleepnet.hf.__main__": ("sleepnet.cli", "sleepnet.errors", "sleepnet.hf", MODELS, "sleepnet.talk"),
    "sleepnet.decode": ("sleepnet.errors", "sleepnet.mesh", MODELS, "sleepnet.state"),
    "sleepnet.data": ("sleepnet.errors", "sleepnet.tasks"),
    "sleepnet.mesh": ("sleepnet.config", "sleepnet.errors"),
    MODELS: ("sleepnet.config", "sleepnet.errors", "sleepnet.mesh", "sleepnet.rules", "sleepnet.sleep", "sleepnet.state"),
    "sleepnet.models.zoo": ("sleepnet.config", "sleepnet.errors", "sleepnet.files", MODELS, "sleepnet.seeds", "sleepnet.tasks", "sleepnet.trust"),
    f"{MODELS}.__main__": (f"{MODELS}.zoo", "sleepnet.cli", "sleepnet.errors", MODELS, "sleepnet.trust"),
    "sleepnet.build": ("sleepnet.config", "sleepnet.errors", MODELS, "sleepnet.seeds", "sleepnet.tasks"),
    "sleepnet.registry": (),
    "sleepnet.adapters": ("sleepnet.config", "sleepnet.errors", f"{MODELS}.experts", f"{MODELS}.sparse", "sleepnet.seeds"),
    "sleepnet.methods": ("sleepnet.adapters", "sleepnet.config", "sleepnet.decode", "sleepnet.errors", "sleepnet.losses", f"{MODELS}.experts", f"{MODELS}.flops", f"{MODELS}.gated", f"{MODELS}.sparse", "sleepnet.registry", "sleepnet.scalars", "sleepnet.state", "sleepnet.tasks", "sleepnet.trust"),
    "sleepnet.costs": ("sleepnet.build", "sleepnet.config", "sleepnet.methods"),
    "sleepnet.lineage": ("sleepnet.errors", "sleepnet.files", "sleepnet.origin"),
    "sleepnet.start": (
        "sleepnet.adapters", "sleepnet.build", "sleepnet.checkpoint", "sleepnet.config", "sleepnet.costs", "sleepnet.errors", "sleepnet.hf", "sleepnet.lineage", "sleepnet.methods",
        f"{MODELS}.experts", f"{MODELS}.sparse", f"{MODELS}.zoo", "sleepnet.origin", "sleepnet.paths", "sleepnet.released", "sleepnet.step_folders", "sleepnet.tasks",
    ),
    "sleepnet.memory": (
        "sleepnet.checkpoint", "sleepnet.cli", "sleepnet.decode", "sleepnet.errors", "sleepnet.files", "sleepnet.hf", "sleepnet.lineage", MODELS, f"{MODELS}.zoo", "sleepnet.paths",
        "sleepnet.released", "sleepnet.state", "sleepnet.talk", "sleepnet.tokenizers", "sleepnet.trust",
    ),
    "sleepnet.sharding": ("sleepnet.adapters", "sleepnet.build", "sleepnet.cli", "sleepnet.config", "sleepnet.errors", "sleepnet.mesh"),
    "sleepnet.origin": ("sleepnet.config", "sleepnet.errors", "sleepnet.files", "sleepnet.methods", "sleepnet.optim", "sleepnet.step_folders", "sleepnet.tasks"),
    "sleepnet.checkpoint": ("sleepnet.adapters", "sleepnet.lineage", "sleepnet.build", "sleepnet.config", "sleepnet.errors", "sleepnet.files", "sleepnet.lock", MODELS, "sleepnet.orbax_log", "sleepnet.origin", "sleepnet.paths", "sleepnet.step_folders", "sleepnet.tasks", "sleepnet.trust"),
}
# everything but these
MAY_NOT = {"sleepnet.eval": ("sleepnet.train", "sleepnet.study"), "sleepnet.train": ("sleepnet.study",), "sleepnet.study": ()}


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, root: Path, modules: set[str]) -> set[str]:
    """Every module that a file imports, `from package import module` resolved to the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & modules or {node.module}
            found |= {node.module} if names - modules else set()
    return found


def graph() -> dict[str, set[str]]:
    roots = {ROOT / "sleepnet": ROOT, ROOT / "kernels" / "sleepnet_kernels": ROOT / "kernels"}
    files = {module_of(path, root): (path, root) for folder, root in roots.items() for path in sources(folder)}
    return {name: imports(path, root, set(files)) for name, (path, root) in files.items()}


GRAPH = graph()


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def rule_of(name: str) -> str | None:
    """The most special entry of the tables above that speaks of a module."""
    return max((entry for entry in (*MAY, *MAY_NOT) if within(name, entry)), key=len, default=None)


def test_the_sources_are_found():
    assert {"sleepnet.sleep", "sleepnet.models.hybrid", "sleepnet.train.loop", "sleepnet_kernels.dispatch"} <= GRAPH.keys()
    assert "sleepnet.sleep" in GRAPH["sleepnet.models.window"]
    assert "sleepnet_kernels.causal_conv1d" in GRAPH["sleepnet.models.fast_weight"]
    assert "sleepnet.tasks" in GRAPH["sleepnet.models.zoo"]


def test_kernels_know_nothing_of_the_library():
    for name, imported in GRAPH.items():
        if within(name, "sleepnet_kernels"):
            assert not [other for other in imported if within(other, "sleepnet")], name


@pytest.mark.parametrize("name", sorted(name for name in GRAPH if within(name, "sleepnet") and name != "sleepnet"))
def test_imports_follow_the_arrow(name):
    rule, ours = rule_of(name), {other for other in GRAPH[name] if within(other, "sleepnet")}
    assert rule is not None, f"{name} has no place in the table of this test yet"
    if rule in MAY:
        wrong = {other for other in ours if not any(within(other, entry) for entry in (rule, *MAY[rule]))}
    else:
        wrong = {other for other in ours if any(within(other, entry) for entry in MAY_NOT[rule])}
    assert not wrong, f"{name} must not import {sorted(wrong)}"


def test_only_models_touch_the_kernels():
    """One place decides which rule runs."""
    for name, imported in GRAPH.items():
        if within(name, "sleepnet") and not within(name, MODELS):
            assert not [other for other in imported if within(other, "sleepnet_kernels")], name


def test_models_other_than_the_zoo_know_no_task():
    assert not [name for name in GRAPH if within(name, MODELS) and name != f"{MODELS}.zoo" and any(within(other, "sleepnet.tasks") for other in GRAPH[name])]


def test_nothing_imports_the_experiments_the_tools_or_the_tests():
    for name, imported in GRAPH.items():
        assert not [other for other in imported if other.split(".")[0] in ("experiments", "tools", "tests")], name


def test_no_circles_but_those_inside_a_package():
    """Following imports at any depth, no package comes back to itself."""
    package = lambda name: name if name in (f"{MODELS}.zoo", f"{MODELS}.__main__") else ".".join(name.split(".")[:2])
    arrows = {}
    for name, imported in GRAPH.items():
        arrows.setdefault(package(name), set()).update(package(other) for other in imported if package(other) in map(package, GRAPH))

    def visit(name, path):
        assert name not in path, " → ".join((*path, name))
        for other in arrows.get(name, ()):
            if other != name and other != "sleepnet":
                visit(other, (*path, name))

    for name in arrows:
        visit(name, ())


def test_no_two_files_import_each_other():
    """Nor do three in a ring: whatever a file imports, at any depth, does not import it."""
    arrows = {name: {other for other in imported if other in GRAPH and other != name} for name, imported in GRAPH.items()}
    while leaves := {name for name, others in arrows.items() if not others}:
        arrows = {name: others - leaves for name, others in arrows.items() if name not in leaves}
    assert not arrows


def test_a_task_is_one_file_or_one_folder():
    """The contract, of any source and of benchmarks, the registry and exports beside them; everything else that tasks share is in one place."""
    shared = {"__init__", "__main__", "source", "base", "registry", "exported", "machinery"}
    entries = {path.stem for path in (ROOT / "sleepnet/tasks").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert entries - shared == set(tasks.names())


def test_what_lies_in_tools_is_a_command():
    """Its parts lie in folders, and are none."""
    commands = {path for path in sources(ROOT / "tools") if '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8")}
    assert commands == set((ROOT / "tools").glob("*.py"))


def test_files_stay_readable():
    folders = [ROOT / name for name in ("sleepnet", "kernels", "experiments", "tools")]
    long = {str(path.relative_to(ROOT)): lines for folder in folders for path in sources(folder) if (lines := len(path.read_text().splitlines())) > 500}
    assert not long


def test_the_top_of_the_repository_stays_small():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    made_here = {"runs", "build", "dist", "sleepnet.egg-info", "shared"}  # in an unpacked archive there is no index to ask
    top = {line.split("/")[0] for line in listed.stdout.splitlines()} or {path.name for path in ROOT.iterdir()} - made_here
    allowed = {"setup.py", "README.md", "LICENSE", "sleepnet", "kernels", "experiments", "tests", "tools"}
    others = {name for name in top - allowed if not name.startswith(".") and not name.endswith((".lock", "lock.txt"))}
    assert not others and allowed - {"experiments", "tools"} <= top
