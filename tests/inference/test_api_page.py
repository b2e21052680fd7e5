"""The examples of docs/api.md run, one after another, as a reader would type them."""

import re

from conftest import ROOT
from translation_parts import write_models, write_store


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    store = write_store(tmp_path / "store", [12, 40])
    names = {"MODEL": write_models(tmp_path)["pose"], "STORE": store, "VIDEO": store / "videos/0.mp4"}
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        exec(compile(example, "docs/api.md", "exec"), names)
    assert (tmp_path / "another folder" / "model.safetensors").is_file()
    assert "score" in capsys.readouterr().out
