"""mT5 over packed sequences gives what Hugging Face's gives over padded ones, the vocabulary loss what torch's does."""

import pytest
import torch
from torch.nn.functional import cross_entropy, rms_norm

from unisign_fast.model import mt5 as packed_mt5
from unisign_fast.model import vocabulary_loss as module
from unisign_fast.model.clip_attention import clip_attention
from unisign_fast.model.config import MT5Shape
from unisign_fast.model.dropout import Dropout, kept
from unisign_fast.model.gated_product import gated_product
from unisign_fast.model.mt5 import LanguageModel
from unisign_fast.model.normed_projections import normed_projections
from unisign_fast.kernels.packing import Packing
from unisign_fast.model.vocabulary_loss import vocabulary_loss

SHAPE = MT5Shape(
    vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_decoder_layers=2, num_heads=4, dropout_rate=0.0
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


@pytest.mark.parametrize("by_clip", [True, False], ids=["clip by clip, as on a CPU", "padded, as on a GPU"])
def test_packed_equals_padded_forward_and_backward(language_model, by_clip, monkeypatch):
    monkeypatch.setattr(packed_mt5, "_on_cpu", lambda device: by_clip)
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
    """Not the same numbers, but on average the same loss, and other than without."""
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


@pytest.mark.parametrize("p", [0.0, 0.1, 0.73, 1.0])
def test_dropout_keeps_its_share_and_the_mean(p):
    torch.manual_seed(0)
    x = torch.full((333, 1001), 2.0, requires_grad=True)
    y = Dropout(p)(x)
    y.sum().backward()
    share = (y > 0).float().mean().item()
    assert share == pytest.approx(1 - p, abs=4e-3) and y.mean().item() == pytest.approx(2.0 * (p < 1), abs=0.03)
    assert torch.equal(2 * x.grad, y.detach()), "the gradient passes where the value did"
    assert Dropout(p).eval()(x) is x
    torch.manual_seed(0)
    assert torch.equal(Dropout(p)(x), y), "follows from torch's seed"


def test_dropout_of_neighbours_is_independent():
    torch.manual_seed(0)
    mask = kept(torch.Size([2**20]), 0.5)[0].float()
    for apart in (1, 2, 3, 4):
        assert abs((mask[apart:] * mask[:-apart]).mean().item() - 0.25) < 3e-3


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_attention_clip_by_clip_is_attention(p):
    torch.manual_seed(0)
    queries, keys = Packing([3, 1, 5], torch.device("cpu")), Packing([4, 6, 2], torch.device("cpu"))
    inputs = [torch.randn(rows, 8, requires_grad=True) for rows in (9, 12, 12)] + [torch.randn(2, 5, 6)]
    inputs[3].requires_grad_()
    torch.manual_seed(1)
    result = clip_attention(*inputs[:3], queries, keys, 2, inputs[3], p)
    torch.manual_seed(1)
    query, key, value, bias = inputs
    clips = zip(query.split(queries.lengths), key.split(keys.lengths), value.split(keys.lengths))
    expected = []
    for clip in clips:
        one, other, third = (x.unflatten(1, (2, 4)).transpose(0, 1) for x in clip)
        weights = (one @ other.mT + bias[:, : one.shape[1], : other.shape[1]]).softmax(-1)
        mask, scale = kept(weights.shape, p) if p else (1.0, 1.0)
        expected.append((weights * mask * scale @ third).transpose(0, 1).flatten(1))
    _assert_same(result, torch.cat(expected), inputs)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_gated_feed_forward_is_hugging_faces(p, language_model):
    layer = language_model.mt5.encoder.block[0].layer[1]
    norm, module = layer.layer_norm, layer.DenseReluDense
    inputs = [torch.randn(300, 32, requires_grad=True), *layer.parameters()]
    module.dropout.p = p
    torch.manual_seed(1)
    gate, up = normed_projections(inputs[0], norm.weight, norm.variance_epsilon, module.wi_0.weight, module.wi_1.weight)
    result = gated_product(gate, up, module.wo.weight, p)
    torch.manual_seed(1)
    _assert_same(result, module.train()(norm(inputs[0])), inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_projections_of_a_normalised_input_keep_it_alone(dtype):
    torch.manual_seed(0)
    shapes = (7, 16), (16,), (5, 16), (3, 16), (16, 16)
    x, scale, *weights = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        result = normed_projections(x, scale, 1e-6, *weights)
    assert sorted(map(torch.numel, kept)) == sorted([7, *map(torch.numel, (x, scale, *weights))])
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, scale, *weights)]
    expected = [rms_norm(exact[0], (16,), exact[1], 1e-6) @ weight.T for weight in exact[2:]]
    upstream = [torch.randn(7, len(weight)) for weight in weights]
    of_found = torch.autograd.grad(result, [x, scale, *weights], [one.to(dtype) for one in upstream])
    of_expected = torch.autograd.grad(expected, exact, [one.to(dtype).double() for one in upstream])
    tolerance = 1e-10 if dtype == torch.float64 else 3e-2
    for mine, theirs in zip((*result, *of_found), (*expected, *of_expected), strict=True):
        assert mine.dtype == dtype and (mine - theirs).norm() < tolerance * theirs.norm()


def _assert_same(result: torch.Tensor, expected: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(result.shape)
    pairs = zip(torch.autograd.grad(result, inputs, upstream), torch.autograd.grad(expected, inputs, upstream))
    for mine, plain in pairs:
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("tokens", "classes"), [(1, 7), (13, 50), (64, 1000)])
@pytest.mark.parametrize("chunk_bytes", [64, 4 * 50 * 5, 2**20])  # a token a chunk, five, all
def test_the_vocabulary_loss_is_that_of_torch(smoothing, tokens, classes, chunk_bytes, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, 16, requires_grad=True), torch.randn(classes, 16, requires_grad=True)
    labels = torch.randint(classes, (tokens,))
    ours = vocabulary_loss(hidden, weight, labels, smoothing)
    plain = cross_entropy(hidden @ weight.T, labels, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(0.7 * ours, (hidden, weight)), torch.autograd.grad(0.7 * plain, (hidden, weight))
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_vocabulary_loss_computes_what_is_asked_for_and_once():
    hidden, weight, labels = torch.randn(5, 8), torch.randn(9, 8, requires_grad=True), torch.arange(5)
    vocabulary_loss(hidden, weight, labels, 0.1).backward()
    assert weight.grad.any() and hidden.grad is None
    with torch.no_grad():
        assert not vocabulary_loss(hidden, weight, labels, 0.1).requires_grad
    loss = vocabulary_loss(hidden, weight, labels, 0.1)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_bfloat16_is_as_good_as_torchs():
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(40, 64), torch.randn(300, 64) * 0.3, torch.randint(300, (40,))
    exact = cross_entropy(hidden.double() @ weight.double().T, labels, reduction="sum", label_smoothing=0.2)
    short = hidden.bfloat16(), weight.bfloat16()
    ours = vocabulary_loss(*short, labels, 0.2)
    plain = cross_entropy((short[0] @ short[1].T).float(), labels, reduction="sum", label_smoothing=0.2)
    assert ours.dtype == torch.float32 and abs(ours - exact) <= 2 * abs(plain - exact) + 1e-3
