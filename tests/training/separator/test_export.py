from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from models.bundle import open_folder
from models.errors import ConfigError
from models.runtime import Runtime
from models.separator.network import ConvTasNet, ConvTasNetSettings
from models.separator.transformer import DualPathSettings
from tests.tiny import tiny_separator_bundle, tiny_separator_network
from training.export import compare, write_onnx
from training.separator.export import export, settings_of
from training.separator.graphs import Convolutions, graph, step_graph

SMALL = {"filters": 16, "length": 16, "bottleneck": 8, "skip": 8, "hidden": 12, "blocks": 2, "repeats": 1}
TRANSFORMER = DualPathSettings(width=8, heads=2, feedforward=8, intra=1, inter=1, repeats=1, chunk=10)


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "causal"])
def bundle(request, tmp_path_factory):
    return open_folder(tiny_separator_bundle(tmp_path_factory.mktemp("bundle"), causal=request.param))


def saved(network: ConvTasNet, **about) -> dict[str, object]:
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    return {
        "task": "separator",
        "separator": {"settings": asdict(network.settings), "sample_rate": 8000, **about},
        "state_dict": {**weights, "average.count": torch.zeros(1)},
    }


def test_the_bundle_says_what_the_predictor_needs(bundle):
    causal = bundle.spec.preprocessing["causal"]
    assert bundle.spec.task == "separator"
    assert bundle.spec.labels == ["speaker_1", "speaker_2"]
    assert bundle.spec.preprocessing == {
        "sample_rate": 8000,
        "sources": ["speaker_1", "speaker_2"],
        "causal": causal,
        "length": 20 if causal else 16,
        "hop": 10 if causal else 8,
        "lead": 10 if causal else 8,
        "window_seconds": 1.0,
        "overlap_seconds": 0.25,
    }
    assert bundle.spec.parity.precision.f32 < 1e-4


def test_fine_tuning_can_start_from_the_bundle(bundle):
    network = tiny_separator_network(bundle.spec.preprocessing["causal"])
    assert settings_of(bundle.spec.network.arguments) == network.settings
    weights = load(bundle.file("network.safetensors").read_bytes())
    assert weights.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        np.testing.assert_allclose(weights[name], value.numpy(), atol=1e-3)


@settings(max_examples=15)
@given(st.integers(1, 3000))
def test_onnx_takes_a_mixture_of_any_length(samples):
    network, runtime = _whole()
    mixture = torch.randn(1, samples)
    with torch.no_grad():
        expected = network(mixture).numpy()
    np.testing.assert_allclose(runtime.run({"mixture": mixture.numpy()})["voices"], expected, atol=1e-4)


@cache
def _whole() -> tuple[ConvTasNet, Runtime]:
    """The tiny network and its ONNX."""
    folder = Path(tempfile.mkdtemp(prefix="convoy-test-export-"))
    path = tiny_separator_bundle(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return tiny_separator_network(causal=False), Runtime(path / "network.onnx", precision="f32")


@pytest.mark.parametrize("prepared", [False, True])
def test_digital_silence_is_silence_and_not_nan(prepared):
    """torch's ONNX optimiser takes an eps of 1e-8 for zero and drops it, if it is let."""
    network, _ = _whole()
    with torch.no_grad():
        assert not network(torch.zeros(1, 500)).any()
    runtime = Runtime(_whole()[1].path, precision="f32")
    if prepared:
        runtime.prepare({"mixture": (1, 500)})
    assert not runtime.run({"mixture": np.zeros((1, 500), np.float32)})["voices"].any()


@settings(max_examples=30)
@given(
    st.integers(1, 600),
    st.sampled_from(["sigmoid", "relu", "softmax"]),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([(0, False), (0, True), (8, False), (8, True)]),
    st.sampled_from(["linear", "relu"]),
    st.booleans(),
)
def test_the_exported_form_is_the_network(samples, mask, kernel, skip, encoder, pad):
    torch.manual_seed(samples)
    arguments = {**SMALL, "hop": 4, "mask": mask, "kernel": kernel, "skip": skip[0], "last_residual": skip[1]}
    network = ConvTasNet(ConvTasNetSettings(**arguments, encoder=encoder, pad=pad, sources=3, mixture_consistency=pad)).eval()
    mixture = torch.randn(1, samples)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        torch.testing.assert_close(Convolutions(network)(mixture), network(mixture), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"transformer": TRANSFORMER, "mixture_consistency": True},
        {"pad": False, "skip": 0, "mask": "softmax", "sources": 3, "encoder": "relu"},
        {"hop": 4, "norm": "cLN", "kernel": 5},
        {"hop": 4, "kernel": 5, "mask": "relu", "mixture_consistency": True},
    ],
)
def test_other_networks_are_exported_too(tmp_path, changes):
    torch.manual_seed(0)
    network = ConvTasNet(ConvTasNetSettings(**{**SMALL, **changes})).eval()
    assert settings_of(asdict(network.settings)) == network.settings
    made = graph(network, 8000)
    write_onnx(made, tmp_path / "network.onnx")
    assert compare(made, tmp_path / "network.onnx")["f32"] < 1e-4


@pytest.mark.parametrize("changes", [{"kernel": 1}, {"skip": 0, "mixture_consistency": True, "kernel": 5}])
def test_other_steps_are_exported_too(tmp_path, changes):
    """State of no size, of P = 1, is left out."""
    torch.manual_seed(0)
    network = ConvTasNet(ConvTasNetSettings(**{**SMALL, **changes}, norm="cLN", causal=True)).eval()
    made = step_graph(network)
    write_onnx(made, tmp_path / "network.onnx")
    assert compare(made, tmp_path / "network.onnx")["f32"] < 1e-4
    assert all(value.numel() for value in made.inputs.values())


def test_what_the_checkpoint_says_of_windows_is_kept(tmp_path):
    network = ConvTasNet(ConvTasNetSettings(**SMALL))
    preprocessing = export(saved(network, window_seconds=4.0, overlap_seconds=0.5), tmp_path).preprocessing
    assert (preprocessing["window_seconds"], preprocessing["overlap_seconds"]) == (4.0, 0.5)
    preprocessing = export(saved(network), tmp_path).preprocessing
    assert (preprocessing["window_seconds"], preprocessing["overlap_seconds"]) == (8.0, 1.0)


def test_frames_that_do_not_overlap_do_not_stream():
    with pytest.raises(ConfigError, match="do not overlap"):
        step_graph(ConvTasNet(ConvTasNetSettings(**SMALL, hop=16, norm="cLN", causal=True)))


def test_checkpoints_that_do_not_fit(tmp_path):
    network = ConvTasNet(ConvTasNetSettings(**SMALL))
    with pytest.raises(ConfigError, match="does not say its sample rate"):
        export(saved(network, sample_rate=None), tmp_path)
    wrong = saved(network)
    wrong["separator"]["settings"]["hidden"] = 13
    with pytest.raises(ConfigError, match="not the weights of these settings"):
        export(wrong, tmp_path)
