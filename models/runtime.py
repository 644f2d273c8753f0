"""Runs a network: OpenVINO on a CPU; numpy in, numpy out.

Nothing is sent anywhere: OpenVINO's telemetry package is told so before its first import.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from models.errors import BundleError, ConfigError

if TYPE_CHECKING:
    import openvino

Precision = Literal["f32", "bf16"]
Arrays = dict[str, NDArray[Any]]
Key = tuple[tuple[int, ...], ...]
CGROUP = Path("/sys/fs/cgroup")
TOLERANCE = 0.05
# A network of open shapes keeps what it made of its layers for each shape it met: OpenVINO's 5,000 of them let a separator that
# met 400 lengths hold 900 MB. With 200 it holds 160, and lengths that it has not met lately take a fifth longer.
LAYERS_KEPT = 200


def threads(root: Path = CGROUP) -> int:
    """Processors this process may use: the smallest of affinity, cgroup quota (v2 or v1) and CONVOY_THREADS."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root)
    wanted = os.environ.get("CONVOY_THREADS", "")
    if wanted and not (wanted.isdecimal() and int(wanted) > 0):
        raise ConfigError("not a number of threads", where="CONVOY_THREADS", expected="a whole number from 1", got=wanted)
    limits = [available, quota or available, int(wanted) if wanted else available]
    return max(1, min(limits))


_one_thread = threading.Event()  # set: each run of a network takes one


def one_thread_a_run() -> None:
    """From now on each run of a network in this process is done by one thread, and other threads by other runs beside it.

    Sums over several threads round otherwise than those of one: by some 1e-4 of a network's scores, which is enough to flip a
    voxel. With this, what a network gives does not depend on the number of processors.
    """
    _one_thread.set()


def _quota(root: Path) -> int | None:
    """Whole processors that the cgroup grants, rounded up; None without a limit."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if limit == "max" or int(limit) <= 0:
        return None
    return math.ceil(int(limit) / int(period))


def choose_precision(
    capabilities: Sequence[str], differences: Mapping[str, float | None], tolerance: float = TOLERANCE
) -> Precision:
    """bf16 where the processor computes in it and the bundle measured a difference within the tolerance, else f32."""
    difference = differences.get("bf16")
    return "bf16" if "BF16" in capabilities and difference is not None and difference <= tolerance else "f32"


def forced() -> Precision | None:
    """CONVOY_PRECISION, for answers that are the same to the last digits on every processor.

    Raises:
        ConfigError: it is neither f32 nor bf16.
    """
    wanted = os.environ.get("CONVOY_PRECISION", "")
    if wanted not in ("", "f32", "bf16"):
        raise ConfigError("unknown precision", where="CONVOY_PRECISION", expected="f32 or bf16", got=wanted)
    return cast(Precision, wanted) if wanted else None


def capabilities() -> list[str]:
    """What the processor computes in, in OpenVINO's words: FP32, BF16, INT8 …"""
    return list(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


Shapes = dict[str, tuple[int, ...]]


class Runtime:
    """An ONNX network, compiled for the shapes it will meet.

    OpenVINO's CPU plugin runs a network of fixed shapes up to three times faster than one of open shapes, and spends its
    time of preparation at loading; so callers pad to a few shapes and name them in ``prepare``. Other shapes are served
    all the same, by a network of open shapes.

    Args:
        path: the ONNX file.
        differences: precision → largest difference from the torch network that the export measured.
        precision: force one; None takes CONVOY_PRECISION, or else chooses.
        count: threads; None takes what the cgroup allows.
        parallel: many small runs at the same time, one thread each, instead of all threads on one run; see `one_thread_a_run`.
        tolerance: of the outputs, up to which bf16 is taken.
    """

    def __init__(
        self,
        path: Path,
        differences: Mapping[str, float | None] | None = None,
        precision: Precision | None = None,
        count: int | None = None,
        parallel: bool = False,
        tolerance: float = TOLERANCE,
    ) -> None:
        self.path = path
        self.precision = precision or forced() or choose_precision(capabilities(), differences or {}, tolerance)
        self.threads = count or threads()
        self.streams = self.threads if parallel or _one_thread.is_set() else 1
        self._compiled: dict[Key | None, openvino.CompiledModel] = {}
        self._compiling = threading.Lock()
        self._idle: dict[Key | None, list[openvino.InferRequest]] = {}  # as many as have run at a time
        with self._said("OpenVINO cannot read the network"):
            model = self._read()
            self.inputs = [port.get_any_name() for port in model.inputs]
            self.outputs = [port.get_any_name() for port in model.outputs]
            self.fixed: Shapes = {  # of the inputs that have one shape only
                port.get_any_name(): tuple(port.shape) for port in model.inputs if not port.partial_shape.is_dynamic
            }
        if not self.outputs:
            raise BundleError("OpenVINO cannot read the network", where=str(path), expected="ONNX", got="nothing")

    def prepare(self, shapes: Shapes) -> None:
        """Compile for these shapes of the inputs and run once, so that the first call is as fast as the hundredth."""
        with self._said("the network does not take what it should"):
            key = tuple(shapes[name] for name in self.inputs)
            model = self._read()
            types = {port.get_any_name(): port.element_type.to_dtype() for port in model.inputs}
            model.reshape({name: list(shape) for name, shape in shapes.items()})
            self._compiled[key] = self._compile(model)
            self.run({name: np.zeros(shape, types[name]) for name, shape in shapes.items()})

    def prepare_each(self, several: Iterable[Shapes]) -> None:
        """``prepare`` for several shapes, at the same time: compiling uses one thread each."""
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(self.prepare, several))

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run once. Safe to call from several threads; the arrays returned are the caller's own."""
        inputs = {name: _alone(arrays[name]) for name in self.inputs}
        with self._request(tuple(array.shape for array in inputs.values())) as request:
            request.infer(inputs, share_inputs=True, share_outputs=True)
            return {name: request.get_tensor(name).data.copy() for name in self.outputs}

    @contextlib.contextmanager
    def _request(self, shapes: Key) -> Iterator[openvino.InferRequest]:
        """One that nobody else runs. They are kept: with new ones for every call a service's memory would break into pieces."""
        key = shapes if shapes in self._compiled else None
        idle = self._idle.setdefault(key, [])
        try:
            request = idle.pop()
        except IndexError:
            request = self._network(key).create_infer_request()
        yield request
        idle.append(request)  # not one that failed

    def _network(self, key: Key | None) -> openvino.CompiledModel:
        with self._compiling:
            if key not in self._compiled:
                self._compiled[key] = self._compile(self._read())
            return self._compiled[key]

    def _read(self) -> openvino.Model:
        onnx = _onnx()
        return onnx.convert(onnx.load(str(self.path)))

    def _compile(self, model: openvino.Model) -> openvino.CompiledModel:
        options = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": self.streams,
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": LAYERS_KEPT,
        }
        with self._said("OpenVINO cannot compile the network"):
            return _core().compile_model(model, "CPU", options)

    @contextlib.contextmanager
    def _said(self, problem: str) -> Iterator[None]:
        """What is wrong with a damaged network comes as errors of several kinds, the message itself undecodable among them."""
        try:
            yield
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(problem, where=str(self.path), got=error) from error


def _alone(array: NDArray[Any]) -> NDArray[Any]:
    """In one piece, and no view: an idle request keeps its last inputs, and would keep the whole recording behind a view."""
    piece = np.ascontiguousarray(array)
    return piece if piece.base is None else piece.copy()


_shared: list[Any] = []


def _core() -> openvino.Core:
    """One OpenVINO core per process."""
    if not _shared:
        _silence_telemetry()
        import openvino

        _shared.append(openvino.Core())
    return _shared[0]


def _onnx() -> Any:
    """OpenVINO's reader of ONNX alone: asked for any, it would try those of other formats on what is no ONNX."""
    _core()
    from openvino.frontend import FrontEndManager

    return FrontEndManager().load_by_framework("onnx")


def _silence_telemetry() -> None:
    """Opt out in code: without this the package asks its server on first use of some tools."""
    try:
        import openvino_telemetry
    except ImportError:
        return

    class Silent:
        """Answers every call and attribute with itself."""

        def __init__(self, *arguments: object, **keywords: object) -> None: ...

        def __getattr__(self, name: str) -> Silent:
            return self

        def __call__(self, *arguments: object, **keywords: object) -> Silent:
            return self

    openvino_telemetry.Telemetry = Silent
