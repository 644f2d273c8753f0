from __future__ import annotations

import pytest
import torch
from torchaudio.models import ConvTasNet as Torchaudio
from torchaudio.models import conv_tasnet_base

from models.errors import ConfigError
from models.separator.network import ConvTasNet, ConvTasNetSettings
from models.separator.state_dicts import from_asteroid, from_torchaudio

SMALL = {
    "enc_kernel_size": 20,
    "enc_num_feats": 24,
    "msk_num_feats": 12,
    "msk_num_hidden_feats": 18,
    "msk_num_layers": 3,
    "msk_num_stacks": 2,
}


def randomised(network):
    """Norms and biases as a trained network has them, not all ones and zeros."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def ours(settings, state):
    network = ConvTasNet(settings).eval()
    network.load_state_dict(state)
    return network


def compare(network, theirs, lengths):
    with torch.no_grad():
        for length in lengths:
            mixture = 0.3 * torch.randn(2, length)  # as loud as sound is
            expected = theirs(mixture[:, None])
            assert network(mixture).shape == expected.shape
            assert (network(mixture) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_sources": 3, "msk_activate": "relu"},
        {"enc_kernel_size": 4, "msk_num_layers": 1, "msk_num_stacks": 5},
        {"enc_num_feats": 40, "msk_num_feats": 8, "msk_num_hidden_feats": 8, "msk_num_layers": 6, "msk_num_stacks": 1},
    ],
)
def test_torchaudios_weights_give_torchaudios_voices(changes):
    torch.manual_seed(0)
    arguments = SMALL | changes
    theirs = randomised(Torchaudio(**arguments))
    kept = {name: arguments[name] for name in ("msk_num_layers", "msk_activate") if name in arguments}
    settings, state = from_torchaudio(theirs.state_dict(), **kept)
    assert settings.sources == changes.get("num_sources", 2)
    compare(ours(settings, state), theirs, [1, 19, 160, 1603])


def test_torchaudios_largest():
    torch.manual_seed(0)
    theirs = randomised(conv_tasnet_base())
    settings, state = from_torchaudio(theirs.state_dict(), msk_activate="relu")
    assert settings == ConvTasNetSettings(mask="relu")
    compare(ours(settings, state), theirs, [4000])


@pytest.mark.parametrize(
    ("build", "arguments", "says"),
    [
        ({"msk_kernel_size": 5}, {"msk_num_layers": 3}, "msk_kernel_size: torchaudio pads with the dilation.*expected 3, got 5"),
        ({"enc_kernel_size": 21}, {"msk_num_layers": 3}, "enc_kernel_size.*expected even, got 21"),
        ({}, {}, "msk_num_layers.*a divisor of 6, got 8"),
        ({}, {"msk_num_layers": 3, "msk_activate": "tanh"}, "sigmoid, relu or softmax, got tanh"),
    ],
)
def test_what_ours_cannot_be_is_refused(build, arguments, says):
    with pytest.raises(ConfigError, match=says):
        from_torchaudio(Torchaudio(**{**SMALL, **build}).state_dict(), **arguments)


def test_weights_of_something_else_are_refused():
    with pytest.raises(ConfigError, match=r"the weights are not complete: .*encoder\.weight, got bias, weight …"):
        from_torchaudio({"bias": torch.zeros(1), "weight": torch.zeros(1)})


def asteroids(settings: ConvTasNetSettings, state: dict[str, torch.Tensor]) -> dict[str, object]:
    """Our weights under Asteroid's names (its version 0.7.0): what ``serialize()`` of the same network gives.

    That its real network gives the same voices is measured by ``benchmarks/asteroid_parity.py``, in an environment that has it.
    """
    s, residual = settings, settings.bottleneck
    theirs = {
        "encoder.filterbank._filters": state["encoder"].T[:, None],
        "decoder.filterbank._filters": state["decoder"][:, None],
        "masker.bottleneck.0.gamma": state["separator.norm.weight"],
        "masker.bottleneck.0.beta": state["separator.norm.bias"],
        "masker.mask_net.0.weight": state["separator.prelu.weight"],
    }

    def convolution(name, weight, bias):
        theirs[f"{name}.weight"], theirs[f"{name}.bias"] = weight[:, :, None], bias

    convolution("masker.bottleneck.1", state["separator.bottleneck.weight"], state["separator.bottleneck.bias"])
    convolution("masker.mask_net.1", state["separator.masks.weight"], state["separator.masks.bias"])
    for number in range(s.blocks * s.repeats):
        our, their = f"separator.blocks.{number}", f"masker.TCN.{number}"
        shared = f"{their}.shared_block"
        convolution(f"{shared}.0", state[f"{our}.expand.weight"], state[f"{our}.expand.bias"])
        depthwise = f"{shared}.3.0" if s.causal else f"{shared}.3"
        theirs[f"{depthwise}.weight"] = state[f"{our}.depthwise"].T[:, None]
        theirs[f"{depthwise}.bias"] = state[f"{our}.depthwise_bias"]
        for place, name in ((1, "first_prelu"), (4, "second_prelu")):
            theirs[f"{shared}.{place}.weight"] = state[f"{our}.{name}.weight"]
        for place, name in ((2, "first_norm"), (5, "second_norm")):
            theirs[f"{shared}.{place}.gamma"] = state[f"{our}.{name}.weight"]
            theirs[f"{shared}.{place}.beta"] = state[f"{our}.{name}.bias"]
        weight, bias = state[f"{our}.output.weight"], state[f"{our}.output.bias"]
        convolution(f"{their}.res_conv", weight[:residual], bias[:residual])
        if s.skip:
            convolution(f"{their}.skip_conv", weight[residual:], bias[residual:])
    arguments = {
        "fb_name": "FreeFB",
        "n_filters": s.filters,
        "kernel_size": s.length,
        "stride": s.step,
        "in_chan": s.filters,
        "out_chan": s.filters,
        "bn_chan": s.bottleneck,
        "hid_chan": s.hidden,
        "skip_chan": s.skip,
        "conv_kernel_size": s.kernel,
        "n_blocks": s.blocks,
        "n_repeats": s.repeats,
        "n_src": s.sources,
        "norm_type": {"gLN": "gLN", "cLN": "cgLN"}[s.norm],
        "mask_act": s.mask,
        "causal": s.causal,
        "encoder_activation": None if s.encoder == "linear" else s.encoder,
    }
    return {"model_name": "ConvTasNet", "state_dict": theirs, "model_args": arguments}


BASE = {"filters": 24, "length": 16, "bottleneck": 12, "skip": 10, "hidden": 18, "blocks": 3, "repeats": 2}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "cLN", "causal": True, "kernel": 5},
        {"norm": "cLN", "skip": 0, "mask": "softmax", "sources": 3},
        {"hop": 4, "encoder": "relu", "mask": "relu"},
    ],
)
def test_asteroids_names_are_understood(changes):
    torch.manual_seed(0)
    settings = ConvTasNetSettings(**{**BASE, **changes}, last_residual=True, pad=False)
    network = randomised(ConvTasNet(settings))
    read, state = from_asteroid(asteroids(settings, network.state_dict()))
    assert read == ConvTasNetSettings(**{**BASE, "hop": settings.step, **changes}, last_residual=True, pad=False)
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"norm_type": "cLN"}, "norm_type: not a norm of the paper: expected gLN or cgLN, got cLN"),
        ({"norm_type": "BN"}, "expected gLN or cgLN"),
        ({"fb_name": "STFTFB"}, "fb_name"),
        ({"padding": 8}, "padding: .*expected 0, got 8"),
        ({"encoder_activation": "tanh"}, "linear or relu, got tanh"),
        ({"mask_act": "swish"}, "got swish"),
        ({"out_chan": 7}, "masks of another size: expected 24, got 7"),
    ],
)
def test_asteroids_networks_that_are_not_the_papers_are_refused(changes, says):
    settings = ConvTasNetSettings(**BASE, last_residual=True, pad=False)
    serialized = asteroids(settings, ConvTasNet(settings).state_dict())
    serialized["model_args"] |= changes
    with pytest.raises(ConfigError, match=says):
        from_asteroid(serialized)


def test_what_is_not_serialized_is_refused():
    with pytest.raises(ConfigError, match="model_args and state_dict, got epoch"):
        from_asteroid({"epoch": 3})
