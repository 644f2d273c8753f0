from __future__ import annotations

import io
import struct
from contextlib import suppress

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from models.errors import (
    AudioBytesError,
    AudioChannelsError,
    AudioEmptyError,
    AudioError,
    AudioKindError,
    AudioRateError,
    AudioSamplesError,
    AudioSecondsError,
    AudioTruncatedError,
    InputError,
)
from models.separator.audio import Limits, Recording

KINDS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAV", "ULAW"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


def sound(samples=30_000, channels=2, seed=0):
    return (0.2 * np.random.default_rng(seed).standard_normal((samples, channels))).astype(np.float32)


def encoded(kind, subtype, samples=None, rate=24_000, **more):
    target = io.BytesIO()
    soundfile.write(target, sound() if samples is None else samples, rate, format=kind, subtype=subtype, **more)
    return target.getvalue()


def wav(channels=1, rate=8000, data=bytes(200), bits=16, promised=None, tag=b"RIFF", order="<"):
    """A WAV written by hand, so that it can lie."""
    align, promised = channels * bits // 8, len(data) if promised is None else promised
    kind = 3 if bits == 32 else 1
    about = struct.pack(f"{order}HHIIHH", kind, channels, rate, rate * align & 0xFFFFFFFF, align, bits)
    chunks = b"fmt " + struct.pack(f"{order}I", 16) + about + b"data" + struct.pack(f"{order}I", promised) + data
    return tag + struct.pack(f"{order}I", 4 + len(chunks)) + b"WAVE" + chunks


def endless(content):
    """A FLAC as encoders leave it that write to a pipe: 36 bits of its STREAMINFO, the number of samples, are 0."""
    return content[:21] + bytes([content[21] & 0xF0]) + bytes(4) + content[26:]


def floats(*values):
    return wav(bits=32, data=np.array(values, np.float32).tobytes())


def read(content, block=2**16, limits=None):
    with Recording.open(io.BytesIO(content), "talk", limits) as recording:
        return np.concatenate(list(recording.blocks(block)))


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
@pytest.mark.parametrize("block", [700, 2**16])
def test_blocks_are_the_recording(kind, subtype, block):
    content = encoded(kind, subtype)
    with Recording.open(io.BytesIO(content)) as recording:
        assert (recording.sample_rate, recording.channels, recording.frames) == (24_000, 2, 30_000)
        assert recording.seconds == 1.25
        blocks = list(recording.blocks(block))
    assert all(0 < len(each) <= block and each.dtype == np.float32 for each in blocks)
    expected = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=0, atol=1e-6 if kind == "MP3" else 0)


def test_neither_suffix_nor_claimed_type_is_looked_at(tmp_path):
    path = tmp_path / "talk.raw"  # which soundfile would take for headerless samples
    path.write_bytes(encoded("FLAC", "PCM_16"))
    with Recording.open(path) as recording:
        assert (recording.name, recording.frames) == (str(path), 30_000)
    path = path.rename(tmp_path / "talk.mp3")
    with path.open("rb") as file, Recording.open(file, "an upload") as recording:
        assert (recording.name, len(list(recording.blocks()))) == ("an upload", 1)


def test_what_cannot_seek_is_read_all_the_same():
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *arguments):
            raise OSError("a pipe")

    content = encoded("OGG", "VORBIS")
    with Recording.open(Pipe(content)) as recording:
        assert sum(len(block) for block in recording.blocks()) == 30_000
    with pytest.raises(AudioBytesError, match="at most 1000 bytes"), Recording.open(Pipe(content), limits=Limits(bytes=1000)):
        pass


def test_channels_are_mixed_down_to_their_mean():
    content = encoded("WAV", "FLOAT", sound(channels=5))
    with Recording.open(io.BytesIO(content)) as recording:
        mixed = np.concatenate(list(recording.mono_blocks(999)))
    np.testing.assert_allclose(mixed, sound(channels=5).mean(axis=1), atol=1e-7)


@pytest.mark.parametrize(
    ("content", "kind", "status", "says"),
    [
        (b"", AudioEmptyError, 400, "the file is empty"),
        (b"<html>an error page</html>", AudioKindError, 415, "bytes that begin with b'<html>an error p"),
        (b"\x89PNG\r\n\x1a\n" + bytes(90), AudioKindError, 415, "WAV, FLAC, OGG (Vorbis or Opus) or MP3"),
        (b"RIFF\0\0\0\0AVI " + bytes(90), AudioKindError, 415, "not a recording"),
        (b"R", AudioKindError, 415, "not a recording"),
        (wav(data=b""), AudioEmptyError, 400, "no sound"),
        (wav(channels=200, data=bytes(4000)), AudioChannelsError, 422, "at most 32, got 200"),
        (wav(rate=1), AudioRateError, 422, "expected 100 to 768000 Hz, got 1 Hz"),
        (wav(rate=10**9), AudioRateError, 422, "expected 100 to 768000 Hz, got 1000000000 Hz"),
        (wav(rate=0), AudioRateError, 422, "got 0 Hz"),
        (wav(promised=0xFFFFFFFF), AudioTruncatedError, 400, "4294967295 bytes of samples (268435.5 s), got 200 (0.0 s)"),
        (wav(promised=202), AudioTruncatedError, 400, "got 200"),
        (wav(promised=2**31, tag=b"RIFX", order=">"), AudioTruncatedError, 400, "2147483648 bytes"),
        (wav(channels=0), AudioError, 400, "the format makes no sense"),
        (wav()[:30], AudioError, 400, "a WAV without samples"),
        (wav()[:12] + wav()[36:], AudioError, 400, "samples before their format"),
        (wav()[:12] + (b"junk" + bytes(4)) * 5000, AudioError, 400, "a WAV without samples"),
        (floats(0.5, float("nan"), 0.5), AudioSamplesError, 422, "talk: sample 1: not a sample of sound"),
        (floats(0.5, 0.5, float("-inf")), AudioSamplesError, 422, "got -inf"),
        (floats(1e9), AudioSamplesError, 422, "within ±1"),
        (b"fLaC" + bytes(100), AudioError, 400, "not sound that can be decoded"),
        (b"OggS" + bytes(100), AudioTruncatedError, 400, "breaks off"),
        (b"ID3" + bytes(100), AudioError, 400, "not sound that can be decoded"),
        (b"\xff\xfb\x90\x44" + bytes(500), AudioError, 400, "nothing that can be decoded"),
    ],
)
def test_bad_files_say_what_is_wrong_with_them(content, kind, status, says):
    with pytest.raises(InputError) as caught, Recording.open(io.BytesIO(content), "talk") as recording:
        list(recording.mono_blocks())
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert says in str(caught.value)
    assert str(caught.value).startswith("talk")


@pytest.mark.parametrize(("kind", "subtype"), [each for each in KINDS if each[0] != "RF64"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.97])
def test_a_recording_that_breaks_off_is_an_error(kind, subtype, share):
    content = encoded(kind, subtype, sound(100_000))
    with pytest.raises(AudioTruncatedError, match=r"talk: .*(breaks off|promises more)"):
        read(content[: int(share * len(content))])


@pytest.mark.parametrize("block", [700, 2**16])
@pytest.mark.parametrize("samples", [30_000, 200_000])
def test_a_flac_that_does_not_say_how_long_it_is_is_counted(samples, block):
    whole = encoded("FLAC", "PCM_16", sound(samples))
    with Recording.open(io.BytesIO(endless(whole))) as recording:
        assert (recording.frames, recording.seconds) == (samples, samples / 24_000)
        np.testing.assert_array_equal(np.concatenate(list(recording.blocks(block))), read(whole))


def test_limits_hold_for_a_flac_that_does_not_say_how_long_it_is():
    content = endless(encoded("FLAC", "PCM_16", sound(200_000)))
    with pytest.raises(AudioSecondsError, match=r"expected at most 1 s, got at least 2\.7 s"):
        read(content, limits=Limits(seconds=1.0))
    with pytest.raises(AudioChannelsError):
        read(content, limits=Limits(channels=1))
    assert len(read(content, limits=Limits(seconds=200_000 / 24_000))) == 200_000
    with pytest.raises(
        AudioTruncatedError, match=r"does not say how long it is, got at least \d{5} samples \(\d\.\d s\).*ffmpeg"
    ):
        read(content[: len(content) // 2])


def test_what_there_is_of_a_broken_flac_is_told():
    content = encoded("FLAC", "PCM_16", sound(100_000))
    with pytest.raises(
        AudioTruncatedError, match=r"expected 100000 samples .* got at least 4\d{4} samples \((1\.[7-9]|2\.0) s\)"
    ):
        read(content[: len(content) // 2])


@pytest.mark.parametrize(("loudness", "guess"), [((1, 0, 0, 0), "short"), ((0, 0, 0, 1), "long")])
def test_an_mp3_whose_length_is_a_guess_is_not_cut_silently(loudness, guess):
    """Without its Xing header, the length of a variable bit rate is guessed from the first frames."""
    samples = np.repeat(loudness, 200_000)[:, None] * sound(800_000)
    content = encoded("MP3", "MPEG_LAYER_III", samples, 44_100, bitrate_mode="VARIABLE")
    assert len(read(content)) == 800_000
    header_gone = content[content.find(b"\xff\xfb", 4) :]
    if guess == "long":
        assert 800_000 <= len(read(header_gone)) <= 804_000
    else:
        with pytest.raises(AudioError, match="Xing header"):
            read(header_gone)


def test_an_id3_tag_before_an_mp3_is_passed_over():
    tag = b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)
    assert len(read(tag + encoded("MP3", "MPEG_LAYER_III"))) == 30_000


def test_limits():
    content = encoded("FLAC", "PCM_16")
    for limits, kind, says in [
        (Limits(channels=1), AudioChannelsError, "at most 1, got 2"),
        (Limits(seconds=1.0), AudioSecondsError, "at most 1 s, got 1.2 s"),
        (Limits(bytes=1000), AudioBytesError, "at most 1000 bytes"),
    ]:
        with pytest.raises(kind, match=says):
            read(content, limits=limits)
    assert len(read(content, limits=Limits(channels=2, seconds=1.25, bytes=len(content)))) == 30_000


def test_a_missing_file(tmp_path):
    with pytest.raises(AudioError, match=r"none\.wav: cannot be read: got No such file"), Recording.open(tmp_path / "none.wav"):
        pass


def test_a_disk_that_fails_while_reading():
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 50_000:
                raise OSError("input/output error")
            return super().read(size)

    source = Failing(encoded("WAV", "PCM_16"))
    with pytest.raises(AudioError, match="input/output error"), Recording.open(source) as recording:
        list(recording.blocks(1000))


@given(st.data())
def test_damage_is_an_input_error_or_nothing(data):
    """Bytes turned over anywhere: never anything but our own errors, and never more samples than were promised."""
    kind, subtype = data.draw(st.sampled_from([("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]))
    content = bytearray(encoded(kind, subtype, sound(2000)))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(InputError), Recording.open(io.BytesIO(bytes(content))) as recording:
        assert sum(len(block) for block in recording.mono_blocks()) <= recording.frames
