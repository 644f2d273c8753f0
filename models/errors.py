"""Every error a user can meet, in one tree.

    ConvoyError
    ├── InputError            what was sent or read is wrong                   HTTP 400
    │   ├── DataFormatError   a line of a data file is malformed (file, line, field)
    │   ├── AudioError        a recording that cannot be read
    │   │   ├── AudioEmptyError       … or holds no sample
    │   │   └── AudioTruncatedError   … or less than its header promises
    │   ├── AudioKindError    not a kind of file that sound is read from       HTTP 415
    │   ├── VolumeError       a volume that cannot be read
    │   │   └── VolumeTruncatedError  … or holds less than its header promises
    │   ├── VolumeKindError   not a kind of file that volumes are read from    HTTP 415
    │   ├── TooLargeError     over a limit that the message names              HTTP 413
    │   │   ├── AudioBytesError       a recording of too many bytes
    │   │   ├── AudioSecondsError     … or seconds
    │   │   └── VolumeTooLargeError   a volume of too many voxels or bytes
    │   └── UnprocessableError  understood, but cannot be done                 HTTP 422
    │       ├── AudioRateError        a sample rate out of range
    │       ├── AudioChannelsError    too many channels
    │       ├── AudioSamplesError     samples that are no sound: NaN, infinite, far too loud
    │       ├── VolumeShapeError      not three axes
    │       ├── VolumeGeometryError   a grid that cannot be trusted: sheared, without lengths, unknown where it matters
    │       └── VolumeValuesError     voxels that are no numbers
    ├── BundleError           a bundle is missing, damaged or of another version
    ├── ConfigError           settings that do not fit together
    │   └── OutputError           an output cannot be written
    └── UnavailableError      busy, starting or stopping                       HTTP 503
        └── StoppedError      stopped because somebody asked for it

The message says, in this order: what is wrong, where, what was expected, what came instead, what to do.
"""

from __future__ import annotations


class ConvoyError(Exception):
    """Base of all errors Convoy raises on purpose.

    Args:
        problem: what is wrong, one clause without a full stop.
        where: file, line and field, or the name of the argument.
        expected: what would have been right.
        got: what came instead (shortened to 200 characters).
        fix: what the user can do about it.
    """

    code = "error"
    status = 500

    def __init__(self, problem: str, *, where: str = "", expected: str = "", got: object = None, fix: str = "") -> None:
        self.problem, self.where, self.expected, self.fix = problem, where, expected, fix
        self.got = None if got is None else shorten(str(got))
        super().__init__(self.message)

    @property
    def message(self) -> str:
        head = f"{self.where}: {self.problem}" if self.where else self.problem
        facts = [f"expected {self.expected}" if self.expected else "", f"got {self.got}" if self.got is not None else ""]
        middle = ", ".join(fact for fact in facts if fact)
        return ". ".join(part for part in (f"{head}: {middle}" if middle else head, self.fix) if part)

    def __reduce__(self) -> tuple[object, ...]:
        keywords = {"where": self.where, "expected": self.expected, "got": self.got, "fix": self.fix}
        return (_rebuild, (type(self), self.problem, keywords))


class InputError(ConvoyError):
    code, status = "input_invalid", 400


class DataFormatError(InputError):
    code = "data_malformed"


class TooLargeError(InputError):
    code, status = "too_large", 413


class UnprocessableError(InputError):
    code, status = "unprocessable", 422


class AudioError(InputError):
    code = "audio_unreadable"


class AudioEmptyError(AudioError):
    code = "audio_empty"


class AudioTruncatedError(AudioError):
    code = "audio_truncated"


class AudioKindError(InputError):
    code, status = "audio_unsupported", 415


class AudioBytesError(TooLargeError):
    code = "audio_too_large"


class AudioSecondsError(TooLargeError):
    code = "audio_too_long"


class AudioRateError(UnprocessableError):
    code = "audio_rate"


class AudioChannelsError(UnprocessableError):
    code = "audio_channels"


class AudioSamplesError(UnprocessableError):
    code = "audio_samples"


class VolumeError(InputError):
    code = "volume_unreadable"


class VolumeTruncatedError(VolumeError):
    code = "volume_truncated"


class VolumeKindError(InputError):
    code, status = "volume_unsupported", 415


class VolumeTooLargeError(TooLargeError):
    code = "volume_too_large"


class VolumeShapeError(UnprocessableError):
    code = "volume_shape"


class VolumeGeometryError(UnprocessableError):
    code = "volume_geometry"


class VolumeValuesError(UnprocessableError):
    code = "volume_values"


class BundleError(ConvoyError):
    code = "bundle_invalid"


class ConfigError(ConvoyError):
    code = "config_invalid"


class OutputError(ConfigError):
    code = "output_unwritable"


class UnavailableError(ConvoyError):
    code, status = "unavailable", 503


class StoppedError(UnavailableError):
    code = "stopped"


def shorten(text: str, limit: int = 200) -> str:
    """Keep the head of a long value, and only what a terminal and UTF-8 can show."""
    printable = text[: limit + 1].encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return printable if len(printable) <= limit else printable[: limit - 1] + "…"


def _rebuild(kind: type[ConvoyError], problem: str, keywords: dict[str, str]) -> ConvoyError:
    return kind(problem, **keywords)
