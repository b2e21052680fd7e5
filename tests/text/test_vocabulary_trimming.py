"""A model trimmed to the pieces of a corpus gives the same texts as the full one, and can be restored to the full
one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_model_folder import build, refusal
from test_tokenizer import TEXTS
from test_unisign import POSE

from launch.convert import untrim
from unisign_fast.checkpoints.model_folder import save_model, start_from
from unisign_fast.model.unisign import UniSign
from unisign_fast.text.tokenizer import END, PAD, UNKNOWN, Tokenizer, train_tokenizer
from unisign_fast.text.vocabulary_trimming import MULTIPLE, rows_of, trim_tokenizer

KEPT = ["我喜欢茶。", "I like tea."]


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    """A model folder whose tokenizer knows more than KEPT, with more rows than pieces, as mT5 has."""
    tokenizer = train_tokenizer([*TEXTS, "Zebras graze quietly", "东南西北"], tmp_path_factory.mktemp("tokenizer"))
    config = replace(POSE, mt5=replace(POSE.mt5, vocab_size=len(tokenizer) + 12))
    folder = tmp_path_factory.mktemp("full") / "model"
    save_model(folder, config, build(config, seed=1).state_dict(), tokenizer)
    return folder


@pytest.fixture
def trimmed(full, tmp_path) -> tuple[UniSign, Tokenizer]:
    tokenizer = trim_tokenizer(Tokenizer(full), KEPT, tmp_path / "tokenizer")
    config = UniSign.load(full)[0].config
    model = UniSign(replace(config, mt5=replace(config.mt5, vocab_size=len(tokenizer))))
    start_from(model, full, rows_of(tokenizer, Tokenizer(full)))
    return model.eval(), tokenizer


def assert_same_pieces(small: Tokenizer, large: Tokenizer, texts: list[str]) -> None:
    rows = rows_of(small, large).tolist()
    for text in texts:
        assert [rows[token] for token in small.target_ids(text)] == large.target_ids(text)
        assert small.decode(small.target_ids(text)) == large.decode(large.target_ids(text))
    for language in ("zh", "en", "de"):
        assert [rows[token] for token in small.prompt_ids(language)] == large.prompt_ids(language)


def test_texts_keep_their_pieces(full, trimmed):
    _, small = trimmed
    large = Tokenizer(full)
    assert len(small) < len(large) and len(small) % MULTIPLE == 0
    assert_same_pieces(small, large, KEPT)
    assert rows_of(small, large)[:3].tolist() == [PAD, END, UNKNOWN]
    assert UNKNOWN in small.target_ids("北")


def test_real_texts_keep_their_real_pieces(shared, tmp_path):
    large = Tokenizer(shared / "mt5_tokenizer_zh")
    texts = [*TEXTS, "大家好，欢迎收看《共同关注》。", "２０２４年１２月３１日 NBA 3:1"]
    small = trim_tokenizer(large, texts, tmp_path)
    assert len(small) < len(large) and len(small) % MULTIPLE == 0
    assert_same_pieces(small, large, texts)
    assert trim_tokenizer(small, texts, tmp_path / "again").pieces() == small.pieces()


def test_a_trimmed_model_has_the_rows_of_its_pieces(full, trimmed):
    model, tokenizer = trimmed
    before, large = UniSign.load(full)
    rows = rows_of(tokenizer, large)
    ids = torch.tensor(tokenizer.target_ids(KEPT[0]))
    assert torch.equal(*model.language_model.embed(ids), *before.language_model.embed(rows[ids]))
    hidden_D = torch.rand(model.config.mt5.d_model)
    logits, all_logits = (m.language_model.mt5.lm_head(hidden_D) for m in (model, before))
    torch.testing.assert_close(logits, all_logits[rows], rtol=1e-6, atol=0)
    assert torch.equal(model.projection.weight, before.projection.weight)


def test_the_full_model_can_be_restored(full, trimmed, tmp_path):
    model, tokenizer = trimmed
    with torch.no_grad():
        for parameter in model.parameters():  # as if trained
            parameter += 1
    save_model(tmp_path / "trimmed", model.config, model.state_dict(), tokenizer)
    untrim(str(tmp_path / "trimmed"), str(full), tmp_path / "again")
    (again, large), before = UniSign.load(tmp_path / "again"), UniSign.load(full)[0]
    assert again.config == before.config and large.pieces() == Tokenizer(full).pieces()
    rows, own = rows_of(tokenizer, large), model.state_dict()
    others = torch.ones(before.config.mt5.vocab_size, dtype=torch.bool).index_fill_(0, rows, False)
    for name, weight in again.state_dict().items():
        if weight.shape == own[name].shape:
            assert torch.equal(weight, own[name]), name
        else:
            assert torch.equal(weight[rows], own[name]), name
            assert torch.equal(weight[others], before.state_dict()[name][others]), name
    assert "--out: " in refusal(untrim, str(tmp_path / "trimmed"), str(full), tmp_path / "again")


def test_another_full_model_is_refused(full, trimmed, tmp_path):
    model, tokenizer = trimmed
    save_model(tmp_path / "trimmed", model.config, model.state_dict(), tokenizer)
    other = train_tokenizer(["tea"], tmp_path / "tokenizer")
    save_model(tmp_path / "other", model.config, model.state_dict(), other)
    said = refusal(untrim, str(tmp_path / "trimmed"), str(tmp_path / "other"), tmp_path / "again")
    assert "spiece.model: has the piece " in said and "name the model that the trimmed one was made from" in said
