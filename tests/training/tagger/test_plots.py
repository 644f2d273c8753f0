import struct

import numpy as np

from training.tagger.metrics import calibration
from training.tagger.plots import confusion_plot, reliability_plot


def size(path):
    """Width and height of a PNG."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    return struct.unpack(">II", content[16:24])


def test_plots_are_written_without_a_display(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    small = confusion_plot(["a", "b"], np.array([[3, 1], [0, 0]]), tmp_path / "deep" / "small.png")
    large = confusion_plot([f"label-{number}" for number in range(40)], np.eye(40, dtype=np.int64), tmp_path / "large.png")
    assert size(large) > size(small)
    curve = calibration([0.2, 0.9, 0.95, 1.0], [False, True, True, True])
    assert min(size(reliability_plot(curve, tmp_path / "reliability.png"))) > 400
    reliability_plot(calibration([], []), tmp_path / "nothing.png")
