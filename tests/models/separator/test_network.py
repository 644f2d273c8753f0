from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.models import ConvTasNet as TorchaudioConvTasNet

from models.errors import ConfigError
from models.separator.network import ConvTasNet, ConvTasNetSettings, CumulativeNorm, Moments, Norm
from models.separator.transformer import DualPathSettings

SMALL = {"filters": 24, "length": 20, "bottleneck": 16, "skip": 12, "hidden": 20, "blocks": 3, "repeats": 2}
CAUSAL = {**SMALL, "norm": "cLN", "causal": True}


def network(seed: int = 0, **arguments) -> ConvTasNet:
    torch.manual_seed(seed)
    built = ConvTasNet(ConvTasNetSettings(**arguments)).eval()
    with torch.no_grad():  # norms and biases as a trained network has them, not all ones and zeros
        for name, parameter in built.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            assert parameter.isfinite().all(), name
    return built


def parameters(built: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in built.parameters())


def test_the_papers_best_configuration_has_the_papers_parameters():
    assert parameters(ConvTasNet(ConvTasNetSettings(last_residual=True))) == 5_050_545
    assert parameters(ConvTasNet(ConvTasNetSettings())) == 4_984_881


@pytest.mark.parametrize("mask", ["sigmoid", "relu"])
def test_torchaudios_weights_give_torchaudios_voices(mask):
    torch.manual_seed(1)
    sizes = {"enc_kernel_size": 16, "enc_num_feats": 24, "msk_kernel_size": 3, "msk_num_feats": 16, "msk_num_hidden_feats": 20}
    theirs = TorchaudioConvTasNet(2, **sizes, msk_num_layers=3, msk_num_stacks=2, msk_activate=mask).eval()
    ours = network(filters=24, length=16, bottleneck=16, skip=16, hidden=20, blocks=3, repeats=2, mask=mask)
    state = {"encoder": theirs.encoder.weight[:, 0].T, "decoder": theirs.decoder.weight[:, 0]}
    generator = theirs.mask_generator
    state |= {f"separator.norm.{name}": value for name, value in generator.input_norm.named_parameters()}
    state |= _pointwise("separator.bottleneck", generator.input_conv) | _pointwise("separator.masks", generator.output_conv)
    state["separator.prelu.weight"] = generator.output_prelu.weight
    for number, block in enumerate(generator.conv_layers):
        at = f"separator.blocks.{number}"
        expand, first_prelu, first_norm, depthwise, second_prelu, second_norm = block.conv_layers
        state |= _pointwise(f"{at}.expand", expand)
        state |= {f"{at}.depthwise": depthwise.weight[:, 0].T, f"{at}.depthwise_bias": depthwise.bias}
        state |= {f"{at}.first_prelu.weight": first_prelu.weight, f"{at}.second_prelu.weight": second_prelu.weight}
        state |= {f"{at}.first_norm.{name}": value for name, value in first_norm.named_parameters()}
        state |= {f"{at}.second_norm.{name}": value for name, value in second_norm.named_parameters()}
        paths = [path for path in (block.res_out, block.skip_out) if path is not None]
        state[f"{at}.output.weight"] = torch.cat([path.weight[:, :, 0] for path in paths])
        state[f"{at}.output.bias"] = torch.cat([path.bias for path in paths])
    ours.load_state_dict(state)
    for length in (16, 801, 1600):
        mixture = torch.randn(2, length)
        with torch.no_grad():
            assert (ours(mixture) - theirs(mixture.unsqueeze(1))).abs().max() < 1e-5


def _pointwise(name, convolution):
    return {f"{name}.weight": convolution.weight[:, :, 0], f"{name}.bias": convolution.bias}


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 700),
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.sampled_from([(20, 10), (20, 5), (16, 8), (12, 12)]),
    st.sampled_from([1, 3, 5]),
    st.booleans(),
)
def test_a_stream_is_the_whole_for_any_chunks(samples, chunks, frames, kernel, consistent):
    length, hop = frames
    built = network(**{**CAUSAL, "length": length, "hop": hop, "kernel": kernel, "mixture_consistency": consistent})
    mixture = torch.randn(2, samples)
    with torch.no_grad():
        whole = built(mixture)
        padded, state = built.pad(mixture), built.initial_state(2)
        size = {name: tensor.shape for name, tensor in state.items()}
        count, done, parts = (padded.shape[1] - length) // hop + 1, 0, []
        while done < count:
            now = min(chunks[len(parts) % len(chunks)], count - done)
            voices, state = built.advance(padded[:, done * hop : (done + now) * hop + length - hop], state)
            parts.append(voices)
            done += now
        assert {name: tensor.shape for name, tensor in state.items()} == size
    stream = torch.cat([*parts, state["overlap"]], dim=2)[:, :, length - hop :][:, :, :samples]
    # What is still open at the end is not yet consistent with the mixture.
    final = max(0, count * hop - (length - hop)) if consistent else samples
    difference = (stream[:, :, :final] - whole[:, :, :final]).abs()
    assert not difference.numel() or difference.max() < 1e-5


def test_a_causal_voice_does_not_know_what_comes():
    built = network(**CAUSAL)
    first, second = torch.randn(1, 400), torch.randn(1, 400)
    second[:, :250] = first[:, :250]
    with torch.no_grad():
        difference = (built(first) - built(second)).abs().amax(dim=(0, 1))
    assert difference[: 250 - 20].max() < 1e-6  # delay: the L samples of a frame
    assert difference[250:].max() > 1e-3


@pytest.mark.parametrize(
    "arguments", [{}, {"norm": "cLN"}, {"skip": 0}, {"mask": "softmax"}, {"encoder": "relu"}, {"sources": 3}]
)
def test_a_mixture_does_not_know_its_neighbours_in_the_batch(arguments):
    built = network(**SMALL | arguments)
    mixtures = torch.randn(3, 333)
    with torch.no_grad():
        together, alone = built(mixtures), torch.cat([built(mixture[None]) for mixture in mixtures])
    assert together.shape == (3, arguments.get("sources", 2), 333)
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.parametrize("arguments", [SMALL, CAUSAL, SMALL | {"transformer": DualPathSettings(16, 2, 16, 1, 1, 1, 10)}])
@pytest.mark.parametrize("samples", [1, 19, 20, 21, 400])
def test_consistent_voices_add_up_to_the_mixture(arguments, samples):
    built = network(**arguments, mixture_consistency=True)
    mixture = torch.randn(2, samples)
    with torch.no_grad():
        assert (built(mixture).sum(1) - mixture).abs().max() < 1e-5


def test_what_each_repeat_gives_ends_with_what_the_network_gives():
    for arguments in (SMALL, SMALL | {"transformer": DualPathSettings(16, 2, 16, 1, 1, 2, 10)}):
        built = network(**arguments)
        mixture = torch.randn(1, 300)
        with torch.no_grad():
            voices = built.each_repeat(mixture)
            assert len(voices) == 2
            assert torch.allclose(voices[-1], built(mixture), atol=1e-6)
            assert (voices[0] - voices[1]).abs().max() > 1e-4


def test_gln_is_torchs_group_norm_of_one_group():
    norm, theirs = Norm(6, 1e-8), torch.nn.GroupNorm(1, 6, eps=1e-8)
    with torch.no_grad():
        for ours in (norm.weight, norm.bias):
            ours.normal_()
        theirs.weight.copy_(norm.weight)
        theirs.bias.copy_(norm.bias)
        x = torch.randn(2, 9, 6) * 3 + 5
        assert (norm(x) - theirs(x.transpose(1, 2)).transpose(1, 2)).abs().max() < 1e-5


def test_cln_takes_mean_and_variance_over_channels_and_the_frames_so_far():
    norm = CumulativeNorm(4, 1e-8)
    x = torch.randn(1, 12, 4) * 2 + 3
    y = norm(x)
    for frame in range(12):
        seen = x[0, : frame + 1].double()
        expected = (x[0, frame].double() - seen.mean()) / (seen.var(correction=0) + 1e-8).sqrt()
        assert (y[0, frame] - expected).abs().max() < 1e-4


def test_the_statistics_of_hours_do_not_cancel():
    """A stream of four million frames with a mean a hundred times its spread: in sums of squares all digits would go."""
    norm = CumulativeNorm(8, 1e-8)
    past = Moments(torch.full((1, 1, 1), 100.0), torch.ones(1, 1, 1), torch.tensor([4_000_000.0]))
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(20):
            y, mean, variance = norm.advance(100 + torch.randn(1, 50, 8), past)
            past = Moments(mean, variance, past.frames + 50)
    assert abs(float(past.mean) - 100) < 0.01
    assert abs(float(past.variance) - 1) < 0.01
    assert abs(float(y.std()) - 1) < 0.1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"causal": True}, "cLN"),
        ({"kernel": 4}, "odd"),
        ({"length": 15}, "hop"),
        ({"length": 16, "hop": 5}, "hop"),
        ({"filters": 0}, "filters"),
        ({"skip": -1}, "skip"),
        ({"norm": "batch"}, "norm"),
        ({"causal": True, "norm": "cLN", "transformer": DualPathSettings()}, "Transformer"),
    ],
)
def test_settings_that_do_not_fit(arguments, named):
    with pytest.raises(ConfigError, match=named):
        ConvTasNetSettings(**arguments)
