"""The layers of the code: who may import whom, and who alone may use what.

Each module is in the table below, at a level. A module imports its own level or a lower one, and the imports that run
when a module is loaded form no cycle. An import inside a function counts for the levels, not for the cycles.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# (layer, room within it): 2 is modules → models, 6 is fairseq.knn → knnlm, 7 is options → commands.
LEVELS: dict[str, tuple[int, int]] = {
    # 0 base
    "fairseq": (0, 0),
    "fairseq.errors": (0, 0),
    "fairseq.config": (0, 0),
    "fairseq.registry": (0, 0),
    "fairseq.plugins": (0, 0),
    "fairseq.files": (0, 0),
    "fairseq.given_files": (0, 0),
    "fairseq.interrupts": (0, 0),
    "fairseq.resources": (0, 0),
    "fairseq.run_config": (0, 0),
    "fairseq.log": (0, 0),
    "fairseq.distributed": (0, 0),
    "fairseq.cache_config": (0, 0),
    "fairseq.generation_config": (0, 0),
    "fairseq.generation_run_config": (0, 0),
    "fairseq.score_config": (0, 0),
    "fairseq.tensorboard": (0, 0),
    # 1 data: fairseq.data.*
    # 2 models: fairseq.modules.* → fairseq.models.*
    # 3 learn: fairseq.criterions.*, fairseq.optim.*
    "fairseq.precision": (3, 0),
    # 4 assemble: fairseq.tasks.*
    "fairseq.checkpoints": (4, 0),
    "fairseq.conversion_config": (0, 0),
    "fairseq.conversion": (4, 0),
    "fairseq.train_config": (4, 0),
    "fairseq.checkpoint_checks": (4, 0),
    "fairseq.checkpoint_files": (4, 0),
    # 5 run
    "fairseq.scoring": (5, 0),
    "fairseq.cache": (5, 0),
    "fairseq.cache_sweep": (5, 0),
    "fairseq.perplexity": (5, 0),
    "fairseq.word_scores": (5, 0),
    "fairseq.sequence_scorer": (5, 0),
    "fairseq.hypotheses": (5, 0),
    "fairseq.beam_search": (5, 0),
    "fairseq.sampling": (5, 0),
    "fairseq.repeated_ngrams": (5, 0),
    "fairseq.next_token": (5, 0),
    "fairseq.generation": (5, 0),
    "fairseq.evaluation": (5, 0),
    "fairseq.model_opening": (5, 0),
    "fairseq.line_scoring": (5, 0),
    "fairseq.trainer": (5, 0),
    "fairseq.meters": (5, 0),
    "fairseq.validation": (5, 0),
    "fairseq.epoch": (5, 0),
    "fairseq.training": (5, 0),
    # 6 knn: fairseq.knn.* → knnlm
    "knnlm": (6, 1),
    # 7 cli: options → commands
    "fairseq.options": (7, 0),
    "build_dstore": (7, 1),
}
PACKAGES: dict[str, tuple[int, int]] = {
    "fairseq.data": (1, 0),
    "fairseq.modules": (2, 0),
    "fairseq.models": (2, 1),
    "fairseq.criterions": (3, 0),
    "fairseq.optim": (3, 0),
    "fairseq.tasks": (4, 0),
    "fairseq.hub": (5, 0),
    "fairseq.knn": (6, 0),
    "fairseq_cli": (7, 1),
}

NO_TORCH = (
    "fairseq.errors", "fairseq.config", "fairseq.registry", "fairseq.plugins", "fairseq.files", "fairseq.run_config",
    "fairseq.log", "fairseq.train_config", "fairseq.options", "fairseq.data", "fairseq.data.config",
    "fairseq.optim.config", "fairseq.models.transformer_config", "fairseq.knn.config",
    "fairseq.knn.recall_config", "fairseq.knn.sweep_config", "fairseq.knn.tool_config", "fairseq.conversion_config",
    "fairseq.cache_config", "fairseq.knn.cache_mix_config", "fairseq.knn.report_config", "fairseq.knn.lmbda_config",
    "fairseq.generation_config", "fairseq.generation_run_config",
    "fairseq.score_config", "fairseq.given_files",
)  # fmt: skip


@cache
def sources() -> dict[str, ast.Module]:
    """Returns the syntax tree of every module that is shipped, by its dotted name."""
    paths = [*(ROOT / "fairseq").rglob("*.py"), *(ROOT / "fairseq_cli").rglob("*.py")]
    paths += [path for name in ("knnlm.py", "build_dstore.py") if (path := ROOT / name).exists()]
    trees = {}
    for path in sorted(paths):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees


def level_of(module: str) -> tuple[int, int] | None:
    if module in LEVELS:
        return LEVELS[module]
    return next((level for package, level in PACKAGES.items() if f"{module}.".startswith(f"{package}.")), None)


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


def test_every_module_has_a_level() -> None:
    missing = [module for module in sources() if level_of(module) is None]
    assert not missing, f"add to LEVELS or PACKAGES: {missing}"


def test_the_table_names_no_module_that_is_gone() -> None:
    later = {"knnlm", "build_dstore"}
    assert set(LEVELS) - set(sources()) <= later


@pytest.mark.parametrize("module", sorted(sources()))
def test_imports_point_downwards(module: str) -> None:
    own = level_of(module)
    assert own is not None
    for name in imports(module):
        level = level_of(name)
        if level is not None:
            assert level <= own, f"{module} {own} imports {name} {level}, which lies above it"


def test_imports_form_no_cycle() -> None:
    graph = {m: {name for name in imports(m, at_load=True) if name in sources() and name != m} for m in sources()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_argparse_stays_with_config_options_and_commands() -> None:
    allowed = {"fairseq.config", "fairseq.options", "build_dstore"}
    assert {m for m in importers_of("argparse") if not m.startswith("fairseq_cli.")} <= allowed


def test_faiss_stays_in_the_knn_package() -> None:
    assert {m for m in importers_of("faiss") if not m.startswith("fairseq.knn.")} == set()


def test_matplotlib_stays_with_the_figures() -> None:
    figures = ("fairseq.knn.figure_style", "fairseq.knn.sweep_figures", "fairseq.knn.cache_figures")
    assert importers_of("matplotlib") <= {*figures}
    at_load = {name for module in figures for name in imports(module, at_load=True)}
    assert not any(name.startswith("matplotlib") for name in at_load)


def test_torch_distributed_stays_in_one_module() -> None:
    assert uses("torch.distributed") | importers_of("torch.distributed") <= {"fairseq.distributed"}


def test_memory_maps_stay_with_the_file_formats() -> None:
    owners = {"fairseq.data.indexed_dataset", "fairseq.knn.datastore", "fairseq.knn.retrieval"}
    assert uses("np.memmap") | uses("numpy.memmap") | uses("np.lib.format.open_memmap") <= owners


def test_the_toolkit_does_not_know_that_knn_exists() -> None:
    for package in ("fairseq.knn", "knnlm"):
        outside = {m for m in importers_of(package) if not m.startswith(("fairseq.knn", "fairseq_cli"))}
        assert outside <= {"knnlm", "build_dstore"}


@pytest.mark.parametrize("module", NO_TORCH)
def test_what_help_needs_imports_neither_torch_nor_faiss(module: str) -> None:
    """Follows imports to their end, packages on the way included."""
    todo, seen = [module], set[str]()
    while todo:
        name = todo.pop()
        assert name.split(".")[0] not in ("torch", "faiss"), f"{module} ends up importing {name}"
        if name in seen or name not in sources():
            continue
        seen.add(name)
        todo += [*imports(name, at_load=True), *(name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1))]


def test_nothing_evaluates_text_or_unpickles_files() -> None:
    forbidden = {
        "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler", "np.load",
        "numpy.load", "marshal.load", "marshal.loads", "shelve.open", "os.system", "os.popen", "torch.jit.load",
        "torch.hub.load", "runpy.run_path",
    }  # fmt: skip
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                assert dotted(node.func) not in forbidden, f"{module}:{node.lineno}"
                given = {k.arg for k in node.keywords}
                assert not given & {"shell", "allow_pickle"}, f"{module}:{node.lineno}"
    assert importers_of("subprocess") == set()


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
    assert {m for m in printing if not m.startswith("fairseq_cli.")} <= {"build_dstore"}


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
