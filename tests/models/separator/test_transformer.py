from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.errors import ConfigError
from models.separator.transformer import DualPath, DualPathSettings, Layer


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.sampled_from([2, 6, 10]))
def test_cutting_and_joining_give_the_frames_back(frames, chunk):
    path = DualPath(DualPathSettings(4, 2, 4, 1, 1, 1, chunk), 5, 2, "sigmoid", 1e-8)
    x = torch.randn(2, frames, 4)
    chunks = path._cut(x)
    assert chunks.shape[2] == chunk
    assert torch.allclose(path._join(chunks)[:, :frames], x)


def test_a_layer_is_torchs_pre_norm_layer():
    torch.manual_seed(0)
    ours = Layer(DualPathSettings(16, 4, 24)).eval()
    theirs = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True, norm_first=True).eval()
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.project.weight)
        theirs.self_attn.in_proj_bias.copy_(ours.project.bias)
        theirs.self_attn.out_proj.load_state_dict(ours.out.state_dict())
        theirs.linear1.load_state_dict(ours.feedforward[0].state_dict())
        theirs.linear2.load_state_dict(ours.feedforward[3].state_dict())
        theirs.norm1.load_state_dict(ours.attention_norm.state_dict())
        theirs.norm2.load_state_dict(ours.feedforward_norm.state_dict())
        x = torch.randn(3, 7, 16)
        assert (ours(x) - theirs(x)).abs().max() < 1e-5


@pytest.mark.parametrize("arguments", [{"width": 10, "heads": 4}, {"chunk": 7}, {"repeats": 0}])
def test_settings_that_do_not_fit(arguments):
    with pytest.raises(ConfigError, match="transformer"):
        DualPathSettings(**arguments)
