from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from models.errors import ConfigError
from models.layers import ConvBlock, Convolution, activate, convolve_by_product, initialise, pool

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
ACTIVATIONS = {
    "none": lambda x: x,
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.01),
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "glu": lambda x: F.glu(x, dim=1),
}


@settings(max_examples=60)
@given(
    dimensions=st.integers(1, 3),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    training=st.booleans(),
)
def test_a_block_is_torchs_convolution(dimensions, kernel, stride, padding, dilation, groups, bias, activation, training):
    settings = Convolution(4, kernel, stride, padding, dilation, groups, bias, activation)
    block = ConvBlock(4, settings, dimensions).train(training)
    x = torch.randn(2, 4, *[9] * dimensions)
    weight, constant = block.convolution.weight, block.convolution.bias
    assert (constant is not None) == bias
    if bias:
        nn.init.normal_(constant)
    wanted = ACTIVATIONS[activation](CONVOLVE[dimensions](x, weight, constant, stride, padding, dilation, groups))
    assert wanted.shape == (2, 4, *[settings.length(9)] * dimensions)
    torch.testing.assert_close(block(x), wanted, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 6), st.booleans(), st.integers(0, 12))
def test_the_product_is_the_convolution_with_its_gradients(kernel, dilation, padding, bias, more):
    convolution = nn.Conv1d(3, 5, kernel, padding=padding, dilation=dilation, bias=bias)
    x = torch.randn(2, 3, max(1, dilation * (kernel - 1) + 1 - 2 * padding) + more, requires_grad=True)
    inputs = [x, *convolution.parameters()]
    ours, theirs = convolve_by_product(x, convolution), convolution(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(theirs)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), inputs), torch.autograd.grad((theirs * weights).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations(activation):
    x = torch.linspace(-3, 3, 24).reshape(2, 4, 3)
    torch.testing.assert_close(activate(x, activation), ACTIVATIONS[activation](x))


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_same_padding_keeps_the_length(kernel, dilation):
    settings = Convolution(2, kernel, dilation=dilation)
    assert settings.keeps_length
    assert settings.length(11) == ConvBlock(1, settings)(torch.zeros(1, 1, 11)).shape[2] == 11


def test_what_keeps_the_length():
    assert Convolution(1, kernel=3, padding=1).keeps_length
    assert not Convolution(1, kernel=3, padding=0).keeps_length
    assert not Convolution(1, kernel=3, stride=2).keeps_length
    assert not Convolution(1, kernel=2, padding=1).keeps_length


# ── initial weights ─────────────────────────────────────────────────────────────────────────────────────────────────

FAN_IN, FAN_OUT = 64 * 3, 128 * 3
EXPECTED = [
    ("he", "relu", math.sqrt(2 / FAN_IN)),
    ("he", "gelu", math.sqrt(2 / FAN_IN)),
    ("he", "leaky_relu", math.sqrt(2 / (1 + 0.01**2) / FAN_IN)),
    ("he", "glu", math.sqrt(1 / FAN_IN)),
    ("xavier", "none", math.sqrt(2 / (FAN_IN + FAN_OUT))),
    ("xavier", "relu", math.sqrt(2) * math.sqrt(2 / (FAN_IN + FAN_OUT))),
    ("xavier", "leaky_relu", math.sqrt(2 / (1 + 0.01**2)) * math.sqrt(2 / (FAN_IN + FAN_OUT))),
    ("xavier", "tanh", 5 / 3 * math.sqrt(2 / (FAN_IN + FAN_OUT))),
    ("normal", "relu", 0.05),
    ("uniform", "relu", 0.05),
]


@pytest.mark.parametrize(("kind", "activation", "deviation"), EXPECTED)
def test_initial_weights_have_the_papers_deviation(kind, activation, deviation):
    torch.manual_seed(0)
    convolution = nn.Conv1d(64, 128, 3)
    initialise(convolution, kind, activation)
    assert convolution.weight.mean().item() == pytest.approx(0, abs=deviation / 30)
    assert convolution.weight.std().item() == pytest.approx(deviation, rel=0.03)
    assert not convolution.bias.any()
    flat = kind in ("xavier", "uniform")  # a uniform distribution ends at √3 deviations, a normal one goes beyond
    assert (convolution.weight.abs().max().item() <= math.sqrt(3) * deviation * 1.001) == flat


def test_a_block_starts_as_its_settings_say():
    torch.manual_seed(0)
    block = ConvBlock(64, Convolution(64, initialisation="normal", initial_scale=0.3))
    assert block.convolution.weight.std().item() == pytest.approx(0.3, rel=0.03)
    depthwise = ConvBlock(64, Convolution(64, kernel=9, groups=64))
    assert depthwise.convolution.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.1)


# ── norms and pooling ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("norm", ["batch", "instance", "layer"])
def test_norms(norm, dimensions):
    torch.manual_seed(0)
    block = ConvBlock(3, Convolution(8, activation="none", norm=norm), dimensions)
    y = block(torch.randn(4, 3, *[6] * dimensions) * 5 + 2)
    space = list(range(2, 2 + dimensions))
    axes = {"batch": [0, *space], "instance": space, "layer": [1]}[norm]
    torch.testing.assert_close(y.mean(axes), torch.zeros_like(y.mean(axes)), rtol=0, atol=1e-4)
    torch.testing.assert_close(y.var(axes, correction=0), torch.ones_like(y.mean(axes)), rtol=0, atol=1e-2)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["max", "mean"]))
def test_pooling_sees_what_is_inside_only(seed, kind):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, 5, generator=random) - 3
    mask = torch.rand(3, 5, generator=random) < 0.5
    for row in range(3):
        inside = x[row][:, mask[row]]
        wanted = torch.zeros(2)
        if inside.shape[1]:
            wanted = inside.amax(1) if kind == "max" else inside.mean(1)
        torch.testing.assert_close(pool(x, mask, kind)[row], wanted)


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": 0}, "channels"),
        ({"kernel": 0}, "kernel"),
        ({"stride": 0}, "stride"),
        ({"dilation": 0}, "dilation"),
        ({"groups": 0}, "groups"),
        ({"kernel": 4}, "same"),
        ({"padding": -1}, "padding"),
        ({"padding": "valid"}, "padding"),
        ({"activation": "swish"}, "leaky_relu"),
        ({"initialisation": "orthogonal"}, "xavier"),
        ({"norm": "group"}, "instance"),
    ],
)
def test_settings_that_cannot_be(changes, said):
    with pytest.raises(ConfigError, match=said):
        replace(Convolution(4), **changes)


@pytest.mark.parametrize(("channels", "groups"), [(3, 2), (4, 3)])
def test_groups_divide_the_channels(channels, groups):
    with pytest.raises(ConfigError, match="groups"):
        ConvBlock(channels, Convolution(4, groups=groups))
    with pytest.raises(ConfigError, match="groups"):
        ConvBlock(12, Convolution(5, groups=4))


def test_there_are_three_dimensions():
    with pytest.raises(ConfigError, match="dimensions"):
        ConvBlock(1, Convolution(1), 4)


def test_settings_go_through_a_dictionary():
    settings = Convolution(3, kernel=2, padding=0, activation="silu", bias=False)
    assert Convolution(**settings.as_dict()) == settings
