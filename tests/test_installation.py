"""Real installs into fresh environments: our wheel beside Hugging Face's `kernels`, in either order."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers.utils.import_utils import KERNELS_MIN_VERSION

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("kernels", "pipelines", "launch", "unisign_fast", "pyproject.toml", "README.md", "LICENSE")
# Hugging Face's package in name and version; whatever transformers imports from it is there.
STAND_IN = """
from unittest.mock import MagicMock

def get_kernel(name):
    return f"{name}'s kernel"

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return MagicMock(name=name)
"""
THEIRS = """
import kernels
from transformers.utils import is_kernels_available
assert kernels.get_kernel("x") == "x's kernel" and "unisign" not in kernels.__file__, kernels.__file__
assert is_kernels_available()
"""
OURS = """
import sys
from unisign_fast import ModelConfig, UniSign, __version__
import unisign_fast, unisign_fast.kernels.registry, unisign_fast.pipelines.skeleton
assert sys.prefix in unisign_fast.__file__, unisign_fast.__file__
assert "deepspeed" not in sys.modules
"""
NONE = """
import importlib.util
assert importlib.util.find_spec({name!r}) is None
"""

FILES = """
from importlib.resources import files
print(*sorted(f.name for f in files("unisign_fast.report").iterdir() if not f.name.endswith((".py", "__pycache__"))))
"""


def run(*line: object, **options) -> str:
    """A command that has to succeed, outside the checkout and without its PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in line], capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wheel_of(source: Path, out: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """Our wheel, and one of a stand-in for Hugging Face's distribution `kernels`: same name, same top-level package."""
    folder = tmp_path_factory.mktemp("wheels")
    ours, theirs = folder / "source", folder / "hf"
    ours.mkdir()
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, ours / name, **({"symlinks": True} if copy is shutil.copytree else {}))
    (theirs / "kernels" / "layer").mkdir(parents=True)
    (theirs / "kernels" / "__init__.py").write_text(STAND_IN)
    (theirs / "kernels" / "layer" / "__init__.py").touch()
    (theirs / "kernels" / "layer" / "mode.py").write_text("from unittest.mock import MagicMock\nMode = MagicMock()\n")
    (theirs / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "kernels"\nversion = "{KERNELS_MIN_VERSION}"\n'
        '[tool.setuptools]\npackages = ["kernels", "kernels.layer"]\n'
    )
    return {"unisign-fast": wheel_of(ours, folder / "ours"), "kernels": wheel_of(theirs, folder / "theirs")}


@pytest.fixture
def environment(tmp_path) -> Callable[..., str]:
    """A fresh environment that finds this one's other packages; a call runs its Python in an empty folder."""
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    (site,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (tmp_path / "elsewhere").mkdir()
    return lambda *arguments: run(python, *arguments, cwd=tmp_path / "elsewhere")


@pytest.mark.slow
@pytest.mark.parametrize("order", [["unisign-fast", "kernels"], ["kernels", "unisign-fast"]], ids=" then ".join)
def test_both_distributions_live_beside_each_other(wheels, environment, order):
    pip = "-m", "pip", "-q", "--disable-pip-version-check"
    for name in order:
        environment(*pip, "install", "--no-deps", wheels[name])
    environment("-c", THEIRS + OURS)
    listed = environment("-c", "from unisign_fast.launch.main import main; main()")
    assert "translate" in listed
    first, second = order
    environment(*pip, "uninstall", "-y", first)
    environment("-c", (OURS if second == "unisign-fast" else THEIRS))
    gone = "unisign_fast" if first == "unisign-fast" else "kernels"
    environment("-c", NONE.format(name=gone))


@pytest.mark.slow
def test_the_installed_command_runs_the_scripts(wheels, environment, tmp_path):
    environment("-m", "pip", "-q", "install", "--no-deps", wheels["unisign-fast"])
    command = tmp_path / "venv" / "bin" / "unisign-fast"
    assert run(command, "translate", "--help", cwd=tmp_path).startswith("usage: unisign-fast translate")
    report = run(tmp_path / "venv" / "bin" / "python", "-c", FILES, cwd=tmp_path)
    sources = (file for file in (ROOT / "unisign_fast/report").iterdir() if file.suffix in (".j2", ".js", ".css"))
    assert report.split() == sorted(file.name for file in sources)
