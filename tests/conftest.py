"""What all tests share. Without a GPU, Triton kernels run in the interpreter, chosen here before its import."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
ROOT = Path(__file__).resolve().parents[1]
# Tests that start themselves as a script, on several ranks, import the same helpers there, and this checkout.
PLACES = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/helpers")]
os.environ["PYTHONPATH"] = os.pathsep.join([*PLACES, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture
def shared() -> Path:
    """Folder of real samples beside the checkout; a test that asks for it is skipped where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real samples are not in {folder}")
    return folder


@pytest.fixture(scope="module")
def network_files(tmp_path_factory):
    """ONNX files of stand-ins for a person detector and a pose network."""
    from pose_networks import write_detector, write_pose_network  # late import: it needs the extra `poses`

    folder = tmp_path_factory.mktemp("networks")
    return write_detector(folder / "detector.onnx"), write_pose_network(folder / "pose.onnx")


@pytest.fixture(scope="module")
def networks(network_files):
    """The stand-ins of `network_files`, opened; four crops a batch."""
    from unisign_fast.pipelines.pose_estimation.networks import PersonDetector, PoseNetwork

    return PersonDetector(network_files[0]), PoseNetwork(network_files[1], batch=4)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs the scripts of launch/ in forks of one process: `command(working folder, script, arguments...)`."""
    from command_server import command_server  # late import: most tests run no command

    with command_server(tmp_path_factory.mktemp("hub")) as run:
        yield run


@pytest.fixture(scope="module")
def short_store(tmp_path_factory) -> Path:
    """The store of short clips that the tests of commands train on."""
    from command_server import write_store

    return write_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def stage1_run(command, short_store, tmp_path_factory) -> Path:
    """A finished run of stage 1 on `short_store`."""
    from command_server import train_stage1

    return train_stage1(command, short_store, tmp_path_factory.mktemp("run"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked `slow` too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped without one, tests marked `slow` without --all."""
    skips = {}
    if not torch.cuda.is_available():
        skips["gpu"] = pytest.mark.skip(reason="needs a GPU")
    if not config.getoption("--all"):
        skips["slow"] = pytest.mark.skip(reason="takes long; --all runs it")
    for item in items:
        for name, skip in skips.items():
            if item.get_closest_marker(name):
                item.add_marker(skip)
