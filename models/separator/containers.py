"""What the bytes of a sound file say it is, and whether the file holds what its header promises."""

from __future__ import annotations

import os
import re
import struct
from typing import Literal, NamedTuple, Protocol

from models.errors import AudioError, AudioTruncatedError

Container = Literal["wav", "flac", "ogg", "mp3"]

LARGEST_OGG_PAGE = 65_307  # bytes (RFC 3533)
LARGEST_MP3_FRAME = 1441  # bytes (MPEG-1, 320 kbit/s, 32 kHz)
MOST_BEFORE_SOUND = 2**16  # bytes of an MP3 before its first frame, besides an ID3 tag
_READ = 2**16  # bytes at once
_BIT_RATES_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # kbit/s
_BIT_RATES_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
# The header of a frame: eleven set bits, layer III, and no reserved value of version, bit rate or sample rate.
_RATES = bytes(byte for byte in range(256) if byte >> 4 not in (0, 15) and byte >> 2 & 3 != 3)
_FRAME = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][" + re.escape(_RATES) + rb"].", re.DOTALL)
MOST_CHUNKS = 1000  # of a WAV, before the samples
UNKNOWN = 0xFFFFFFFF  # a size that RF64 keeps elsewhere, and programs that write to a pipe do not know


class Seekable(Protocol):
    """What is needed of a file."""

    def read(self, size: int = -1, /) -> bytes:
        """Read."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to."""


class Promise(NamedTuple):
    """What a header says: channels, sample rate in Hz, samples of each channel."""

    channels: int
    sample_rate: int
    frames: int


def container(head: bytes) -> Container | None:
    """The kind of a file by its first 16 bytes; None where it is none of ours."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:3] == b"ID3" or _FRAME.match(head):
        return "mp3"
    return None


def mp3_frames(file: Seekable, size: int, where: str) -> int | None:
    """Samples of an MP3 that does not say how many there are, by walking through its frames; None where it says so.

    A length guessed from the first frames, as decoders have it, is wrong wherever the bit rate varies.

    Raises:
        AudioError: nothing that looks like a frame where the sound should begin.
    """
    begin = position = _after_id3(file)
    file.seek(position)
    if any(tag in file.read(LARGEST_MP3_FRAME) for tag in (b"Xing", b"Info", b"VBRI")):
        return None
    samples, first, content = 0, 0, b""  # what was read last, and where it begins
    while position + 4 <= size:
        if position + 4 > first + len(content):
            file.seek(position)
            first, content = position, file.read(_READ)
            if len(content) < 4:
                break
        found = _FRAME.search(content, position - first)  # further on after a tag, or damage
        if found is None:
            position = first + len(content) - 3
        else:
            length, held = _mpeg_frame(found[0])
            position, samples = first + found.start() + length, samples + held
        if not samples and position - begin >= MOST_BEFORE_SOUND:
            raise AudioError(
                "not an MP3 that can be decoded",
                where=where,
                expected="a frame of MPEG layer III",
                got=f"none in {MOST_BEFORE_SOUND} bytes",
                fix="Send the whole file, or convert it first (`ffmpeg -i in out.wav`).",
            )
    return samples


def _after_id3(file: Seekable) -> int:
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _mpeg_frame(head: bytes) -> tuple[int, int]:
    """Bytes and samples of a frame of layer III, by its header (ISO 11172-3, 2.4.1.3; ISO 13818-3)."""
    version = head[1] >> 3 & 3  # 3 is MPEG-1, 2 is MPEG-2, 0 is MPEG-2.5
    kilobits = (_BIT_RATES_1 if version == 3 else _BIT_RATES_2)[head[2] >> 4]
    rate = (44_100, 48_000, 32_000)[head[2] >> 2 & 3] // {3: 1, 2: 2, 0: 4}[version]
    samples = 1152 if version == 3 else 576
    return samples * kilobits * 125 // rate + (head[2] >> 1 & 1), samples


def read_wav(file: Seekable, size: int, where: str) -> Promise:
    """The promise of a WAV (RIFF, RIFX or RF64) of ``size`` bytes.

    Raises:
        AudioError: there is no format or no samples in it.
        AudioTruncatedError: it promises more samples than the file holds.
    """
    file.seek(0)
    order = ">" if file.read(12)[:4] == b"RIFX" else "<"
    position, long_size, promise = 12, 0, None
    for _ in range(MOST_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            break
        name, length = struct.unpack(f"{order}4sI", header)
        if name == b"data":
            if promise is None:
                raise AudioError("samples before their format", where=where, expected="a fmt chunk before the data chunk")
            return _promised(promise, long_size if length == UNKNOWN and long_size else length, size - position - 8, where)
        content = file.read(min(length, 28)) if name in (b"fmt ", b"ds64") else b""
        if name == b"ds64" and len(content) >= 16:
            long_size = struct.unpack("<Q", content[8:16])[0]
        elif name == b"fmt " and len(content) >= 16:
            _, channels, sample_rate, _, align, _ = struct.unpack(f"{order}HHIIHH", content[:16])
            promise = (channels, sample_rate, align)
        position += 8 + length + length % 2
    raise AudioError("a WAV without samples", where=where, expected="a fmt and a data chunk", got=f"{size} bytes without")


def _promised(header: tuple[int, int, int], promised: int, present: int, where: str) -> Promise:
    channels, sample_rate, align = header
    if not channels or not align:
        raise AudioError("the format makes no sense", where=where, expected="channels", got=f"{channels}, {align} bytes of them")
    if promised - present >= align:
        second = max(1, sample_rate * align)
        raise AudioTruncatedError(
            "the header promises more than the file holds",
            where=where,
            expected=f"{promised} bytes of samples ({promised / second:.1f} s)",
            got=f"{present} ({present / second:.1f} s)",
            fix="Send the whole file; if this is all there is, write its header again (`ffmpeg -i in.wav out.wav`).",
        )
    return Promise(channels, sample_rate, promised // align)


def check_ogg(file: Seekable, size: int, where: str) -> None:
    """Raise AudioTruncatedError where the last page of an Ogg file of ``size`` bytes is cut."""
    start = max(0, size - LARGEST_OGG_PAGE)
    file.seek(start)
    end = file.read(LARGEST_OGG_PAGE)
    page = end[max(0, end.rfind(b"OggS")) :]
    segments = page[26] if len(page) > 26 else 0
    table = page[27 : 27 + segments]
    length = 27 + segments + sum(table)
    if not segments or len(page) < length:
        raise AudioTruncatedError(
            "the file breaks off",
            where=where,
            expected=f"{length} bytes of its last page" if segments else "a whole page at its end",
            got=f"{len(page)} bytes",
            fix="Send the whole file.",
        )
