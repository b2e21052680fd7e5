"""One tree of settings: what a command line asks for, what settings.json records, and how it is read back."""

import json
from pathlib import Path

import pytest

from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.cli import parse
from unisign_fast.training.recipes import default_settings
from unisign_fast.training.settings import RunSettings, run_settings


def parsed(*arguments: str, stages: tuple[int, ...] = (1, 2)) -> RunSettings:
    return parse("A test.", stages, list(arguments))


def recorded(path: Path, settings: RunSettings, **changes) -> str:
    path.write_text(json.dumps(settings.as_json() | {"start": {"commit": "abc"}} | changes), encoding="utf-8")
    return str(path)


def test_a_recorded_run_is_repeated_and_options_override_it(tmp_path):
    options = ["--stage", "2", "--recipe", "base", "--learning-rate", "0.5", "--fusion", "cross", "--parts", "hands"]
    first = parsed(*options, "--stores", "a", "b", "--d-model", "64", "--betas", "0.8", "0.9", "--p-samp", "0.3")
    assert first.model.fusion == "cross" and first.model.mt5.d_model == 64 and first.train.betas == (0.8, 0.9)
    config = recorded(tmp_path / "settings.json", first)
    assert parsed("--config", config) == first
    again = parsed("--config", config, "--learning-rate", "0.25", "--out", "elsewhere")
    assert again.train.learning_rate == 0.25 and again.out == Path("elsewhere")
    assert again.model == first.model and again.data == first.data and again.stores == (Path("a"), Path("b"))


def test_a_run_to_start_from_means_its_best_model_else_its_last(tmp_path):
    run, model = tmp_path / "run", default_settings("demo", "published", 1).model
    chosen = [parsed("--stage", "2", "--start-from", str(run))]
    for name in ("last", "best"):
        (run / name).mkdir(parents=True)
        model.save(run / name / "config.json")
        chosen.append(parsed("--stage", "2", "--start-from", str(run)))
    assert [settings.source for settings in chosen] == [run / "best"] * 3  # read when it is needed
    assert [settings.settings for settings in chosen] == ["paper", "published", "published"]
    assert parsed("--stage", "2", "--start-from", str(run / "last")).source == run / "last"
    (run / "best" / "config.json").unlink()
    assert chosen[0].source == run / "last"


def test_settings_of_version_0_1_are_read(tmp_path):
    """Their model was the part of ModelConfig that came in variants; sizes were the recipe's."""
    settings = default_settings("demo", "paper", 1)
    old = settings.as_json()
    old["model"] = {"parts": "hands", "fusion": "cross"}
    old["train"] = {"epochs": 3}
    read = run_settings(tmp_path, old, settings)
    assert read.model.parts == "hands" and read.model.mt5 == settings.model.mt5 and read.train.epochs == 3


@pytest.mark.parametrize(
    "change, words",
    [
        ({"train": {"epochs": "many"}}, "epochs"),
        ({"train": {"speed": 1}}, "unknown field 'speed'"),
        ({"train": {"epochs": 0}}, "--epochs: 0 is not valid"),
        ({"stage": 9}, "settings.json: stage: is not a valid choice"),
        ({"recipe": ["demo"]}, "settings.json: recipe: is not a valid choice"),
        ({"data": {"task": None}}, "settings.json: task: is not a valid choice"),
        ({"data": 7}, "settings.json: data: is not a group of settings"),
        ({"stores": {"a": 1}}, "stores"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, change, words):
    config = recorded(tmp_path / "settings.json", default_settings("demo", "paper", 1), **change)
    with pytest.raises(InputError, match=words):
        parsed("--config", config)


def test_a_file_that_holds_no_settings_is_refused(tmp_path):
    for text, words in (
        ("[" * 100_000, "is JSON nested 100000 deep"),
        ("7", "does not hold a run's settings"),
        ("", "is not valid JSON"),
        ('{"a": ', "is not valid JSON"),
        ('{"recipe": "\\ud800"}', "is not valid JSON .*surrogates"),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match=f"x.json: {words}"):
            parsed("--config", str(tmp_path / "x.json"))
    with pytest.raises(InputError, match="nowhere.json: cannot be read"):
        parsed("--config", "nowhere.json")


def test_values_derived_from_the_data_are_not_options(capsys):
    for option in ("--rgb", "--head-classes", "--vocab-size"):
        with pytest.raises(SystemExit):
            parsed(option, "1")
    assert "Unrecognized" in capsys.readouterr().err
