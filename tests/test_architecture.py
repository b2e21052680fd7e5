"""The house's rules: imports run one way, packages have no cycle, and every place that a document names is there."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {  # a top-level folder, and whom it may know
    "kernels": {"kernels"},
    "pipelines": {"pipelines"},
    "unisign_fast": {"kernels", "pipelines", "unisign_fast"},
    "launch": {"kernels", "pipelines", "unisign_fast", "launch"},
    "benchmarks": {"kernels", "pipelines", "unisign_fast", "benchmarks", "launch"},
}


def module_of(path: Path) -> str:
    """Dotted name by folders, `pipelines.store.manifest`; a package is named as its folder."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_files(root: Path) -> Iterator[Path]:
    """Our Python files, relative to the root. links in `unisign_fast` are counted once."""
    for top in MAY_IMPORT:
        for path in sorted((root / top).rglob("*.py")):
            relative = path.relative_to(root)
            if "__pycache__" not in relative.parts and relative.parts[:2] not in (
                ("unisign_fast", "kernels"),
                ("unisign_fast", "pipelines"),
                ("unisign_fast", "launch"),
            ):
                yield relative


def imported(root: Path, path: Path) -> Iterator[str]:
    """The dotted names that a file imports, by folders; imports for type checkers only are left out."""
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    package = path.parts[:-1]
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            names = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            for link in ("unisign_fast.kernels", "unisign_fast.pipelines", "unisign_fast.launch"):
                if name == link or name.startswith(link + "."):
                    name = name.removeprefix("unisign_fast.")
            if name.partition(".")[0] in MAY_IMPORT:
                yield name


def wrong_imports(root: Path) -> list[str]:
    """Imports against the house's one way."""
    return [
        f"{path} imports {name}"
        for path in source_files(root)
        for name in imported(root, path)
        if name.partition(".")[0] not in MAY_IMPORT[path.parts[0]]
    ]


def package_cycle(root: Path) -> list[str] | None:
    """Packages that import each other in a circle, the first one again at the end; None where there is no circle.

    A package is a folder with modules; a module directly below a top-level folder stands for itself.
    """
    files = [path for path in source_files(root) if path.parts[0] in ("kernels", "pipelines", "unisign_fast")]
    modules = {module_of(path) for path in files}

    def package(name: str) -> str:
        while name not in modules and "." in name:
            name = name.rpartition(".")[0]
        return ".".join(name.split(".")[:2])

    edges: dict[str, set[str]] = {}
    for path in files:
        own = package(module_of(path))
        for name in imported(root, path):
            other = package(name)
            if other != own and "." in other:
                edges.setdefault(own, set()).add(other)
    done: set[str] = set()

    def visit(node: str, way: list[str]) -> list[str] | None:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return None
        for other in sorted(edges.get(node, ())):
            if circle := visit(other, [*way, node]):
                return circle
        done.add(node)
        return None

    for node in sorted(edges):
        if circle := visit(node, []):
            return circle
    return None


def test_imports_run_one_way():
    assert wrong_imports(ROOT) == []


def test_packages_have_no_cycle():
    assert package_cycle(ROOT) is None


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A small tree in which `pipelines.store` and `pipelines.clips` import each other, and `kernels` the model."""
    for name, text in {
        "pipelines/store/a.py": "def f():\n    from ..clips import b\n",
        "pipelines/clips/b.py": "from ..store.a import f\n",
        "kernels/op.py": "from unisign_fast.model.unisign import UniSign\n",
        "unisign_fast/model/unisign.py": "from unisign_fast.pipelines.store import a\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_planted_cycle_and_a_wrong_import_are_found(planted: Path):
    assert {*package_cycle(planted)} == {"pipelines.clips", "pipelines.store"}
    assert wrong_imports(planted) == ["kernels/op.py imports unisign_fast.model.unisign.UniSign"]
