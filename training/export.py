"""A checkpoint becomes a bundle: `convoy export`.

What is particular to a task is in ``training/<task>/export.py``, which hands back an ``Exported``; here are the parts
that every task shares: torch to ONNX, the comparison of the two, safetensors, the card.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save
from torch import Tensor, nn

from models.bundle import write_bundle
from models.bundle_spec import BundleSpec, DataSource, NetworkSpec, ParitySpec, PrecisionParity, TrainingSpec
from models.errors import ConfigError
from models.runtime import Precision, Runtime, capabilities

LEAST_HALVED = 4096  # numbers of a tensor that is worth it
# torch warns of each operator of torchvision, which no network here has and Convoy does not install.
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
MACHINE_FIGURES = ("words_per_second", "real_time_factor", "seconds_per_volume")


class Card(BaseModel):
    """What a person writes of a model, in YAML: ``training/configs/<name>.card.yaml``.

    Attributes:
        name: of the bundle.
        languages: ISO 639 codes, empty where that means nothing.
        licence: of the weights.
        summary: one or two sentences: what it does.
        data: what it was trained on.
        recipe: the commands that make it again.
        limits: what it should not be trusted with.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    languages: list[str]
    licence: str
    summary: str
    data: list[DataSource]
    recipe: str
    limits: str


@dataclass(frozen=True)
class Exported:
    """What a task's export gives.

    Attributes:
        labels: in the order of the network's outputs.
        preprocessing: settings that the predictor needs.
        network: class and arguments.
        state: weights to start fine-tuning from.
        networks: file name → network to run, in evaluation mode, with example inputs by name, names of the outputs, and
            for each input the axes whose length may vary.
        files: other files of the bundle.
    """

    labels: list[str]
    preprocessing: dict[str, Any]
    network: NetworkSpec
    state: dict[str, Tensor]
    networks: dict[str, Graph]
    files: dict[str, Path | bytes]


Axis = str | tuple[str, int, int]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Graph:
    """A network to be written as ONNX.

    Attributes:
        module: in evaluation mode.
        inputs: an example of each, by name.
        outputs: their names.
        axes: input name → {axis: its length}: a name, or (name, a, b) where it is always a · name + b.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    axes: dict[str, dict[int, Axis]]


def export_bundle(checkpoint: Path, bundle: Path, *, card: Path | None = None, figures: Path | None = None) -> Path:
    """Write the bundle of a checkpoint.

    Args:
        checkpoint: of ``convoy fit``; it is unpickled by torch's safe loader only.
        bundle: folder to make.
        card: YAML for people; without it the bundle carries the checkpoint's name and says that nothing is known.
        figures: JSON that ``convoy evaluate`` wrote.

    Raises:
        ConfigError: the checkpoint is not one of Convoy's, the card is incomplete, or the figures are none.
    """
    saved = _load(checkpoint)
    about = read_card(card) if card else _unknown(checkpoint)
    shown = read_figures(figures) if figures else {}
    with tempfile.TemporaryDirectory() as folder:
        exported: Exported = importlib.import_module(f"training.{saved['task']}.export").export(saved, Path(folder))
        files = dict(exported.files)
        differences = {}
        for name, graph in exported.networks.items():
            path = Path(folder) / name
            write_onnx(graph, path)
            strip(path)
            halve(path)
            differences[name] = compare(graph, path)
            files[name] = path
        files["network.safetensors"] = save({name: tensor.half().contiguous() for name, tensor in exported.state.items()})
        f32, bf16 = (_largest(each[precision] for each in differences.values()) for precision in ("f32", "bf16"))
        parity = PrecisionParity(f32=f32 or 0.0, bf16=bf16)
        files["CARD.md"] = write_card(about, exported, shown, parity).encode("utf-8")
        spec = BundleSpec(
            task=saved["task"],
            name=about.name,
            languages=about.languages,
            labels=exported.labels,
            preprocessing=exported.preprocessing,
            network=exported.network,
            training=TrainingSpec(data=about.data, recipe=about.recipe),
            licence=about.licence,
            figures=dict(shown),
            parity=ParitySpec(max_abs_difference=parity.f32, precision=parity),
        )
        return write_bundle(bundle, spec, files)


def write_onnx(graph: Graph, path: Path) -> None:
    """Write one network as ONNX."""
    names = {_linear(axis)[0] for axes in graph.axes.values() for axis in axes.values()}
    lengths = {name: torch.export.Dim(name) for name in names}
    shapes = [{number: _length(axis, lengths) for number, axis in graph.axes.get(name, {}).items()} for name in graph.inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            str(path),
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            dynamic_shapes=_by_parameter(graph.module, shapes),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def strip(path: Path) -> None:
    """Take out what torch notes of where each operation came from: lines of code, by their paths on this machine, and shapes."""
    model = onnx.load(path)
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    onnx.save(model, path)


def halve(path: Path) -> None:
    """Store weights in 16 bits that 16 bits hold exactly, to be widened when the network is loaded: half the file, the same
    function.

    A network whose weights were rounded before (``rounded``) becomes half as large.
    """
    model = onnx.load(path)
    graph = model.graph
    for number, tensor in enumerate(list(graph.initializer)):
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        wide = onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):  # what 16 bits cannot hold becomes infinity, which is another number
            narrow = wide.astype(np.float16)
        if wide.size < LEAST_HALVED or not np.array_equal(narrow.astype(np.float32), wide):
            continue
        name = f"{tensor.name}_half"
        graph.node.insert(0, onnx.helper.make_node("Cast", [name], [tensor.name], to=onnx.TensorProto.FLOAT))
        graph.initializer[number].CopyFrom(onnx.numpy_helper.from_array(narrow, name))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def rounded(network: Network) -> Network:
    """A copy whose weights are numbers of 16 bits, as network.safetensors holds them."""
    return copy.deepcopy(network).half().float()


def load_network(network: Network, saved: Mapping[str, Any]) -> Network:
    """Give a network the weights of a module's ``network`` in a checkpoint, and set it to evaluation.

    Raises:
        ConfigError: they are not those of its settings.
    """
    weights = {name: value for name, value in saved["state_dict"].items() if name.startswith("network.")}
    try:
        network.load_state_dict({name.removeprefix("network."): value for name, value in weights.items()})
    except RuntimeError as error:
        raise ConfigError("not the weights of these settings", where="state_dict", got=error) from error
    return network.eval()


def _linear(axis: Axis) -> tuple[str, int, int]:
    return (axis, 1, 0) if isinstance(axis, str) else axis


def _length(axis: Axis, lengths: Mapping[str, Any]) -> Any:
    name, factor, offset = _linear(axis)
    return factor * lengths[name] + offset if (factor, offset) != (1, 0) else lengths[name]


def _by_parameter(module: nn.Module, shapes: list[Any]) -> tuple[Any, ...]:
    """The shapes as torch wants them: those that a parameter ``*name`` takes in a tuple of their own."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else len(shapes)
    return (*shapes[:named], tuple(shapes[named:])) if named < len(shapes) else tuple(shapes)


def compare(graph: Graph, path: Path) -> dict[Precision, float | None]:
    """Largest absolute difference between torch and the runtime on the example inputs, for each precision.

    None for bf16 where the processor has none: OpenVINO would compute in f32 without a word.
    """
    with torch.no_grad():
        answer = graph.module.eval()(*graph.inputs.values())
    expected = [answer] if isinstance(answer, Tensor) else list(answer)
    arrays = {name: tensor.numpy() for name, tensor in graph.inputs.items()}
    differences: dict[Precision, float | None] = {"f32": None, "bf16": None}
    measured: list[Precision] = ["f32", "bf16"] if "BF16" in capabilities() else ["f32"]
    for precision in measured:
        got = Runtime(path, precision=precision).run(arrays)
        pairs = zip(expected, graph.outputs, strict=True)
        differences[precision] = max(float(np.abs(tensor.numpy() - got[name]).max()) for tensor, name in pairs)
    return differences


def read_card(path: Path) -> Card:
    """Read a card; ConfigError names the field that is missing or wrong."""
    try:
        return Card.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError("cannot read the card", where=str(path), got=error) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"the card is not complete: {first['msg']}", where=f"{path}: {field}", got=first.get("input")
        ) from error


def read_figures(path: Path) -> dict[str, float | int | str]:
    """Figures that ``convoy evaluate`` wrote, flat; ConfigError where they are none."""
    try:
        figures = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("cannot read the figures", where=str(path), expected="JSON of `convoy evaluate`", got=error) from error
    if not isinstance(figures, dict):
        raise ConfigError("not figures", where=str(path), expected="an object", got=type(figures).__name__)
    flat = flatten(figures)
    if wrong := [name for name, value in flat.items() if isinstance(value, float) and not math.isfinite(value)]:
        raise ConfigError("a figure is no number", where=f"{path}: {wrong[0]}", got=flat[wrong[0]])
    return flat


def flatten(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float | int | str]:
    """Numbers and words of nested figures under dotted names, without lists and what depends on the machine."""
    flat: dict[str, float | int | str] = {}
    for name, value in figures.items():
        if name in MACHINE_FIGURES:
            continue
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, str | int | float):
            flat[prefix + name] = value
    return flat


def write_card(card: Card, exported: Exported, figures: Mapping[str, Any], parity: PrecisionParity) -> str:
    """CARD.md."""
    bf16 = "not measured in bf16" if parity.bf16 is None else f"{parity.bf16:.2g} in bf16"
    parameters = sum(tensor.numel() for tensor in exported.state.values())
    data = (
        "\n".join(f"- **{each.name}**: {each.source}. {each.part}. Licence: {each.licence}" for each in card.data) or "- not told"
    )
    top = {name: value for name, value in figures.items() if name.count(".") < 2}
    rows = "\n".join(
        f"| {name} | {value:.4f} |" if isinstance(value, float) else f"| {name} | {value} |" for name, value in top.items()
    )
    table = f"| figure | value |\n|---|---|\n{rows}" if rows else "None were measured."
    return f"""# {card.name}

{card.summary}

- Labels: {", ".join(exported.labels[:60])}{" …" if len(exported.labels) > 60 else ""}
- Network: `{exported.network.class_name}`, {parameters:,} parameters
- Licence of the weights: {card.licence}
- Largest difference between the exported and the trained network on random input: {parity.f32:.2g} in f32, {bf16}

## Trained on

{data}

## Figures

{table}

## Recipe

```
{card.recipe.strip()}
```

## Limits

{card.limits.strip()}
"""


def _largest(differences: Iterable[float | None]) -> float | None:
    return max((difference for difference in differences if difference is not None), default=None)


def _load(checkpoint: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint make the unpickler raise anything, IndexError among them
        raise ConfigError(
            "not a checkpoint that can be loaded safely",
            where=str(checkpoint),
            expected="a checkpoint of `convoy fit`",
            got=error,
        ) from error
    if "task" not in saved:
        raise ConfigError("the checkpoint does not name its task", where=str(checkpoint), expected="a checkpoint of `convoy fit`")
    return saved


def _unknown(checkpoint: Path) -> Card:
    return Card(
        name=checkpoint.parent.name or checkpoint.stem,
        languages=[],
        licence="not told",
        summary="Exported without a card.",
        data=[],
        recipe="not told",
        limits="Not told.",
    )
