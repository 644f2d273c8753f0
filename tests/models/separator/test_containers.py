from __future__ import annotations

import io
import time

import numpy as np
import pytest
import soundfile

from models.errors import AudioError
from models.separator.audio import Recording
from models.separator.containers import MOST_BEFORE_SOUND, mp3_frames

FRAME = b"\xff\xfb\x90\x44" + bytes(413)  # MPEG-1, 128 kbit/s, 44.1 kHz
EMPTY_TAG = b"ID3\x03\0\0\0\0\0\0"


class Counting(io.BytesIO):
    """Counts what is read."""

    taken = 0

    def read(self, size=-1):
        content = super().read(size)
        self.taken += len(content)
        return content


def frames(content):
    return mp3_frames(io.BytesIO(content), len(content), "talk")


def test_frames_are_counted_over_damage_and_tags():
    assert frames(FRAME * 500) == 500 * 1152
    assert frames(b"\xff" * 1000 + FRAME * 3) == 3 * 1152
    assert frames(FRAME * 3 + b"\xff" * 200_001 + FRAME * 2 + b"TAG" + bytes(125)) == 5 * 1152
    assert frames(FRAME * 10_000) == 10_000 * 1152


@pytest.mark.parametrize("cut", range(60_000, 60_000 + 417, 31))
def test_a_header_on_the_edge_of_what_is_read_at_once_is_seen(cut):
    assert frames(b"\xff" * (cut % 417) + FRAME * 400) == 400 * 1152


@pytest.mark.parametrize("filling", [b"\xff", b"\0", b"\xff\xfb"])
def test_bytes_without_a_frame_are_given_up(filling):
    file = Counting(EMPTY_TAG + filling * (2**21 // len(filling)))
    begun = time.perf_counter()
    with pytest.raises(AudioError, match=r"talk: not an MP3 .* none in 65536 bytes"), Recording.open(file, "talk"):
        pass
    assert time.perf_counter() - begun < 5
    assert file.taken < 4 * MOST_BEFORE_SOUND


def test_bytes_without_a_frame_after_some_are_read_once():
    file = Counting(FRAME * 3 + b"\xff" * 2**21)
    assert mp3_frames(file, len(file.getvalue()), "talk") == 3 * 1152
    assert file.taken < 2**21 + 4 * MOST_BEFORE_SOUND


def test_a_tag_may_be_as_long_as_it_says():
    target = io.BytesIO()
    soundfile.write(target, 0.1 * np.ones(5000), 24_000, format="MP3", subtype="MPEG_LAYER_III")
    tag = EMPTY_TAG[:6] + bytes([0, 8, 0, 0]) + bytes(8 * 2**14)
    with Recording.open(io.BytesIO(tag + target.getvalue())) as recording:
        assert recording.frames == 5000
