"""A separator bundle against mixtures whose voices are known: every standard figure, as a table, as JSON and as a plot."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.audio import signal_distortion_ratio
from tqdm import tqdm

from models.errors import ConfigError, DataFormatError
from models.separator.predictor import Separator
from training.plots import figure, save
from training.remote import local
from training.separator.losses import permutation_invariant, si_snr
from training.separator.mixtures import FixedMixture, draw_mixtures, is_layout, read_list
from training.settings import output_folder

Floats = NDArray[np.float64]

MEASURES = ("si_snr", "sdr", "stoi", "pesq")
UNITS = {"si_snr": "dB", "sdr": "dB"}
PESQ_MODES = {8000: "nb", 16000: "wb"}  # sample rate: narrow band (P.862) or wide band (P.862.2)
LONGEST_PESQ = 20  # seconds: P.862 is made for 8 to 20, and the library's buffers hold 50 utterances and no more
LEAST_STOI = 0.4  # seconds: one of its segments
DRAWN = 200  # mixtures of a folder, where the caller does not say
QUIET = 1e-10  # mean square below which a voice is silent, and no figure says anything


@dataclass(frozen=True)
class Judged:
    """Figures of one mixture, each the mean over its voices.

    Attributes:
        where: its line of the list.
        group: see ``training.separator.mixtures``; empty where the list has none.
        seconds: its length.
        output: of the separated voices, by measure; NaN where a measure is not defined.
        input: of the mixture itself, taken for each voice.
    """

    where: str
    group: str
    seconds: float
    output: dict[str, float]
    input: dict[str, float]


def evaluate(
    bundle: str | Path,
    data: str | Path,
    *,
    folder: str | None = None,
    sample_rate: int | None = None,
    measures: str | Sequence[str] = MEASURES,
    count: int | None = None,
    seed: int = 1,
    out: Path | None = None,
) -> dict[str, Any]:
    """Separate a list of mixtures, compare with their voices, and print it.

    Voices are matched to the targets by the best mean SI-SNR. Improvements are over the mixture itself, which is the
    estimate that does nothing.

    Args:
        bundle: what Separator.load takes.
        data: list or folder of mixtures, see ``training.separator.mixtures``; or a folder with one folder of recordings a
            speaker, from which mixtures of whole files are drawn, 0 to 5 dB apart. Or an fsspec address of one.
        folder: what its paths are relative to; by default the folder that holds it.
        sample_rate: Hz, at which mixtures are made and judged; by default the network's.
        measures: which of si_snr, sdr (BSS Eval, 512-tap filters), stoi and pesq (at 8 kHz narrow band, at 16 kHz wide band, in
            pieces of at most 20 s), as a list or with commas between.
        count: only the first so many mixtures of a list; so many drawn ones, 200 by default.
        seed: of the draw.
        out: folder for metrics.json, mixtures.json (the figures of each, worst first) and improvement.png.

    Returns:
        What metrics.json holds.

    Raises:
        ConfigError: a measure is unknown, or not defined at this sample rate; the voices are not as many as the list's; ``out``
            cannot be made.
        DataFormatError: a list or a file is wrong, or every mixture has a silent voice.
    """
    measures = measures.split(",") if isinstance(measures, str) else measures
    if out is not None:
        output_folder(out)
    separator = Separator.load(bundle)
    place = local(data)
    if place.is_dir() and not is_layout(place):
        mixtures = draw_mixtures(str(data), DRAWN if count is None else count, len(separator.sources), seed)
    else:
        mixtures = read_list(str(data), folder)[:count]
    rate = sample_rate or separator.sample_rate
    _check(separator, mixtures, measures, rate)
    judged, silent, took = [], [], 0.0
    for mixture in tqdm(mixtures, unit=" mixtures", disable=None, leave=False):
        samples, targets = mixture.load(rate)
        if not (targets.square().mean(1) > QUIET).all():
            silent.append(mixture.where)
            continue
        start = time.perf_counter()
        voices = torch.from_numpy(separator.separate(samples.numpy(), rate))
        took += time.perf_counter() - start
        judged.append(judge(mixture, samples, targets, voices, rate, measures))
    if not judged:
        raise DataFormatError("every mixture has a silent voice and cannot be judged", where=silent[0])
    seconds = sum(each.seconds for each in judged)
    about = {"bundle": separator.spec.name, "data": str(data), "sample_rate": rate}
    result = {**about, **summary(judged, measures), "silent": silent, "groups": {}, "real_time_factor": took / seconds}
    groups = sorted({each.group for each in judged} - {""})
    result["groups"] = {name: summary([each for each in judged if each.group == name], measures) for name in groups}
    click.echo(report(result, measures))
    if out is not None:
        _write(out, result, judged)
    return result


def judge(
    mixture: FixedMixture, samples: Tensor, targets: Tensor, voices: Tensor, rate: int, measures: Sequence[str] = MEASURES
) -> Judged:
    """Compare separated voices (C, T) and the mixture itself (T) with the targets (C, T)."""
    _, order = permutation_invariant(si_snr, voices[None], targets[None])
    voices = voices[order[0]]
    unseparated = samples.expand_as(targets)
    output, before = (
        {name: _mean(FUNCTIONS[name](estimates, targets, rate)) for name in measures} for estimates in (voices, unseparated)
    )
    return Judged(mixture.where, mixture.group, samples.shape[0] / rate, output, before)


def summary(judged: Sequence[Judged], measures: Sequence[str]) -> dict[str, Any]:
    """Means over mixtures: of the voices, of the input, and of the improvement, with its standard error for SI-SNR.

    None where no mixture has enough speech for a measure; ``…_undefined`` counts those that have not.
    """
    figures: dict[str, Any] = {"mixtures": len(judged), "hours": sum(each.seconds for each in judged) / 3600}
    for name in measures:
        output, before = _column(judged, name, "output"), _column(judged, name, "input")
        values = {name: output, f"{name}_input": before, f"{name}i": output - before}
        figures |= {key: _defined(_mean(value)) for key, value in values.items()}
        undefined = int(np.isnan(output).sum())
        if undefined:
            figures[f"{name}_undefined"] = undefined
    if "si_snr" in measures:
        improvement = _column(judged, "si_snr", "output") - _column(judged, "si_snr", "input")
        figures["si_snri_standard_error"] = float(improvement.std() / len(improvement) ** 0.5)
        figures["si_snri_median"] = float(np.median(improvement))
        figures["share_below_1_db"] = float((improvement < 1).mean())
    return figures


def report(result: dict[str, Any], measures: Sequence[str]) -> str:
    """The figures as a table of text."""
    rows = [*result["groups"].items(), ("all", result)]
    width = max(5, *(len(name) for name, _ in rows))
    lines = [
        f"{result['bundle']} on {result['data']}: {result['mixtures']} mixtures, {result['hours']:.2f} h at"
        f" {result['sample_rate']} Hz, {result['real_time_factor']:.3f} s for each second",
        "",
        f"  {'':<{width}}  mixtures" + "".join(f"  {_title(name):>30}" for name in measures),
        f"  {'group':<{width}}          " + "  ".join([f"{'input':>10}{'voices':>10}{'better by':>10}"] * len(measures)),
    ]
    for group, row in rows:
        cells = "  ".join("".join(_cell(row[key]) for key in (f"{name}_input", name, f"{name}i")) for name in measures)
        lines.append(f"  {group:<{width}}{row['mixtures']:10d}{cells}")
    if "si_snr" in measures:
        lines += ["", f"  SI-SNR better by less than 1 dB: {result['share_below_1_db']:.1%} of the mixtures"]
    if result["silent"]:
        lines += ["", f"  left out, for a voice is silent: {', '.join(result['silent'])}"]
    return "\n".join(lines)


# ---- measures: (estimates (C, T), targets (C, T), rate) → (C), higher is better ---------------------------------------


def _si_snr(estimates: Tensor, targets: Tensor, rate: int) -> Floats:
    return np.asarray(-si_snr(estimates, targets), np.float64)


def _sdr(estimates: Tensor, targets: Tensor, rate: int) -> Floats:
    return np.asarray(signal_distortion_ratio(estimates, targets), np.float64)


def _stoi(estimates: Tensor, targets: Tensor, rate: int) -> Floats:
    """NaN where a target has too little speech: pystoi warns then, or fails below one of its frames."""
    from pystoi import stoi

    if targets.shape[1] < LEAST_STOI * rate:
        return np.full(len(targets), np.nan)
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always", RuntimeWarning)
        values = []
        for estimate, target in zip(estimates.numpy(), targets.numpy(), strict=True):
            before = len(complaints)
            value = stoi(target, estimate, rate)
            values.append(np.nan if len(complaints) > before else value)
    return np.array(values)


def _pesq(estimates: Tensor, targets: Tensor, rate: int) -> Floats:
    """The mean over pieces; NaN where the algorithm finds no utterance, or a recording is shorter than a quarter of a second."""
    pieces = range(max(1, -(-targets.shape[1] // (LONGEST_PESQ * rate))))
    cut = (np.array_split(each.numpy(), len(pieces), axis=1) for each in (estimates, targets))
    scores = np.array(
        [[_pesq_of(estimate, target, rate) for estimate, target in zip(*piece, strict=True)] for piece in zip(*cut, strict=True)]
    )
    return np.array([_mean(voice) for voice in scores.T])


def _pesq_of(estimate: NDArray[np.float32], target: NDArray[np.float32], rate: int) -> float:
    from pesq import BufferTooShortError, NoUtterancesError, pesq

    try:
        return float(pesq(rate, target, estimate, PESQ_MODES[rate]))
    except (NoUtterancesError, BufferTooShortError):
        return np.nan


FUNCTIONS: dict[str, Callable[[Tensor, Tensor, int], Floats]] = {
    "si_snr": _si_snr,
    "sdr": _sdr,
    "stoi": _stoi,
    "pesq": _pesq,
}


# ---- in detail --------------------------------------------------------------------------------------------------------


def _check(separator: Separator, mixtures: Sequence[FixedMixture], measures: Sequence[str], rate: int) -> None:
    if not mixtures:
        raise ConfigError("no mixture to judge", where="count", expected="at least 1")
    if unknown := [name for name in measures if name not in FUNCTIONS]:
        raise ConfigError("unknown measure", where="measures", expected=", ".join(FUNCTIONS), got=", ".join(unknown))
    if "pesq" in measures and rate not in PESQ_MODES:
        fix = 'Leave it out: --option \'measures=["si_snr","sdr","stoi"]\', or judge at one of these: --option sample_rate=16000.'
        raise ConfigError("PESQ is not defined at this sample rate", where="pesq", expected="8000 or 16000 Hz", got=rate, fix=fix)
    for mixture in mixtures:
        if len(mixture.sources) != len(separator.sources):
            raise ConfigError(
                "the list has another number of voices than the separator gives",
                where=mixture.where,
                expected=str(len(separator.sources)),
                got=len(mixture.sources),
            )


def _mean(values: Floats) -> float:
    """Of those that are defined."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else np.nan


def _column(judged: Sequence[Judged], name: str, part: str) -> Floats:
    return np.array([getattr(each, part)[name] for each in judged], np.float64)


def _title(name: str) -> str:
    return name.upper().replace("_", "-") + (f", {UNITS[name]}" if name in UNITS else "")


def _rows(judged: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    """Worst first, so that one sees what to listen to."""
    for each in sorted(judged, key=lambda one: one.output.get("si_snr", 0.0) - one.input.get("si_snr", 0.0)):
        about = {"where": each.where, "group": each.group, "seconds": each.seconds}
        output, before = ({name: _defined(value) for name, value in part.items()} for part in (each.output, each.input))
        yield {**about, "output": output, "input": before}


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value


def _cell(value: float | None) -> str:
    return f"{'–' if value is None else format(value, '.2f'):>10}"


def _write(out: Path, result: dict[str, Any], judged: Sequence[Judged]) -> None:
    (out / "metrics.json").write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    (out / "mixtures.json").write_text(json.dumps(list(_rows(judged)), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if "si_snr" in judged[0].output:
        improvement_plot(judged, out / "improvement.png")


def improvement_plot(judged: Sequence[Judged], path: Path) -> Path:
    """Draw SI-SNR of the voices against that of the mixture, a point a mixture, a colour a group; writes a PNG."""
    drawn = figure(6, 5)
    axes = drawn.add_subplot()
    for group in sorted({each.group for each in judged}):
        members = [each for each in judged if each.group == group]
        axes.scatter(_column(members, "si_snr", "input"), _column(members, "si_snr", "output"), s=12, label=group or "mixtures")
    axes.axline((0, 0), slope=1, linestyle="--", color="gray", label="nothing gained")
    axes.set_xlabel("SI-SNR of the mixture, dB")
    axes.set_ylabel("SI-SNR of the voices, dB")
    axes.legend()
    return save(drawn, path)
