"""Languages by any code, with a name from the table or from the user."""

import json
from dataclasses import replace

import pytest
from clip_stores import batch_of, pose, reader, write_store
from translation_parts import write_models

from unisign_fast.inference.processor import Processor
from unisign_fast.pipelines.corpus.statistics import describe, read_corpus
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.pipelines.targets import LANGUAGES, _name_in_table, language_name, read_language
from unisign_fast.text.tokenizer import UNKNOWN, prompt, train_tokenizer
from unisign_fast.training.run_language import training_texts


def test_the_published_names_are_those_of_the_table():
    assert {code: _name_in_table(code) for code in LANGUAGES} == LANGUAGES


@pytest.mark.parametrize(
    ("given", "code", "name"),
    [
        ("gsw", "gsw", "Swiss German"),
        ("zh-Hant", "zh-Hant", "Chinese (Traditional)"),
        ("deu", "de", "German"),
        ("DE", "de", "German"),
        ("ase", "ase", "American Sign Language"),
        ("qaa=Bernese German", "qaa=Bernese German", "Bernese German"),
        ("de=Low German", "de=Low German", "Low German"),
    ],
)
def test_any_language_has_a_name_for_the_prompt(given, code, name):
    assert read_language(given) == code and language_name(code) == name
    assert prompt(code) == f"Translate sign language video to {name}: "
    assert DataSettings(language=given).language == code


@pytest.mark.parametrize(
    "given", ["xx", "qaa", "english", "", "=Name", "gsw=", "gsw= ", "a b=c", "gsw=a\nb", "de=\x1b"]
)
def test_languages_that_cannot_be(given):
    with pytest.raises(InputError) as error:
        DataSettings(language=given)
    assert "\n" not in str(error.value) and str(error.value).startswith("--language: ")
    assert "give a code of BCP-47 or ISO 639, or CODE=NAME" in str(error.value)


def test_a_store_remembers_the_name(tmp_path):
    clips = [{"language": "qaa=Bernese German", "translations": {"de": "Tee"}, "text": "Tee gä"}]
    store = write_store(tmp_path, clips)
    assert KeypointStore.open(tmp_path).clips[0].language == "qaa=Bernese German"
    r = reader(store, DataSettings(p_samp=0))
    seen = []
    r.tokenizer.prompt_ids = lambda language: seen.append(prompt(language)) or [1]
    for language, text in ((None, "Tee gä"), ("qaa=My Dialect", "Tee gä"), ("de", "Tee")):
        r.settings = replace(r.settings, language=language)
        assert batch_of(r, [0]).texts == [text]
    assert [said.split(" to ")[1] for said in seen] == ["Bernese German: ", "My Dialect: ", "German: "]
    assert "qaa train" in describe(read_corpus([tmp_path])) and "words (qaa)" in describe(read_corpus([tmp_path]))
    with pytest.raises(InputError, match="clip a: language: is 'xx'; use a code of BCP-47 or ISO 639, or CODE=NAME"):
        write_store(tmp_path / "bad", [{"id": "a", "language": "xx"}])


def test_tokenizers_of_a_corpus_know_its_prompt(tmp_path):
    store = write_store(tmp_path / "store", [{"language": "qaa=Ωψ", "text": "abc"}, {"language": "de", "text": "def"}])
    assert training_texts([store], "en") == ["abc", "def", prompt("qaa=Ωψ")]
    assert training_texts([store], "gsw")[2:] == [prompt("gsw"), prompt("qaa=Ωψ")]
    tokenizer = train_tokenizer(training_texts([store], None), tmp_path / "tokenizer")
    assert UNKNOWN not in tokenizer.prompt_ids("qaa=Ωψ")


def test_a_model_writes_the_language_of_its_training(tmp_path):
    folder = write_models(tmp_path)["pose"]
    settings = folder / "preprocessor_config.json"
    values = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps(values | {"language": "qaa=Bernese German"}), encoding="utf-8")
    processor = Processor.from_pretrained(folder)
    assert processor.language == "qaa=Bernese German"
    own = Processor.from_pretrained(folder, language="gsw")
    for one, language in ((processor, "qaa=Bernese German"), (own, "gsw")):
        batch = one(pose(10))
        assert batch.prompt_ids[0].tolist() == one.tokenizer.prompt_ids(language)
