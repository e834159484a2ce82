"""The floors of the code: who may import whom, and who alone may use what.

A module imports its own package or a lower floor, and imports form no cycle. Imports inside functions and for type
checking count as well.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# The floors, from the ground up: one line a package. A module belongs to the longest name that it begins with.
FLOORS = [
    "fairseq fairseq.errors fairseq.arrays fairseq_knnlm",  # the last starts what lies above by name
    "fairseq.config.foreign",
    "fairseq.config fairseq.dataclass fairseq.plugins fairseq.logging fairseq.metrics fairseq.utils",
    "fairseq.storage",
    "fairseq.runtime",
    "fairseq.text",
    "fairseq.data fairseq.data.corpus",
    "fairseq.data.passages",
    "fairseq.modules",
    "fairseq.models",
    "fairseq.models.huggingface",
    "fairseq.optim",
    "fairseq.criterions",
    "fairseq.checkpoints",
    "fairseq.tasks",
    "fairseq.validate",
    "fairseq.train",
    "fairseq.evaluate",
    "fairseq.generate",
    "fairseq.hub fairseq.hub.huggingface",  # which the one's from_pretrained opens, and which is made of the other's
    "fairseq.knn fairseq.knn.config fairseq.knn.threads",
    "fairseq.knn.datastore",
    "fairseq.knn.dump",
    "fairseq.knn.index",
    "fairseq.knn.search",
    "fairseq.knn.shards",
    "fairseq.knn.neighbours fairseq.knn.distributed",  # an index in shards is opened as any other
    "fairseq.knn.retrieval",
    "fairseq.knn.maintain",
    "fairseq.knn.export",
    "fairseq.knn.sweep",
    "fairseq.knn.weight",
    "fairseq.knn.join",
    "fairseq.knn.report",
    "fairseq.knn.inspect",
    "fairseq.knn.plan",
    "knnlm",
    "fairseq.harness",
    "fairseq_cli.shared",
    "fairseq_cli build_dstore",
]
LEVELS = {name: level for level, names in enumerate(FLOORS) for name in names.split()}

# What --help needs: every module of such a name, and these.
LIGHT_NAMES = ("config", "common", "command_line", "flags", "registry", "errors")
LIGHT = (
    "fairseq.plugins.user_dir",
    "fairseq.storage.inputs",
    "fairseq.storage.files",
    "fairseq.runtime.endings",
    "fairseq.runtime.log",
    "fairseq_cli.shared.eval_settings",
    "fairseq_cli.shared.processes",
)


@cache
def sources() -> dict[str, ast.Module]:
    """Returns the syntax tree of every module that is shipped, by its dotted name."""
    paths = [*(ROOT / "fairseq").rglob("*.py"), *(ROOT / "fairseq_cli").rglob("*.py")]
    paths += [path for name in ("knnlm.py", "build_dstore.py", "fairseq_knnlm.py") if (path := ROOT / name).exists()]
    trees = {}
    for path in sorted(paths):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees


def level_of(module: str) -> int | None:
    """Returns the floor of one of our modules, None for another's; the top package holds docstring and version only."""
    if module.split(".")[0] not in ("fairseq", "fairseq_cli", "knnlm", "build_dstore", "fairseq_knnlm"):
        return None
    if module == "fairseq":
        return 0
    while module not in LEVELS:
        module = module.rpartition(".")[0]
    return LEVELS[module]


def imports(module: str, *, at_load: bool = False) -> Iterator[str]:
    """Yields the dotted names that a module imports; ``at_load`` leaves out functions and type checking."""
    yield from _imports(sources()[module], module, at_load)


def _imports(node: ast.AST, module: str, at_load: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if at_load and (isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _is_typing(child)):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}: relative imports hide who is imported"
            assert child.module is not None
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield inner if inner in sources() else child.module
        else:
            yield from _imports(child, module, at_load)


def _is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def importers_of(package: str) -> set[str]:
    """Returns the modules that import ``package`` or something under it, at any depth."""
    return {m for m in sources() if any(f"{name}.".startswith(f"{package}.") for name in imports(m))}


def dotted(node: ast.AST) -> str:
    """Returns ``a.b.c`` for such an expression, or an empty string."""
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return node.id if isinstance(node, ast.Name) else ""


def uses(name: str) -> set[str]:
    """Returns the modules in which the dotted ``name`` stands in an expression."""
    return {m for m, tree in sources().items() if any(dotted(node) == name for node in ast.walk(tree))}


def test_the_table_names_no_package_that_is_gone() -> None:
    names = set(sources())
    assert not {name for name in LEVELS if name not in names}


def test_every_package_has_a_floor_of_its_own() -> None:
    """A new folder must not hide behind the floor of the one that it lies in."""
    packages = {name.rpartition(".")[0] for name in sources() if name.count(".")} - {""}
    assert packages <= set(LEVELS)


def test_imports_point_downwards() -> None:
    upwards = []
    for module in sorted(sources()):
        own = level_of(module)
        assert own is not None, module
        for name in imports(module):
            level = level_of(name)
            if level is not None and level > own:
                upwards.append(f"{module} (floor {own}) imports {name} (floor {level}), which lies above")
    assert not upwards


def test_imports_form_no_cycle() -> None:
    graph = {m: {name for name in imports(m) if name in sources() and name != m} for m in sources()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_no_command_imports_another() -> None:
    for module in sources():
        if module.startswith("fairseq_cli.") or module == "build_dstore":
            ours = {name for name in imports(module) if name.startswith("fairseq_cli.")}
            commands = {name for name in ours if not name.startswith("fairseq_cli.shared")}
            assert not commands, f"{module} imports {commands}"


def test_what_was_typed_ends_in_the_commands() -> None:
    """Below them, functions take the values that they need."""
    naming = {
        module
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Name, ast.alias)) and (node.id if isinstance(node, ast.Name) else node.name) == "Flags"
    }
    assert {m for m in naming if not m.startswith(("fairseq.config", "fairseq_cli"))} == set()


def test_argparse_stays_with_config_options_and_commands() -> None:
    allowed = {"fairseq.config.flags", "fairseq.config.command_line", "fairseq.config.help"}
    assert {m for m in importers_of("argparse") if not m.startswith("fairseq_cli.")} <= allowed


def test_faiss_stays_in_the_knn_package() -> None:
    assert {m for m in importers_of("faiss") if not m.startswith("fairseq.knn.")} == set()


def test_matplotlib_stays_with_the_figures() -> None:
    figures = "fairseq.knn.sweep.figures"
    assert importers_of("matplotlib") == {figures}
    assert not any(name.startswith("matplotlib") for name in imports(figures, at_load=True))


def test_ray_stays_with_its_backend() -> None:
    backend = "fairseq.knn.distributed.ray_backend"
    assert importers_of("ray") == {backend}
    assert not any(name == "ray" for name in imports(backend, at_load=True))


def test_torch_distributed_stays_where_processes_meet() -> None:
    """Processes, what starts them, a model shared out among them, its checkpoints; plain runs load the first alone."""
    owners = {"fairseq.runtime.distributed", "fairseq.runtime.sharding", "fairseq.checkpoints.sharded"}
    owners |= {"fairseq.runtime.launcher"}
    assert uses("torch.distributed") | importers_of("torch.distributed") <= owners
    for owner in owners - {"fairseq.runtime.distributed"}:
        loading = {m for m in sources() if owner in imports(m, at_load=True)}
        light = not any(name.startswith("torch.distributed") for name in imports(owner, at_load=True))
        assert light or not loading, owner


def test_memory_maps_stay_with_the_file_formats() -> None:
    owners = {"fairseq.data.indexed_dataset", "fairseq.data.source_text"}
    owners |= {"fairseq.knn.datastore.store", "fairseq.knn.retrieval.retrieval"}
    assert uses("np.memmap") | uses("numpy.memmap") | uses("np.lib.format.open_memmap") <= owners


def test_the_toolkit_does_not_know_that_knn_exists() -> None:
    for package in ("fairseq.knn", "knnlm"):
        outside = {
            m for m in importers_of(package) if not m.startswith(("fairseq.knn", "fairseq.harness", "fairseq_cli"))
        }
        assert outside <= {"knnlm", "build_dstore"}


def test_what_help_needs_imports_nothing_that_takes_long() -> None:
    """Follows imports to their end, packages on the way included."""
    light = sorted(m for m in sources() if m in LIGHT or m.rpartition(".")[2] in LIGHT_NAMES)
    assert set(LIGHT) < set(light)
    todo, seen = [(module, module) for module in light], set[str]()
    while todo:
        name, importer = todo.pop()
        assert name.split(".")[0] not in ("torch", "faiss", "tqdm"), f"{importer} imports {name}"
        if name in seen or name not in sources():
            continue
        seen.add(name)
        packages = [name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)]
        todo += [(other, name) for other in (*imports(name, at_load=True), *packages)]


def test_nothing_evaluates_text_or_unpickles_files() -> None:
    forbidden = {
        "eval",
        "exec",
        "compile",
        "__import__",
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "np.load",
        "numpy.load",
        "marshal.load",
        "marshal.loads",
        "shelve.open",
        "os.system",
        "os.popen",
        "torch.jit.load",
        "torch.hub.load",
        "runpy.run_path",
    }
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                assert dotted(node.func) not in forbidden, f"{module}:{node.lineno}"
                given = {k.arg for k in node.keywords}
                assert not given & {"shell", "allow_pickle"}, f"{module}:{node.lineno}"
    assert importers_of("subprocess") == {"fairseq.knn.index.trial"}


def test_torch_load_reads_weights_only() -> None:
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and dotted(node.func) == "torch.load":
                given = {k.arg: k.value for k in node.keywords}
                only = given.get("weights_only")
                assert isinstance(only, ast.Constant) and only.value is True, f"{module}:{node.lineno}"


def test_only_commands_print() -> None:
    printing = {
        m
        for m, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted(node.func) in ("print", "sys.stdout.write", "sys.stdout.writelines")
    }
    assert {m for m in printing if not m.startswith("fairseq_cli.")} <= {"build_dstore", "fairseq_knnlm"}


def test_files_and_functions_stay_short() -> None:
    too_long = []
    for module, tree in sources().items():
        last = max((node.end_lineno or 0 for node in ast.walk(tree) if isinstance(node, ast.stmt)), default=0)
        if last > 300:
            too_long.append(f"{module}: {last} lines of 300")
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 60:
                    too_long.append(f"{module}.{node.name}: {lines} lines of 60")
    assert not too_long, too_long
