"""Conv-TasNet weights of other libraries, as weights of ours.

torchaudio's (`torchaudio.models.ConvTasNet`) and Asteroid's (`asteroid.models.ConvTasNet.serialize()`). What can be read off the
shapes is; the rest are the arguments that their constructors took. What their networks do and ours does not is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor

from models.errors import ConfigError
from models.separator.network import ConvTasNetSettings, Mask, NormKind

State = dict[str, Tensor]
Rename = Callable[[str], str]

ASTEROIDS_NORMS: dict[str, NormKind] = {"gLN": "gLN", "cgLN": "cLN"}
"""Its cumulative norm is ``cgLN``; what it calls ``cLN`` is over the channels of each frame, and not the paper's."""

ASTEROIDS_FIXED = {"fb_name": "FreeFB", "padding": 0, "output_padding": 0}
"""Arguments of its filter bank that have to be these where they are given."""


def from_torchaudio(
    state: Mapping[str, Tensor], *, msk_num_layers: int = 8, msk_activate: str = "sigmoid"
) -> tuple[ConvTasNetSettings, State]:
    """Settings and weights of ours that do what torchaudio's do, on recordings of any length.

    Args:
        state: of ``torchaudio.models.ConvTasNet``.
        msk_num_layers: X, as its constructor took it.
        msk_activate: as its constructor took it: sigmoid, or relu as in ``conv_tasnet_base``.

    Raises:
        ConfigError: not such weights, or a kernel other than 3, around which its padding does not close.
    """
    blocks = _count(state, "mask_generator.conv_layers.")
    first = "mask_generator.conv_layers.0.conv_layers"
    filters, _, length = _shape(state, "encoder.weight")
    hidden, _, kernel = _shape(state, f"{first}.3.weight")
    if kernel != 3:
        raise ConfigError(
            "torchaudio pads with the dilation, which keeps the length for kernel 3 only",
            where="msk_kernel_size",
            expected="3",
            got=kernel,
        )
    if length % 2:
        where = "enc_kernel_size"
        raise ConfigError("frames of odd length do not tile at half of it", where=where, expected="even", got=length)
    if msk_num_layers < 1 or blocks % msk_num_layers:
        where = "msk_num_layers"
        raise ConfigError(
            "stacks of as many blocks do not add up", where=where, expected=f"a divisor of {blocks}", got=msk_num_layers
        )
    settings = ConvTasNetSettings(
        sources=_shape(state, "mask_generator.output_conv.weight")[0] // filters,
        filters=filters,
        length=length,
        bottleneck=_shape(state, "mask_generator.input_conv.weight")[0],
        skip=_shape(state, "mask_generator.conv_layers.0.skip_out.weight")[0],
        hidden=hidden,
        kernel=kernel,
        blocks=msk_num_layers,
        repeats=blocks // msk_num_layers,
        mask=_mask(msk_activate),
    )
    made = {"encoder": state["encoder.weight"][:, 0].T, "decoder": state["decoder.weight"][:, 0]}
    made |= _norm(state, "mask_generator.input_norm", "separator.norm", "weight", "bias")
    made |= _linear(state, "mask_generator.input_conv", "separator.bottleneck")
    made |= _linear(state, "mask_generator.output_conv", "separator.masks")
    made["separator.prelu.weight"] = state["mask_generator.output_prelu.weight"]
    for number in range(blocks):
        theirs = f"mask_generator.conv_layers.{number}"
        made |= _block(
            state,
            f"separator.blocks.{number}",
            [f"{theirs}.conv_layers.{place}" for place in range(6)],
            [name for name in (f"{theirs}.res_out", f"{theirs}.skip_out") if f"{name}.weight" in state],
            ("weight", "bias"),
        )
    return settings, _owned(made)


def from_asteroid(serialized: Mapping[str, Any]) -> tuple[ConvTasNetSettings, State]:
    """Settings and weights of ours that do what Asteroid's do, on recordings that its frames cover: T − L a multiple of the hop.

    (Elsewhere Asteroid drops the last samples, and ours covers them with one more frame.)

    Args:
        serialized: of ``asteroid.models.ConvTasNet.serialize()``: ``model_args`` and ``state_dict``.

    Raises:
        ConfigError: not such a dictionary, or a network that ours cannot be: filters that are not free, a norm other than gLN and
            cgLN (its ``cLN``, to which it also turns ``causal=True``, is over channels only), other activations.
    """
    try:
        state, arguments = serialized["state_dict"], serialized["model_args"]
    except KeyError as error:
        expected = "what asteroid's serialize() gives: model_args and state_dict"
        raise ConfigError("not a serialized model", expected=expected, got=", ".join(map(str, serialized))) from error
    settings = _asteroids_settings(arguments)
    blocks = settings.blocks * settings.repeats
    made = {"encoder": _get(state, "encoder.filterbank._filters")[:, 0].T}
    made["decoder"] = _get(state, "decoder.filterbank._filters")[:, 0]
    made |= _norm(state, "masker.bottleneck.0", "separator.norm", "gamma", "beta")
    made |= _linear(state, "masker.bottleneck.1", "separator.bottleneck")
    made |= _linear(state, "masker.mask_net.1", "separator.masks")
    made["separator.prelu.weight"] = _get(state, "masker.mask_net.0.weight")
    for number in range(blocks):
        theirs = f"masker.TCN.{number}"
        shared = [f"{theirs}.shared_block.{place}" for place in range(6)]
        shared[3] += ".0" if settings.causal else ""  # beside it, what cuts the padding off
        paths = [f"{theirs}.res_conv", *([f"{theirs}.skip_conv"] if settings.skip else [])]
        made |= _block(state, f"separator.blocks.{number}", shared, paths, ("gamma", "beta"))
    return settings, _owned(made)


def _asteroids_settings(arguments: Mapping[str, Any]) -> ConvTasNetSettings:
    for name, value in ASTEROIDS_FIXED.items():
        if arguments.get(name, value) != value:
            raise ConfigError("Convoy's encoder is not such a filter bank", where=name, expected=str(value), got=arguments[name])
    norm, encoder = arguments["norm_type"], arguments.get("encoder_activation") or "linear"
    if norm not in ASTEROIDS_NORMS:
        raise ConfigError("not a norm of the paper", where="norm_type", expected="gLN or cgLN", got=norm)
    if encoder not in ("linear", "relu"):
        raise ConfigError("not an encoder of ours", where="encoder_activation", expected="linear or relu", got=encoder)
    if arguments.get("out_chan") not in (None, arguments["n_filters"]):
        where = "out_chan"
        raise ConfigError("masks of another size", where=where, expected=f"{arguments['n_filters']}", got=arguments["out_chan"])
    return ConvTasNetSettings(
        sources=arguments["n_src"],
        filters=arguments["n_filters"],
        length=arguments["kernel_size"],
        hop=arguments["stride"],
        bottleneck=arguments["bn_chan"],
        skip=arguments["skip_chan"] or 0,
        hidden=arguments["hid_chan"],
        kernel=arguments["conv_kernel_size"],
        blocks=arguments["n_blocks"],
        repeats=arguments["n_repeats"],
        norm=ASTEROIDS_NORMS[norm],
        causal=bool(arguments.get("causal", False)),
        mask=_mask(arguments["mask_act"]),
        encoder=cast(Literal["linear", "relu"], encoder),
        last_residual=True,
        pad=False,
    )


def _block(state: Mapping[str, Tensor], ours: str, shared: list[str], paths: list[str], norm: tuple[str, str]) -> State:
    """One block: 1×1, PReLU, norm, depthwise, PReLU, norm in ``shared``, residual and skip in ``paths``."""
    expand, first_prelu, first_norm, depthwise, second_prelu, second_norm = shared
    made = _linear(state, expand, f"{ours}.expand")
    made[f"{ours}.first_prelu.weight"] = _get(state, f"{first_prelu}.weight")
    made |= _norm(state, first_norm, f"{ours}.first_norm", *norm)
    made[f"{ours}.depthwise"] = _get(state, f"{depthwise}.weight")[:, 0].T  # (H, 1, P) → (P, H)
    made[f"{ours}.depthwise_bias"] = _get(state, f"{depthwise}.bias")
    made[f"{ours}.second_prelu.weight"] = _get(state, f"{second_prelu}.weight")
    made |= _norm(state, second_norm, f"{ours}.second_norm", *norm)
    made[f"{ours}.output.weight"] = torch.cat([_get(state, f"{path}.weight")[:, :, 0] for path in paths])
    made[f"{ours}.output.bias"] = torch.cat([_get(state, f"{path}.bias") for path in paths])
    return made


def _linear(state: Mapping[str, Tensor], theirs: str, ours: str) -> State:
    """A 1×1 convolution (out, in, 1) as a linear layer (out, in)."""
    return {f"{ours}.weight": _get(state, f"{theirs}.weight")[:, :, 0], f"{ours}.bias": _get(state, f"{theirs}.bias")}


def _norm(state: Mapping[str, Tensor], theirs: str, ours: str, gain: str, bias: str) -> State:
    return {f"{ours}.weight": _get(state, f"{theirs}.{gain}"), f"{ours}.bias": _get(state, f"{theirs}.{bias}")}


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Numbered modules under a prefix."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    return tuple(_get(state, name).shape)


def _get(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        expected = f"a state dictionary of its Conv-TasNet, with {name}"
        raise ConfigError("the weights are not complete", expected=expected, got=", ".join(list(state)[:5]) + " …")
    return state[name]


def _mask(name: str) -> Mask:
    if name not in ("sigmoid", "relu", "softmax"):
        raise ConfigError("not an activation of masks", expected="sigmoid, relu or softmax", got=name)
    return cast(Mask, name)


def _owned(state: State) -> State:
    return {name: value.detach().float().contiguous().clone() for name, value in state.items()}
