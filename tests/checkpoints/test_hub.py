"""Upload and download with huggingface_hub's own client, against a stand-in for the hub; and a failing hub."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import TOKEN, StandIn, hub_stand_in
from huggingface_hub import constants
from test_model_folder import build, refusal
from test_unisign import POSE

from unisign_fast.checkpoints import hub
from unisign_fast.checkpoints.model_folder import find_model, save_model
from unisign_fast.model.unisign import UniSign
from unisign_fast.text.tokenizer import train_tokenizer

ROOT, MINE = Path(__file__).resolve().parents[2], "somebody/unisign"
DEAD = "http://127.0.0.1:9"  # no server listens there
# Prints the outcome of each step as JSON: a result, or the error line.
SCRIPT = f"""
import json, sys
import torch
from huggingface_hub import constants
from unisign_fast import UniSign
from unisign_fast.pipelines.errors import InputError

model = UniSign.from_pretrained(sys.argv[1])

def pull(repo_id):
    pulled = UniSign.from_pretrained(repo_id)
    assert pulled.companions.data == model.companions.data and pulled.companions.card == model.companions.card
    own, other = model.state_dict(), pulled.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)

def pull_without_hub(repo_id):
    constants.ENDPOINT = "{DEAD}"
    return pull(repo_id)

for step, repo_id in json.loads(sys.argv[2]):
    try:
        print(json.dumps((model.push_to_hub if step == "push" else globals()[step])(repo_id)))
    except InputError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["我喜欢茶。", "I like tea."], root / "tokenizer")
    save_model(root / "model", POSE, build(POSE, seed=1).state_dict(), tokenizer)
    return root / "model"


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with hub_stand_in() as server:
        yield server


@pytest.fixture
def no_answers(folder, monkeypatch, tmp_path):
    """What push and pull raise at a hub's address, in this process."""
    model = UniSign.from_pretrained(folder)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def ask(address: str, timeout: float = 60) -> tuple[str, str]:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(hub, "HUB_TIMEOUT", timeout)
        push, pull = refusal(model.push_to_hub, MINE), refusal(find_model, MINE)
        assert push.startswith(f"{MINE}: cannot be uploaded to {address} (") and "\n" not in push + pull
        return push, pull

    return ask


def test_a_model_goes_to_the_hub_and_comes_back_equal(folder, stand_in, tmp_path):
    address = stand_in.address
    steps = [("push", MINE), ("push", MINE), ("pull", MINE), ("pull", "somebody/else"), ("push", "else/x")]
    steps += [("push", "a b"), ("pull_without_hub", MINE)]
    ours = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), json.dumps(steps)],
        env=others | ours | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    pushed, again, pulled, missing, foreign, no_id, from_cache = map(json.loads, done.stdout.splitlines())
    assert pushed == again == f"{address}/{MINE}" and pulled is True and from_cache is True
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert stand_in.repositories == {MINE: files}
    assert files["model.safetensors"] in stand_in.lfs_objects.values()
    assert missing.startswith(
        f"somebody/else: is not a folder, and {address} has no such model; name a folder, or put "
    )
    assert foreign.startswith(f"else/x: cannot be uploaded to {address} (403 Forbidden")
    assert foreign.endswith("; check the name, the token (hf auth login, or HF_TOKEN) and the network")
    assert no_id == "a b: is not a hub id; name it OWNER/MODEL"


def test_a_hub_that_refuses_or_fails_is_asked_once(stand_in, no_answers, monkeypatch):
    stand_in.status = 503
    push, pull = no_answers(stand_in.address)
    assert "503" in push and f"is not a folder, and {stand_in.address} refused the download (" in pull and "503" in pull
    assert stand_in.requests == ["GET /api/whoami-v2", f"GET /api/models/{MINE}"]
    stand_in.status = None
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    push, _ = no_answers(stand_in.address)
    assert "Invalid user token" in push


@pytest.mark.parametrize("kind", ["nobody listens", "nobody answers", "no such host", "offline"])
def test_a_hub_that_cannot_be_reached_is_one_line(no_answers, monkeypatch, kind):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        addresses = {
            "nobody answers": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "no such host": "http://x.invalid",
        }
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", kind == "offline")
        push, pull = no_answers(addresses.get(kind, DEAD), 0.5 if kind == "nobody answers" else 60)
    assert pull.startswith(
        f"{MINE}: is not a folder or a cached download, and the hub is unreachable (or HF_HUB_OFFLINE is set)"
    )
    if kind == "nobody answers":
        assert "(no answer within 0.5 s)" in push
