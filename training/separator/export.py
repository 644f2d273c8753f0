"""A separator's checkpoint taken apart: the network that runs, and the weights to start from."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.bundle_spec import NetworkSpec
from models.errors import ConfigError
from models.separator.network import ConvTasNet, ConvTasNetSettings, Norm
from models.separator.settings import SeparatorPreprocessing
from models.separator.transformer import DualPathSettings
from training.export import Exported, Graph

EXAMPLE_SECONDS = 0.5  # of the recording on which ONNX and torch are compared
EXAMPLE_FRAMES = 100  # of the chunk on which they are compared where the network is causal
WINDOW_SECONDS, OVERLAP_SECONDS = 8.0, 1.0  # where the checkpoint does not say


SMALLEST_EPS = 1.001e-8


def _exportable(network: ConvTasNet) -> ConvTasNet:
    """A copy whose eps survives: torch's ONNX optimiser takes constants up to 1e-8 for zero and drops their addition, which
    makes digital silence 0 / 0.
    """
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, Norm):
            module.eps = max(module.eps, SMALLEST_EPS)
    return network


class Whole(nn.Module):
    """``ConvTasNet.forward`` with the voices made consistent after they are cropped, not before: that is the same, and lets
    torch see that lengths agree.
    """

    def __init__(self, network: ConvTasNet) -> None:
        super().__init__()
        self.network = _exportable(network)

    def forward(self, mixture: Tensor) -> Tensor:
        """(1, T) → (1, C, T)."""
        network = self.network
        encoded = network.encode(network.pad(mixture))
        voices = network.overlap_add(encoded, network.separator(encoded))
        return network.consistent(network.crop(voices, mixture), mixture)


class Step(nn.Module):
    """``ConvTasNet.advance`` with the state as arguments and results of their own, in the order of ``names``.

    State of no size (the tails of P = 1) is left out: runtimes refuse it. ConfigError where frames do not overlap.
    """

    def __init__(self, network: ConvTasNet) -> None:
        super().__init__()
        if network.settings.step == network.settings.length:
            fix = "Train with a hop of half the length, the default."
            raise ConfigError("a causal network whose frames do not overlap cannot be exported", where="hop", fix=fix)
        self.network = _exportable(network)
        state = network.initial_state()
        self.empty = {name: value for name, value in state.items() if not value.numel()}
        self.names = [name for name in state if name not in self.empty]

    def forward(self, samples: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """(1, K·hop + L − hop) → voices (1, C, K·hop), then the new state."""
        voices, after = self.network.advance(samples, {**dict(zip(self.names, state, strict=True)), **self.empty})
        return voices, *(after[name] for name in self.names)


def export(saved: dict[str, Any], folder: Path) -> Exported:
    """Take a checkpoint of ``SeparatorModule`` apart.

    Args:
        saved: ``separator``: {``settings`` of ``ConvTasNetSettings``, ``sample_rate``, and if not the defaults
            ``window_seconds`` and ``overlap_seconds``}; ``state_dict`` with keys ``network.…``.
        folder: not used; nothing but the networks is written.

    Raises:
        ConfigError: the checkpoint says no sample rate, or its weights are not those of its settings.
    """
    about = saved["separator"]
    network = network_of(saved)
    settings = network.settings
    if not about.get("sample_rate"):
        fix = "Train with the data module of training/configs/separator-*.yaml, which writes it."
        raise ConfigError("the checkpoint does not say its sample rate", expected="separator.sample_rate", fix=fix)
    preprocessing = SeparatorPreprocessing(
        sample_rate=int(about["sample_rate"]),
        sources=[f"speaker_{number}" for number in range(1, settings.sources + 1)],
        causal=settings.causal,
        length=settings.length,
        hop=settings.step,
        lead=settings.length - settings.step if settings.pad else 0,
        window_seconds=about.get("window_seconds", WINDOW_SECONDS),
        overlap_seconds=about.get("overlap_seconds", OVERLAP_SECONDS),
    )
    arguments = json.loads(json.dumps(asdict(settings)))
    return Exported(
        labels=preprocessing.sources,
        preprocessing=preprocessing.model_dump(mode="json"),
        network=NetworkSpec(class_name="models.separator.network:ConvTasNet", arguments=arguments),
        state=dict(network.state_dict()),
        networks={"network.onnx": step_graph(network) if settings.causal else graph(network, preprocessing.sample_rate)},
        files={},
    )


def network_of(saved: Mapping[str, Any]) -> ConvTasNet:
    """The network of a checkpoint, in evaluation mode.

    Raises:
        ConfigError: the weights are not those of the settings.
    """
    network = ConvTasNet(settings_of(saved["separator"]["settings"]))
    weights = {name: value for name, value in saved["state_dict"].items() if name.startswith("network.")}
    try:
        network.load_state_dict({name.removeprefix("network."): value for name, value in weights.items()})
    except RuntimeError as error:
        raise ConfigError("not the weights of these settings", where="state_dict", got=error) from error
    return network.eval()


def settings_of(arguments: Mapping[str, Any]) -> ConvTasNetSettings:
    """The settings that ``dataclasses.asdict`` wrote, those of the Transformer included."""
    transformer = arguments.get("transformer")
    nested = DualPathSettings(**transformer) if transformer else None
    return ConvTasNetSettings(**{**arguments, "transformer": nested})


def graph(network: ConvTasNet, sample_rate: int) -> Graph:
    """The whole network: mixture (1, T) → voices (1, C, T), any T from 1."""
    samples = torch.randn(1, int(EXAMPLE_SECONDS * sample_rate) + 3, generator=torch.Generator().manual_seed(0))
    return Graph(Whole(network), {"mixture": samples}, ["voices"], {"mixture": {1: "samples"}})


def step_graph(network: ConvTasNet) -> Graph:
    """One chunk of a causal network: samples (1, K·hop + L − hop) and state → voices (1, C, K·hop) and ``new_`` state."""
    hop, before, step = network.settings.step, network.settings.length - network.settings.step, Step(network)
    state = {name: value for name, value in network.initial_state().items() if name in step.names}
    samples = torch.randn(1, EXAMPLE_FRAMES * hop + before, generator=torch.Generator().manual_seed(0))
    outputs = ["voices", *(f"new_{name}" for name in state)]
    return Graph(step, {"samples": samples, **state}, outputs, {"samples": {1: ("frames", hop, before)}})
