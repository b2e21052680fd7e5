"""The pictures of hands that pretrain the demo's RGB encoder, and that it learns from them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unisign_fast.model.config import MT5Shape
from unisign_fast.model.rgb_branch import RGBBranch
from unisign_fast.pipelines.demo_corpus.handshapes import SHAPES, handshape_pictures
from unisign_fast.training.handshape_pretraining import learn_handshapes
from unisign_fast.training.recipes import DEMO


def test_pictures_follow_from_the_seed_and_show_every_shape():
    pictures, labels = handshape_pictures(200, 32, np.random.default_rng(3))
    again, _ = handshape_pictures(200, 32, np.random.default_rng(3))
    assert pictures.shape == (200, 3, 32, 32) and pictures.dtype == np.uint8
    assert np.array_equal(pictures, again) and set(labels.tolist()) == set(range(len(SHAPES)))
    assert pictures.std((1, 2, 3)).min() > 5, "a hand is to be seen in each"


@pytest.fixture
def rgb() -> RGBBranch:
    torch.manual_seed(0)
    return RGBBranch(replace(DEMO.model, mt5=MT5Shape(vocab_size=8), rgb=True))


def test_learns_far_above_chance(rgb):
    before = {name: weight.clone() for name, weight in rgb.state_dict().items()}
    assert learn_handshapes(rgb, 64, seed=0, steps=250) > 0.3  # of nine shapes
    changed = {name for name, weight in rgb.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed and all(name.startswith("backbone.") for name in changed)
    assert all(parameter.grad is None for parameter in rgb.parameters())
