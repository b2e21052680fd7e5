"""Texts to mT5's tokens and back, with a tokenizer trained here and with mT5's actual pieces."""

from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.targets import LANGUAGES
from unisign_fast.text.tokenizer import END, MAX_TARGET_TOKENS, PAD, UNKNOWN, Tokenizer, train_tokenizer

TEXTS = ["我喜欢茶。", "I like tea.", "他明天去学校，你呢？", "Does he go to school tomorrow?", "我 喜欢 茶"] * 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return train_tokenizer(TEXTS, tmp_path_factory.mktemp("tokenizer"))


def test_special_ids_are_mt5s(tokenizer):
    pieces = SentencePieceProcessor(model_file=str(tokenizer.path))
    assert (PAD, END, UNKNOWN) == (pieces.pad_id(), pieces.eos_id(), pieces.unk_id()) == (0, 1, 2)
    assert pieces.bos_id() == -1
    assert len(tokenizer) == pieces.get_piece_size()


@pytest.mark.parametrize("text", sorted(set(TEXTS)))
def test_decoding_restores_the_text(tokenizer, text):
    ids = tokenizer.target_ids(text)
    assert ids[-1] == END and not {PAD, END, UNKNOWN} & set(ids[:-1])
    assert tokenizer.decode(ids) == text.replace("，", ",").replace("？", "?"), "full-width marks are folded, as by mT5"


def test_prompt_names_the_language_and_ends(tokenizer):
    for language, name in (("zh", "Chinese"), ("en", "English")):
        ids = tokenizer.prompt_ids(language)
        assert ids.count(END) == 1 and ids[-1] == END and UNKNOWN not in ids
        assert tokenizer.decode(ids) == f"Translate sign language video to {name}:"
    assert len({tuple(tokenizer.prompt_ids(language)) for language in ("zh", "en")}) == 2
    with pytest.raises(InputError, match="language: 'xx' is not known; give CODE=NAME with its English name"):
        tokenizer.prompt_ids("xx")


def test_targets_are_cut_with_their_end(tokenizer):
    word = tokenizer.target_ids("tea")[:-1]
    for words in range(1, 3 * MAX_TARGET_TOKENS):
        ids = tokenizer.target_ids(" ".join(["tea"] * words))
        assert ids == (word * words)[: MAX_TARGET_TOKENS - 1] + [END]
    assert len(ids) == MAX_TARGET_TOKENS == 50
    assert tokenizer.target_ids("") == [END]


def test_decoding_stops_at_the_end_token_and_skips_special_ids(tokenizer):
    tea = tokenizer.target_ids("tea")
    assert tokenizer.decode([PAD, *tea, *tokenizer.target_ids("school"), PAD]) == "tea"
    beyond = [len(tokenizer), len(tokenizer) + 1000]  # mT5's embedding has more rows than there are pieces
    assert tokenizer.decode([*tea[:-1], PAD, UNKNOWN, *beyond]) == "tea"
    assert tokenizer.decode([]) == tokenizer.decode([END, *tea]) == ""


def test_training_gives_the_same_bytes_anywhere(tokenizer, tmp_path):
    again = train_tokenizer(iter(TEXTS), tmp_path / "another" / "folder")
    assert again.path.read_bytes() == tokenizer.path.read_bytes()
    assert [path.name for path in again.path.parent.iterdir()] == ["spiece.model"]
    assert train_tokenizer(TEXTS[:1], tmp_path).path.read_bytes() != tokenizer.path.read_bytes()


def test_a_codec_is_copied_into_a_folder(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    copy = Tokenizer(tmp_path)
    copy.save(tmp_path)  # onto itself
    assert copy.path.read_bytes() == tokenizer.path.read_bytes()


@pytest.mark.parametrize("content", [b"", b"no model", "half"])
def test_a_broken_model_is_named(tokenizer, tmp_path, content):
    path = tmp_path / "spiece.model"
    whole = tokenizer.path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(InputError, match="spiece.model: is not a SentencePiece model; copy"):
        Tokenizer(tmp_path)


def test_a_missing_model_is_named(tmp_path):
    for place in (tmp_path, tmp_path / "spiece.model", tmp_path / "no" / "folder"):
        with pytest.raises(InputError, match=f"^{tmp_path}.*: does not exist; copy mT5's spiece.model there"):
            Tokenizer(place)


# --- mT5's own pieces


@pytest.fixture
def real(shared: Path) -> Tokenizer:
    return Tokenizer(shared / "mt5_tokenizer_zh")


def test_real_pieces_fold_full_width_marks_into_known_ones(real):
    """mT5's Unicode normalisation, lost where the vocabulary is wrapped anew: a comma of most Chinese labels."""
    for wide, narrow in zip("，？！：；（）％＋－＝１Ａ", ",?!:;()%+-=1A", strict=True):
        ids = real.target_ids(wide)
        assert ids == real.target_ids(narrow) and UNKNOWN not in ids
        assert real.decode(ids) == narrow
    assert real.target_ids("我喜欢，茶？") == real.target_ids("我喜欢,茶?")
    assert real.decode(real.target_ids("我喜欢。《茶》、“水”")) == "我喜欢。《茶》、“水”", (
        "these have pieces of their own"
    )


def test_real_pieces_know_every_prompt(real):
    for language, name in LANGUAGES.items():
        ids = real.prompt_ids(language)
        assert UNKNOWN not in ids and real.decode(ids) == f"Translate sign language video to {name}:"
