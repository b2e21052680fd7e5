"""The model: packing changes nothing, the gate starts closed and learns, every variant trains."""

from dataclasses import replace

import pytest
import torch

from unisign_fast.model.config import ModelConfig, MT5Shape, published_settings
from unisign_fast.model.fusion import Gate
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.trainer import count_targets_and_clips

SHAPE = MT5Shape(
    vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4, dropout_rate=0.0
)
POSE = ModelConfig(mt5=SHAPE, pose_channels=(8, 8, 16, 32), backbone_width=0.25, backbone_depth=0.3)
RGB = replace(POSE, rgb=True)


def make_batch(lengths: list[int], crops: tuple[int, int] = (0, 0), seed: int = 0) -> PackedBatch:
    """Random clips; clip i has prompt and target of lengths that differ from its neighbours'."""
    rng = torch.Generator().manual_seed(seed)
    clips, frames, sampled = len(lengths), sum(lengths), sum(crops)
    prompt = torch.randint(3, 64, (clips, 5), generator=rng)
    labels = torch.randint(3, 64, (clips, 6), generator=rng)
    for i in range(clips):
        prompt[i, 3 + i % 3 :] = 0
        labels[i, 2 + i % 5 :] = -100
    chosen = [torch.randperm(frames, generator=rng)[:n].sort().values for n in crops]
    return PackedBatch(
        clip_ids=[f"clip{i}" for i in range(clips)],
        texts=[f"word{i % 2}" for i in range(clips)],
        lengths=lengths,
        poses=torch.rand(frames, 69, 3, generator=rng) * 2 - 1,
        crops=torch.randint(0, 256, (sampled, 3, 112, 112), dtype=torch.uint8, generator=rng),
        crops_per_hand=crops,
        crop_frame=torch.cat(chosen),
        crop_points=torch.rand(sampled, 21, 2, generator=rng),
        prompt_ids=prompt,
        label_ids=labels,
    )


def take_clip(batch: PackedBatch, index: int) -> PackedBatch:
    """The batch that holds this one clip alone, without the padding of the others."""
    start = sum(batch.lengths[:index])
    frames = slice(start, start + batch.lengths[index])
    mine = (batch.crop_frame >= frames.start) & (batch.crop_frame < frames.stop)
    left = int(mine[: batch.crops_per_hand[0]].sum())
    prompt, labels = batch.prompt_ids[index], batch.label_ids[index]
    return PackedBatch(
        clip_ids=[batch.clip_ids[index]],
        texts=[batch.texts[index]],
        lengths=[batch.lengths[index]],
        poses=batch.poses[frames],
        crops=batch.crops[mine],
        crops_per_hand=(left, int(mine.sum()) - left),
        crop_frame=batch.crop_frame[mine] - start,
        crop_points=batch.crop_points[mine],
        prompt_ids=prompt[prompt != 0][None],
        label_ids=labels[labels != -100][None],
    )


def open_gate(model: UniSign) -> UniSign:
    torch.nn.init.normal_(model.rgb.fusion.gate.out.weight, std=0.5, generator=torch.Generator().manual_seed(3))
    return model


@pytest.fixture(params=["pose", "rgb", "rgb-cross"])
def model(request) -> UniSign:
    torch.manual_seed(0)
    config = {"pose": POSE, "rgb": RGB, "rgb-cross": replace(RGB, fusion="cross")}[request.param]
    model = UniSign(config)
    return open_gate(model) if config.rgb else model


def test_under_autocast_every_operation_takes_the_reference(model):
    batch = make_batch([6, 8, 5], crops=(4, 3) if model.config.rgb else (0, 0))
    expected = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        result = model(batch)
        assert len(model.eval().generate(batch, beams=2, max_new_tokens=3)) == 3
    torch.testing.assert_close(result, expected, rtol=0.02, atol=0)
    result[0].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_clip_gives_the_same_alone_and_packed(model):
    batch = make_batch([7, 1, 30, 12], crops=(9, 8) if model.rgb else (0, 0))
    model.train()(batch)  # running statistics that are not the initial ones
    model.eval()
    with torch.no_grad():
        features, loss = model.sign_features(batch).split(batch.lengths), model(batch)
        alone = [take_clip(batch, i) for i in range(4)]
        for packed, clip in zip(features, alone):
            torch.testing.assert_close(model.sign_features(clip), packed, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sum(model(clip) for clip in alone), loss, rtol=1e-5, atol=0)
    together = model.generate(batch, beams=3, max_new_tokens=8)
    for packed, clip in zip(together, alone):
        (tokens,) = model.generate(clip, beams=3, max_new_tokens=8)
        assert tokens == packed


def test_frames_follow_their_own_prompt_without_a_gap():
    torch.manual_seed(0)
    model, batch = UniSign(POSE), make_batch([2, 4])
    features = torch.ones(6, 32) * torch.arange(1, 7)[:, None]
    embeddings, packing = model.embed(features, batch)
    assert packing.lengths == [3 + 2, 4 + 4]
    first, second = embeddings.split(packing.lengths)
    assert first[3:, 0].tolist() == [1, 2] and second[4:, 0].tolist() == [3, 4, 5, 6]
    torch.testing.assert_close(second[:4], *model.language_model.embed(batch.prompt_ids[1, :4]))


def test_gate_is_closed_at_the_start_of_stage_2_and_alive():
    torch.manual_seed(0)
    pose, rgb = UniSign(POSE), UniSign(RGB)
    rgb.load_state_dict(pose.state_dict(), strict=False)
    batch = make_batch([20, 25], crops=(6, 7))
    blind = replace(
        batch,
        crops=batch.crops[:0],
        crop_frame=batch.crop_frame[:0],
        crop_points=batch.crop_points[:0],
        crops_per_hand=(0, 0),
    )
    pose.eval(), rgb.eval()
    with torch.no_grad():
        torch.testing.assert_close(rgb.sign_features(batch), pose.sign_features(blind), rtol=0, atol=0)
    rgb.train()
    optimizer = torch.optim.AdamW(rgb.parameters(), lr=1e-3)
    rgb(batch)[0].backward()
    assert rgb.rgb.fusion.gate.out.weight.grad.any()
    optimizer.step()
    rgb.zero_grad()
    rgb(batch)[0].backward()
    assert [n for n, p in rgb.rgb.named_parameters() if not p.grad.any() and n not in SHIFTED_OUT] == []


def test_live_gate_never_turns_negative():
    """A sign change while it is small would force the RGB branch to learn the opposite."""
    torch.manual_seed(0)
    gate = Gate(8, "live", "pose,fused")
    pose, fused = torch.randn(2, 50, 21, 8)
    for sign in (1, -1):
        torch.nn.init.constant_(gate.out.weight, sign * 0.3)
        value = gate(pose, fused)
        assert 0 < value.min() and value.max() < 1
    torch.nn.init.zeros_(gate.out.weight)
    gate(pose, fused).sum().backward()
    torch.testing.assert_close(gate.out.bias.grad, torch.full((1,), 50.0 * 21))  # slope one at zero


# A bias in front of BatchNorm or of a softmax over keys changes nothing, so its gradient is zero up to rounding.
SHIFTED_OUT = {"fusion.map_attention.key.bias"}


def test_published_gate_never_opens_by_itself():
    torch.manual_seed(0)
    model = UniSign(published_settings(RGB))
    model(make_batch([20, 25], crops=(6, 7)))[0].backward()
    assert not any(p.grad.any() for p in model.rgb.parameters() if p.grad is not None)


@pytest.mark.parametrize("lengths, crops", [([], (0, 0)), ([5, 3], (0, 0)), ([5, 3], (0, 2))])
def test_every_parameter_has_a_gradient_without_clips_or_crops(lengths, crops):
    torch.manual_seed(0)
    model = UniSign(RGB)
    loss, tokens = model(make_batch(lengths, crops))
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    if not lengths:
        assert loss == 0 and tokens == 0 and not any(p.grad.any() for p in model.parameters())
        assert model.eval().generate(make_batch(lengths)) == []


@pytest.mark.parametrize("parts, joints", [("hands", 42), ("hands,body", 51), ("hands,body,face", 69)])
def test_only_the_chosen_parts_matter(parts, joints):
    torch.manual_seed(0)
    model = UniSign(replace(POSE, parts=parts)).eval()
    batch = make_batch([6, 9])
    used = torch.zeros(69, dtype=torch.bool)
    poses = batch.poses.clone().requires_grad_()
    model.sign_features(replace(batch, poses=poses)).sum().backward()
    used = poses.grad.abs().sum((0, 2)) > 0
    assert int(used.sum()) == joints


def test_anchors_reach_the_hands_but_send_no_gradient_back():
    torch.manual_seed(0)
    batch = make_batch([6])
    anchored, free = UniSign(POSE), UniSign(replace(POSE, body_anchors=False))
    free.load_state_dict(anchored.state_dict())
    assert not torch.equal(anchored.eval().sign_features(batch), free.eval().sign_features(batch))
    anchored.temporal_encoders["body"].requires_grad_(False)
    body_off = torch.zeros(128)
    body_off[32:] = 1  # the body's own feature is cut off, so that only anchors could carry a gradient
    anchored.projection.weight.data *= body_off
    anchored.sign_features(batch).sum().backward()
    assert not any(p.grad.any() for p in anchored.pose_encoders["body"].parameters())


@pytest.mark.parametrize("features", ["sign", "encoder"])
@pytest.mark.parametrize("head, classes", [("classifier", ("word0", "word1")), ("ctc", ("word0", "word1", "x"))])
def test_task_heads_of_table_7_learn(head, classes, features):
    torch.manual_seed(0)
    model = UniSign(replace(POSE, head=head, head_features=features, head_classes=classes, projection_std=0.5))
    batch = make_batch([6, 8])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        loss, count = model(batch)
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    assert count == 2 and loss < 0.5
    assert count_targets_and_clips(model, [batch, make_batch([])], torch.device("cpu")).tolist() == [
        2,
        2,
    ]  # and not mT5's five tokens
    assert model.generate(batch) == batch.texts
    assert model(make_batch([])).tolist() == [0, 0]


def test_a_task_head_is_pose_only():
    with pytest.raises(InputError, match="--head: ctc is pose-only"):
        replace(RGB, head="ctc", head_classes=("a",))


def test_base_recipe_has_the_published_number_of_parameters():
    with torch.device("meta"):
        pose, rgb = UniSign(ModelConfig()), UniSign(ModelConfig(rgb=True))
    assert sum(p.numel() for p in pose.parameters()) == 587_747_368
    assert round(sum(p.numel() for p in rgb.parameters()) / 1e6, 1) == 592.6
