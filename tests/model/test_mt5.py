"""mT5 over packed sequences gives what Hugging Face's gives over padded ones, on every backend."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from unisign_fast.kernels.dispatch import forcing
from unisign_fast.kernels.packing import Packing
from unisign_fast.kernels.testing import repair_interpreter
from unisign_fast.model.config import MT5Shape
from unisign_fast.model.dropout import Dropout
from unisign_fast.model.mt5 import LanguageModel

SHAPE = MT5Shape(
    vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=3, dropout_rate=0.0
)
LENGTHS, LABELS = [150, 1, 7, 40], [3, 9, 1, 5]  # beyond the 128 positions that buckets of distance tell apart


@pytest.fixture
def language_model() -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(SHAPE, label_smoothing=0.2)
    for name, parameter in model.named_parameters():
        if "layer_norm" in name or "relative_attention_bias" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    return model


def padded_labels() -> torch.Tensor:
    labels = torch.randint(1, 50, (len(LABELS), max(LABELS)), generator=torch.Generator().manual_seed(1))
    for row, length in zip(labels, LABELS):
        row[length:] = -100
    return labels


@pytest.mark.parametrize("backend", ["reference", "cpu", "gpu"])
def test_packed_equals_padded_forward_and_backward(language_model, backend):
    repair_interpreter()
    with forcing(backend):
        _compare_with_hugging_face(language_model)


def _compare_with_hugging_face(language_model: LanguageModel) -> None:
    packing, targets = (Packing(lengths, torch.device("cpu")) for lengths in (LENGTHS, LABELS))
    labels = padded_labels()
    x_PD = torch.randn(sum(LENGTHS), 32, requires_grad=True)
    hidden_PD = language_model.encode(x_PD, packing)
    loss = language_model.token_loss(hidden_PD, packing, targets.pack(labels), targets)
    wanted = [x_PD, *language_model.parameters()]
    ours = torch.autograd.grad(loss, wanted)

    mask = packing.mask_BS.long()
    encoded = language_model.mt5.encoder(inputs_embeds=packing.pad(x_PD), attention_mask=mask).last_hidden_state
    torch.testing.assert_close(hidden_PD, packing.pack(encoded), rtol=1e-5, atol=1e-5)
    decoded = language_model.mt5.decoder(
        input_ids=language_model.mt5._shift_right(labels),
        encoder_hidden_states=encoded,
        encoder_attention_mask=mask,
        use_cache=False,
    ).last_hidden_state
    logits = language_model.mt5.lm_head(decoded).flatten(0, 1)
    plain = cross_entropy(logits, labels.flatten(), ignore_index=-100, reduction="sum", label_smoothing=0.2)
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    names = ["input", *(name for name, _ in language_model.named_parameters())]
    for name, mine, theirs in zip(names, ours, torch.autograd.grad(plain, wanted), strict=True):
        scale = theirs.abs().max()
        assert scale > 0 and (mine - theirs).abs().max() < 2e-5 * scale, name


def test_dropout_is_drawn_where_hugging_face_draws_it(language_model):
    """The numbers differ, but the mean loss is the same, and different from that without dropout."""
    packing = Packing(LENGTHS, torch.device("cpu"))
    x_PD = torch.randn(sum(LENGTHS), 32)
    for part in language_model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.3
        if hasattr(part, "key_value_proj_dim"):
            part.dropout = 0.3
    language_model.train()
    mask = packing.mask_BS.long()
    ours, theirs = [], []
    with torch.no_grad():
        for _ in range(60):
            ours.append(language_model.encode(x_PD, packing).pow(2).mean())
            padded = language_model.mt5.encoder(inputs_embeds=packing.pad(x_PD), attention_mask=mask).last_hidden_state
            theirs.append(packing.pack(padded).pow(2).mean())
        without = language_model.eval().encode(x_PD, packing).pow(2).mean()
    ours, theirs = torch.stack(ours), torch.stack(theirs)
    assert abs(ours.mean() - theirs.mean()) < 4 * theirs.std() / 60**0.5
    assert abs(ours.mean() - without) > 10 * theirs.std() / 60**0.5


def test_dropout_does_nothing_in_evaluation():
    x = torch.ones(3)
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0)(x) is x


def test_packing_and_padding_are_each_others_reverse():
    packing = Packing([2, 3, 1], torch.device("cpu"))
    x = torch.arange(6.0)[:, None].requires_grad_()
    padded = packing.pad(x)
    assert padded.squeeze(-1).tolist() == [[0, 1, 0], [2, 3, 4], [5, 0, 0]]
    assert packing.mask_BS.tolist() == [[True, True, False], [True, True, True], [True, False, False]]
    assert torch.equal(packing.pack(padded), x) and torch.equal(packing.pack(torch.cat([padded, padded], 1)), x)
    assert packing.seq_ids_P.tolist() == [0, 0, 1, 1, 1, 2] and packing.position_P.tolist() == [0, 1, 0, 1, 2, 0]
    even = Packing([2, 2], torch.device("cpu"))
    assert even.pad(torch.arange(4)).tolist() == [[0, 1], [2, 3]]
