"""A recording in, one voice per speaker out: what the command line, batch runs and the endpoint all call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle, fitting, open_bundle
from models.bundle_spec import BundleSpec
from models.errors import AudioRateError, BundleError, ConfigError, StoppedError, UnprocessableError
from models.runtime import Runtime
from models.separator.audio import HIGHEST_RATE, LOWEST_RATE, Limits, Recording
from models.separator.levels import LEVEL, Samples, mono, share
from models.separator.resampling import Resampler, Same
from models.separator.settings import SeparatorPreprocessing
from models.separator.streaming import StepNetwork, Stream
from models.separator.windows import Layout, separate_windows
from models.separator.writing import Layout as FileLayout
from models.separator.writing import Subtype, Target, Written, write_voices

BLOCK = 2**16  # samples that a recording in memory is handed on by


class WindowNetwork:
    """The voices of one window, or of a shorter recording: (n,) → (C, n), its mean taken off. Safe to call from several threads.

    Windows run side by side, one thread each; what is shorter has all threads to itself.
    """

    def __init__(self, path: Path, settings: SeparatorPreprocessing, differences: Mapping[str, float | None]) -> None:
        self.window = settings.window
        self.alone = Runtime(path, differences)
        self.together = Runtime(path, differences, parallel=True)
        self.workers = self.together.streams
        self.together.prepare({"mixture": (1, self.window)})
        self.alone.run({"mixture": np.zeros((1, settings.sample_rate), np.float32)})  # so that the first call need not wait

    def __call__(self, samples: Samples) -> Samples:
        level = (samples - samples.mean(dtype=np.float64).astype(np.float32)) * LEVEL
        runtime = self.together if len(samples) == self.window else self.alone
        voices: Samples = runtime.run({"mixture": level[None]})["voices"][0]
        return voices / LEVEL


class Separator:
    """A separator bundle, ready to run. Safe to use from several threads.

    Attributes:
        spec: what the bundle says of itself.
        sample_rate: of the network, in Hz; any other is resampled to it and back.
        sources: names of the voices.
        causal: whether it can separate a live stream.

    Example:
        >>> separator = Separator.load("pretrained/separator-2speakers")
        >>> separator.separate(mixture, 44100).shape == (2, len(mixture))
        True
    """

    def __init__(self, bundle: Bundle) -> None:
        self.spec: BundleSpec = bundle.spec
        self.settings = settings = SeparatorPreprocessing.of(bundle)
        self.sample_rate, self.sources, self.causal = settings.sample_rate, list(settings.sources), settings.causal
        path, differences = bundle.file("network.onnx"), bundle.spec.parity.precision.model_dump()
        self._step = StepNetwork(path, settings, differences) if settings.causal else None
        self._network = None if settings.causal else WindowNetwork(path, settings, differences)

    @classmethod
    def load(cls, path: str | Path) -> Separator:
        """Open a bundle: a folder, any fsspec address, or a BentoML model tag.

        Raises:
            BundleError: the bundle is missing, damaged, of a later version or of another task.
        """
        bundle = open_bundle(path)
        if bundle.spec.task != "separator":
            where, got = str(path), bundle.spec.task
            raise BundleError("not a separator", where=where, expected="a bundle of task 'separator'", got=got)
        with fitting(bundle):
            return cls(bundle)

    def separate(self, mixture: NDArray[np.floating], sample_rate: int) -> Samples:
        """Take a recording apart.

        Args:
            mixture: (samples,) or (samples, channels), ±1 is full scale; channels are mixed down to their mean.
            sample_rate: of the mixture, in Hz.

        Returns:
            Voices (sources, samples), float32, at the same rate, of the same length. They add up to the mixture; their mean,
            and what lies above half the network's sample rate, is shared among them equally. Nothing is clipped or scaled.

        Raises:
            AudioSamplesError: a sample is not a number, or the shape is wrong.
            AudioRateError: the sample rate is out of range.
        """
        samples = mono(mixture, where="mixture")
        blocks = (samples[start : start + BLOCK] for start in range(0, len(samples), BLOCK))
        return np.concatenate([*self.separate_blocks(blocks, sample_rate), self._nothing()], axis=1)

    def separate_blocks(self, blocks: Iterable[NDArray[np.floating]], sample_rate: int) -> Iterator[Samples]:
        """``separate`` for a recording of any length, in bounded memory: blocks (n,) or (n, channels) of any sizes in, blocks
        (sources, m) out, as many samples in all.
        """
        check_rate(sample_rate)
        return self._streamed(blocks, sample_rate) if self._step else self._windowed(blocks, sample_rate)

    def separate_file(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        target: str | os.PathLike[str],
        *,
        layout: FileLayout = "channels",
        subtype: Subtype | None = None,
        limits: Limits | None = None,
        name: str = "",
        progress: Callable[[float, float], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Written:
        """Take a recording on disk apart, of any length, in bounded memory.

        Args:
            source: path or binary file object: WAV, FLAC, OGG or MP3, by content.
            target: .wav or .flac file to make; see ``models.separator.writing.Target`` for the names of several.
            layout: one file with a channel for each voice, or a file for each.
            subtype: of the samples; None is float for WAV, which never clips, and 24 bits for FLAC.
            limits: what is accepted of the source.
            name: what messages call the source.
            progress: called with the seconds done and the seconds there are.
            cancelled: asked now and then whether to stop.

        Raises:
            InputError: of the kinds that ``Recording.open`` and its blocks tell.
            ConfigError: the target cannot be written so, or is the source.
            StoppedError: ``cancelled`` said so. Nothing is left behind.
        """
        with Recording.open(source, name, limits) as recording:
            place = Target(Path(target), self.sources, recording.sample_rate, layout, subtype, recording.frames)
            if isinstance(source, str | os.PathLike) and Path(source).resolve() in {path.resolve() for path in place.paths}:
                raise ConfigError("the output would overwrite its input", where=str(target), fix="Choose another name.")
            blocks = self.separate_blocks(recording.mono_blocks(), recording.sample_rate)
            return write_voices(_watched(blocks, recording, progress, cancelled), place)

    def stream(self, sample_rate: int) -> Stream:
        """Take a live recording apart, chunk by chunk.

        Raises:
            UnprocessableError: the bundle is not causal.
            AudioRateError: the sample rate is out of range.
        """
        check_rate(sample_rate)
        if self._step is None:
            raise UnprocessableError(
                "this separator needs the whole recording and cannot separate a live stream",
                where=self.spec.name,
                expected="a causal bundle",
                fix="Take a causal one, such as pretrained/separator-2speakers-causal.",
            )
        return Stream(self._step, self.settings, sample_rate)

    def _nothing(self) -> Samples:
        return np.zeros((len(self.sources), 0), np.float32)

    def _streamed(self, blocks: Iterable[NDArray[np.floating]], sample_rate: int) -> Iterator[Samples]:
        stream = self.stream(sample_rate)
        for block in blocks:
            yield stream.push(block)
        yield stream.flush()

    def _windowed(self, blocks: Iterable[NDArray[np.floating]], sample_rate: int) -> Iterator[Samples]:
        """Down-mix → network's rate → windows → own rate → what is missing of the mixture."""
        assert self._network is not None
        settings, count = self.settings, len(self.sources)
        mixture = Waiting()
        resampled = _resample(mixture.passing(blocks), sample_rate, self.sample_rate)
        layout = Layout(settings.window, settings.overlap, self.sample_rate)
        voices = separate_windows(resampled, self._network, layout, count, self._network.workers)
        for block in _resample_voices(voices, self.sample_rate, sample_rate, count):
            part = block[:, : mixture.size]
            yield share(part, mixture.take(part.shape[1]))


class Waiting:
    """Samples of the mixture whose voices are still being made."""

    def __init__(self) -> None:
        self.held: list[Samples] = []
        self.size = self.seen = 0

    def passing(self, blocks: Iterable[NDArray[np.floating]]) -> Iterator[Samples]:
        """Mix down, keep, hand on."""
        for block in blocks:
            samples = mono(block, self.seen, "mixture")
            self.held.append(samples)
            self.size += len(samples)
            self.seen += len(samples)
            yield samples

    def take(self, count: int) -> Samples:
        """The oldest ``count`` samples."""
        joined = np.concatenate([*self.held, np.zeros(0, np.float32)])
        self.held, self.size = [joined[count:].copy()], self.size - count
        return joined[:count]


def check_rate(sample_rate: int) -> None:
    """Refuse sample rates out of range with an AudioRateError."""
    if not (isinstance(sample_rate, int | np.integer) and LOWEST_RATE <= sample_rate <= HIGHEST_RATE):
        expected = f"a whole number from {LOWEST_RATE} to {HIGHEST_RATE} Hz"
        raise AudioRateError("sample rate out of range", where="sample_rate", expected=expected, got=sample_rate)


def _watched(
    blocks: Iterable[Samples],
    recording: Recording,
    progress: Callable[[float, float], None] | None,
    cancelled: Callable[[], bool] | None,
) -> Iterator[Samples]:
    done = 0
    for block in blocks:
        if cancelled is not None and cancelled():
            raise StoppedError("stopped", where=recording.name, fix="Nothing was written.")
        yield block
        done += block.shape[1]
        if progress is not None:
            progress(done / recording.sample_rate, recording.seconds)


def _resample(blocks: Iterable[Samples], source: int, target: int) -> Iterator[Samples]:
    resampler = Resampler(source, target) if source != target else Same(1)
    for block in blocks:
        yield resampler.push(block[None])[0]
    yield resampler.flush()[0]


def _resample_voices(blocks: Iterable[Samples], source: int, target: int, count: int) -> Iterator[Samples]:
    resampler = Resampler(source, target, count) if source != target else Same(count)
    for block in blocks:
        yield resampler.push(block)
    yield resampler.flush()
