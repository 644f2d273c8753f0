from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import runtime
from models.errors import BundleError, ConfigError
from models.runtime import Runtime, choose_precision, one_thread_a_run, threads
from training.export import Graph, compare, write_onnx

# ── threads ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def processors(monkeypatch):
    """A machine of 8 processors, and no wish of the user's."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("CONVOY_THREADS", raising=False)


def version_2(root, text):
    (root / "cpu.max").write_text(text)


def version_1(root, quota, period="100000\n"):
    (root / "cpu").mkdir()
    (root / "cpu/cpu.cfs_quota_us").write_text(quota)
    (root / "cpu/cpu.cfs_period_us").write_text(period)


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize(
    ("quota", "count"), [("max", 8), ("200000", 2), ("150000", 2), ("50000", 1), ("1000", 1), ("6400000", 8)]
)
def test_threads_follow_the_quota_of_cgroup_v2(tmp_path, quota, count):
    version_2(tmp_path, f"{quota} 100000\n")
    assert threads(tmp_path) == count


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize(("quota", "count"), [("-1\n", 8), ("300000\n", 3), ("250000\n", 3), ("10000\n", 1)])
def test_threads_follow_the_quota_of_cgroup_v1(tmp_path, quota, count):
    version_1(tmp_path, quota)
    assert threads(tmp_path) == count


@pytest.mark.usefixtures("processors")
def test_without_a_cgroup_the_affinity_counts(tmp_path):
    assert threads(tmp_path / "nowhere") == 8


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize(("wish", "count"), [("1", 1), ("3", 3), ("64", 4), ("", 4)])
def test_the_user_may_take_fewer(tmp_path, monkeypatch, wish, count):
    version_2(tmp_path, "400000 100000")
    monkeypatch.setenv("CONVOY_THREADS", wish)
    assert threads(tmp_path) == count


@pytest.mark.parametrize("wish", ["0", "-1", "two", "1.5", "²"])
def test_a_wish_that_is_no_number(tmp_path, monkeypatch, wish):
    monkeypatch.setenv("CONVOY_THREADS", wish)
    with pytest.raises(ConfigError, match="CONVOY_THREADS"):
        threads(tmp_path)


# ── precision ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("capabilities", "differences", "precision"),
    [
        (["FP32", "BF16"], {"f32": 1e-6, "bf16": 0.01}, "bf16"),
        (["FP32", "BF16"], {"f32": 1e-6, "bf16": 0.06}, "f32"),
        (["FP32", "BF16"], {"f32": 1e-6, "bf16": None}, "f32"),
        (["FP32", "BF16"], {}, "f32"),
        (["FP32", "INT8"], {"f32": 1e-6, "bf16": 0.01}, "f32"),
    ],
)
def test_bf16_needs_the_processor_and_the_measurement(capabilities, differences, precision):
    assert choose_precision(capabilities, differences) == precision


def test_the_tolerance_may_be_set():
    assert choose_precision(["BF16"], {"bf16": 0.2}, tolerance=0.5) == "bf16"


# ── networks ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Mixed(nn.Module):
    """Two inputs, two outputs; slow enough to time, fast enough to test."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 48, 5, padding=2), nn.Conv1d(48, 3, 5, padding=2)

    def forward(self, x, scale):
        y = torch.relu(self.first(x)) * scale
        return self.second(y), y.mean(dim=1)


@pytest.fixture(scope="module")
def network() -> Mixed:
    torch.manual_seed(0)
    return Mixed().eval()


def inputs(length: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"x": random.normal(size=(1, 4, length)).astype(np.float32), "scale": random.random((1, 1, 1), np.float32)}


@pytest.fixture(scope="module")
def graph(network) -> Graph:
    tensors = {name: torch.from_numpy(array) for name, array in inputs(16).items()}
    return Graph(network, tensors, ["y", "mean"], {"x": {2: "length"}})


@pytest.fixture(scope="module")
def onnx(graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("runtime") / "network.onnx"
    write_onnx(graph, path)
    return path


def expected(network: Mixed, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        return [tensor.numpy() for tensor in network(*(torch.from_numpy(array) for array in arrays.values()))]


def check(network: Mixed, runtime: Runtime, arrays: dict[str, np.ndarray]) -> None:
    got = runtime.run(arrays)
    for name, wanted in zip(("y", "mean"), expected(network, arrays), strict=True):
        np.testing.assert_allclose(got[name], wanted, rtol=1e-4, atol=1e-5)


def test_prepared_and_other_shapes_give_the_same(network, onnx):
    runner = Runtime(onnx, precision="f32", count=1)
    assert (sorted(runner.inputs), sorted(runner.outputs)) == (["scale", "x"], ["mean", "y"])
    runner.prepare({"x": (1, 4, 16), "scale": (1, 1, 1)})
    runner.prepare({"scale": (1, 1, 1), "x": (1, 4, 32)})
    for length in (16, 7, 32, 16, 100, 7):
        check(network, runner, inputs(length, length))


def test_answers_are_the_callers_own(onnx):
    runner = Runtime(onnx, precision="f32", count=1)
    first = runner.run(inputs(16, 1))
    kept = first["y"].copy()
    runner.run(inputs(16, 2))
    np.testing.assert_array_equal(first["y"], kept)
    first["y"][:] = 0  # and may be written to


def test_inputs_may_lie_anyhow_in_memory(network, onnx):
    arrays = inputs(16)
    arrays["x"] = np.asfortranarray(arrays["x"])
    check(network, Runtime(onnx, precision="f32", count=1), arrays)


def test_several_threads_get_their_own_answers(network, onnx):
    runner = Runtime(onnx, precision="f32", count=1)
    runner.prepare({"x": (1, 4, 16), "scale": (1, 1, 1)})

    def work(number: int) -> None:
        for turn in range(40):
            check(network, runner, inputs(16 if turn % 2 else 9, number * 1000 + turn))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_what_a_run_needs_is_kept_for_the_next_one_in_whatever_thread(onnx):
    """Networks run in threads that come and go with each recording or volume."""
    runner = Runtime(onnx, parallel=True)
    runner.prepare({name: array.shape for name, array in inputs(16).items()})
    for length in [16, 9] * 3:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(runner.run, inputs(length)).result()
    assert {key is None: len(idle) for key, idle in runner._idle.items()} == {False: 1, True: 1}


LENGTHS = """
from pathlib import Path
import numpy as np, psutil
from models.runtime import Runtime
memory = psutil.Process().memory_info
separator = Runtime(Path("pretrained/separator-2speakers/network.onnx"), count=1)
separator.run({"mixture": np.zeros((1, 16000), np.float32)})
before = memory().rss
for length in range(1000, 9000, 50):
    separator.run({"mixture": np.zeros((1, length), np.float32)})
print((memory().rss - before) / 2**20)
"""


def test_recordings_of_every_length_do_not_fill_the_memory():
    """OpenVINO's own bound on what it keeps of a network's layers lets these take over 400 MiB."""
    top = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", LENGTHS], cwd=top, capture_output=True, text=True, check=True, timeout=120)
    assert float(ran.stdout) < 150


def test_a_recording_is_not_kept_for_a_piece_of_it(onnx):
    runner = Runtime(onnx)
    recording = np.zeros((1, 4, 1600), np.float32)
    pointer = weakref.ref(recording)
    runner.run({**inputs(16), "x": recording.reshape(100, 4, 16)[3:4]})
    del recording
    assert pointer() is None


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("shape", [(1, 3, 16), (2, 4, 16), (4, 16), ()])
def test_what_does_not_fit_is_refused_and_its_request_not_used_again(network, onnx, count, shape):
    runner = Runtime(onnx, count=count)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            runner.run({**inputs(16), "x": np.zeros(shape, np.float32)})
        assert not any(runner._idle.values())
        check(network, runner, inputs(16))


def test_with_one_thread_a_run_the_processors_do_not_matter(monkeypatch):
    """Sums of several threads round otherwise: those of this network's norms do, once there are two."""
    monkeypatch.setattr(runtime, "_one_thread", threading.Event())
    path = Path(__file__).parents[2] / "pretrained" / "segmenter-hippocampus" / "network.onnx"
    volume = np.random.default_rng(0).standard_normal((1, 1, 40, 56, 40)).astype(np.float32)
    one_thread_a_run()
    one, two = (Runtime(path, precision="f32", count=count) for count in (1, 2))
    assert two.streams == 2
    np.testing.assert_array_equal(one.run({"volume": volume})["scores"], two.run({"volume": volume})["scores"])


def test_the_first_call_is_as_fast_as_the_others(onnx):
    """Processor time: on a busy machine it is the time that counts."""
    arrays = inputs(4096)
    ratios = []
    for _ in range(3):
        runner = Runtime(onnx, precision="f32", count=1)
        runner.prepare({name: array.shape for name, array in arrays.items()})
        seconds = []
        for _ in range(30):
            start = time.process_time()
            runner.run(arrays)
            seconds.append(time.process_time() - start)
        ratios.append(seconds[0] / sorted(seconds)[15])
    assert min(ratios) < 3


@pytest.mark.parametrize("content", [b"", b"not a network", None])
def test_a_broken_network_is_a_broken_bundle(onnx, tmp_path, content):
    broken = tmp_path / "network.onnx"
    broken.write_bytes(onnx.read_bytes()[:300] if content is None else content)
    with pytest.raises(BundleError, match="OpenVINO cannot"):
        Runtime(broken)


def test_names_that_are_no_text_are_a_broken_bundle(onnx, tmp_path):
    broken = tmp_path / "network.onnx"
    broken.write_bytes(onnx.read_bytes().replace(b"Conv", b"\xffonv"))
    assert broken.read_bytes() != onnx.read_bytes()
    with pytest.raises(BundleError, match="OpenVINO cannot"):
        Runtime(broken).prepare({"x": (1, 1)})


def test_other_formats_are_not_tried(onnx, tmp_path, capfd):
    """Some readers of other formats take whatever is no ONNX for theirs."""
    broken = tmp_path / "network.onnx"
    broken.write_bytes(b"\x80\x04" + bytes(range(256)))
    with pytest.raises(BundleError, match="OpenVINO cannot"):
        Runtime(broken)
    assert "tensorflow" not in "".join(capfd.readouterr())


def test_a_network_that_takes_other_inputs_is_a_broken_bundle(onnx):
    with pytest.raises(BundleError, match="does not take what it should"):
        Runtime(onnx).prepare({"made up": (1, 2, 3)})


def test_a_missing_network_is_a_broken_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"network\.onnx"):
        Runtime(tmp_path / "network.onnx")


# ── what an export measures ─────────────────────────────────────────────────────────────────────────────────────────


def test_bf16_is_measured_only_where_the_processor_has_it(graph, onnx, monkeypatch):
    measured = []

    class Watched(Runtime):
        def __init__(self, path, *, precision):
            measured.append(precision)
            super().__init__(path, precision=precision, count=1)

    monkeypatch.setattr("training.export.Runtime", Watched)
    monkeypatch.setattr("training.export.capabilities", lambda: ["FP32", "INT8"])
    without = compare(graph, onnx)
    assert without == {"f32": pytest.approx(0, abs=1e-4), "bf16": None}
    assert measured == ["f32"]
    monkeypatch.setattr("training.export.capabilities", lambda: ["FP32", "BF16"])
    assert isinstance(compare(graph, onnx)["bf16"], float)
    assert measured == ["f32", "f32", "bf16"]


def test_the_processor_says_what_it_can():
    assert "FP32" in runtime.capabilities()


def test_inputs_of_one_shape_are_told_and_axes_may_be_linear_in_a_length(tmp_path):
    class Pair(nn.Module):
        def forward(self, samples, *state):
            return samples.unfold(1, 3, 2).sum(2) + state[0].sum(), state[1] + 1

    inputs = {"samples": torch.randn(1, 2 * 5 + 1), "a": torch.randn(2, 3), "b": torch.randn(1)}
    graph = Graph(Pair(), inputs, ["sums", "next"], {"samples": {1: ("frames", 2, 1)}})
    write_onnx(graph, tmp_path / "pair.onnx")
    assert compare(graph, tmp_path / "pair.onnx")["f32"] < 1e-5
    network = Runtime(tmp_path / "pair.onnx")
    assert network.fixed == {"a": (2, 3), "b": (1,)}
    arrays = {"samples": np.ones((1, 2 * 9 + 1), np.float32), "a": np.zeros((2, 3), np.float32), "b": np.zeros(1, np.float32)}
    np.testing.assert_array_equal(network.run(arrays)["sums"], np.full((1, 9), 3))


def test_a_precision_may_be_forced(monkeypatch):
    for wanted, expected in (("", None), ("f32", "f32"), ("bf16", "bf16")):
        monkeypatch.setenv("CONVOY_PRECISION", wanted)
        assert runtime.forced() == expected
    monkeypatch.setenv("CONVOY_PRECISION", "f16")
    with pytest.raises(ConfigError, match="CONVOY_PRECISION: unknown precision: expected f32 or bf16, got f16"):
        runtime.forced()
