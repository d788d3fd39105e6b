"""The runner of engines against every recorded API: what it computes, and what it refuses.

Nothing here ran on a GPU. The stand-in for it refuses what the real bindings do not have, queues work on streams as
CUDA does, and computes by the model in the plan.
"""

import gc
import hashlib
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export.runtime import cuda
from export.runtime.engine_builder import EngineOptions, build_engine
from export.runtime.engines import open_runner
from export.runtime.errors import BundleRefused, EnvironmentLacks, UsageError
from export.runtime.manifest import DeviceContract, Draft, Engine, FileEntry, Manifest, Signer
from export.runtime.station import Station
from export.runtime.tensorrt_library import MODULES
from export.runtime.trt_runner import EngineRunner, check_gpu, check_version
from tests.export.api.fake import CONTRACT, MAGIC, RECORD, VERSIONS, Cuda, Machine, installed
from tests.export.api.record import describe_cuda

INSTALLED = all(importlib.util.find_spec(name) for name in (*MODULES["tensorrt-rtx"], "cuda"))


def opened(machine: Machine, tiny: SimpleNamespace, record: str, **changes: Any) -> EngineRunner:
    """Build an engine on the machine and open it, as its manifest would describe it."""
    runtime = record.partition(" ")[0]
    built = build_engine(tiny.network(), EngineOptions(runtime=runtime, batch=(1, 2, 4)))  # type: ignore[arg-type]
    entry = built.entry("e.plan", "fp32")
    changed = Engine(**{name: getattr(entry, name) for name in Engine.__dataclass_fields__} | changes)
    return EngineRunner(built.plan, changed, CONTRACT)


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)


@pytest.mark.parametrize("record", VERSIONS)
def test_the_logits_are_the_networks_for_every_size_of_batch(
    record: str, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, frames: np.ndarray
) -> None:
    runner = opened(installed(monkeypatch, record), tiny, record)
    expected = tiny.runner(tiny.network()).infer(frames)
    for start, stop in ((0, 1), (1, 4), (2, 3), (0, 4), (1, 5), (4, 5)):
        found = runner.infer(frames[start:stop])
        np.testing.assert_array_equal(found, expected[start:stop])
        assert found.dtype == np.float32
    assert runner.provider.endswith(RECORD[record]["version"])
    assert runner.provider.startswith("TensorRT-RTX" if "rtx" in record else "TensorRT 1")


@pytest.mark.parametrize("record", VERSIONS)
def test_a_size_of_batch_is_captured_once_behind_a_plain_execution_in_a_context_of_its_own(
    record: str, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, frames: np.ndarray
) -> None:
    machine = installed(monkeypatch, record)
    runner = opened(machine, tiny, record)
    for _ in range(3):
        runner.infer(frames[:2])
        runner.infer(frames[:4])
    assert machine.library.names().count("ICudaEngine.create_execution_context") == 2
    assert machine.library.names().count("IExecutionContext.execute_async_v3") == 4  # one plain, one captured, each
    said = [name for name in machine.cuda.said if "Graph" in name or "Capture" in name]
    assert said.count("cudaGraphInstantiate") == 2
    assert said.count("cudaGraphLaunch") == 6
    first = said[: said.index("cudaGraphLaunch")]
    assert first == ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy"]


def test_rtx_kernels_are_final_before_they_are_captured(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, frames: np.ndarray
) -> None:
    machine = installed(monkeypatch, "tensorrt-rtx 1.7")
    runner = opened(machine, tiny, "tensorrt-rtx 1.7")
    runner.infer(frames[:1])
    eager = machine.library.DynamicShapesKernelSpecializationStrategy.EAGER
    assert ("IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy", (eager,)) in machine.library.said
    machine.library.behave["IExecutionContext.is_stream_capturable"] = lambda *_: False
    expected = tiny.runner(tiny.network()).infer(frames[:2])
    for _ in range(2):  # where RTX says so, it is executed plainly every time
        np.testing.assert_array_equal(runner.infer(frames[:2]), expected)
    assert machine.cuda.said.count("cudaStreamBeginCapture") == 1


def test_frames_bound_once_are_computed_without_moving_anything(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, frames: np.ndarray
) -> None:
    machine = installed(monkeypatch, "tensorrt 11.4")
    runner = opened(machine, tiny, "tensorrt 11.4")
    compute = runner.bound(frames[:3])
    before = machine.cuda.said.count("cudaMemcpyAsync")
    for _ in range(5):
        compute()
    assert machine.cuda.said.count("cudaMemcpyAsync") == before
    assert machine.cuda.said[-2:] == ["cudaGraphLaunch", "cudaStreamSynchronize"]


def test_what_a_runner_holds_on_the_gpu_goes_with_it(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, frames: np.ndarray
) -> None:
    machine = installed(monkeypatch, "tensorrt 10.16")
    runner = opened(machine, tiny, "tensorrt 10.16")
    runner.infer(frames[:1])
    assert len(machine.cuda.memory) == 4
    machine.library.said.clear()
    del runner
    gc.collect()
    assert (machine.cuda.memory, machine.cuda.queues) == ({}, {})
    assert machine.cuda.said.count("cudaGraphExecDestroy") == 1


@pytest.mark.parametrize("number", [0, 5])
def test_a_batch_outside_the_profile_is_refused(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, frames: np.ndarray, number: int
) -> None:
    runner = opened(installed(monkeypatch, "tensorrt 11.4"), tiny, "tensorrt 11.4")
    said = "these frames do not fit" if number == 0 else "expected a batch of 1 to 4, found a batch of 5. Send other"
    for call in (runner.infer, runner.bound):
        with pytest.raises(UsageError, match=said):
            call(frames[:number])


def test_another_version_of_the_library_is_refused_with_the_fix(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = installed(monkeypatch, "tensorrt 11.4")
    with pytest.raises(
        EnvironmentLacks, match=r"another version of TensorRT: expected 10.12.0.36, found 11.4.0.106.*rebuild-engine"
    ):
        opened(machine, tiny, "tensorrt 11.4", version="10.12.0.36")
    assert "Runtime.deserialize_cuda_engine" not in machine.library.names()
    runner = opened(machine, tiny, "tensorrt 11.4", version="10.12.0.36", version_compatible=True)
    assert ("Runtime.engine_host_code_allowed", (True,)) in machine.library.said
    assert runner.provider == "TensorRT 11.4.0.106"


def test_a_version_compatible_engine_runs_on_later_versions_alone(tiny: SimpleNamespace) -> None:
    later = tiny.engine(version="10.16.1.11", version_compatible=True)
    check_version(later, "10.16.1.11")
    check_version(later, "11.0.0.114")
    with pytest.raises(EnvironmentLacks, match=r"expected 10.16.1.11 or later, found 10.9.0.34"):
        check_version(later, "10.9.0.34")
    with pytest.raises(EnvironmentLacks, match=r"expected 10.16.1.11, found 10.16.1.12"):
        check_version(tiny.engine(), "10.16.1.12")


@pytest.mark.parametrize(
    ("hardware", "target", "found", "fits"),
    [
        ("this-gpu", "8.6", "8.6", True),
        ("this-gpu", "8.6", "8.9", False),
        ("same-capability", "8.6", "12.0", False),
        ("ampere-plus", "8.6", "12.0", True),
        ("ampere-plus", "8.6", "7.5", False),
    ],
)
def test_another_gpu_is_refused_unless_the_engine_was_built_for_it(
    tiny: SimpleNamespace, hardware: str, target: str, found: str, fits: bool
) -> None:
    engine = tiny.engine(hardware=hardware, targets=(target,))
    gpu = cuda.Gpu(name="some GPU", capability=found, driver="13.0")
    if fits:
        check_gpu(engine, gpu)
        return
    with pytest.raises(EnvironmentLacks, match=rf"another GPU: .*, found {found} \(some GPU\).*rebuild-engine"):
        check_gpu(engine, gpu)


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        (2, r"found UNSUPPORTED_CC\. Build an engine for this station: .* --runtime tensorrt-rtx$"),
        (2 | 4, r"found OLD_CUDA_DRIVER, UNSUPPORTED_CC\. Update the GPU's driver"),
    ],
)
def test_a_gpu_that_rtx_does_not_know_is_told_by_its_own_diagnostics(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, bits: int, said: str
) -> None:
    machine = installed(monkeypatch, "tensorrt-rtx 1.7", Cuda(capability=(9, 0)))
    invalid = machine.library.EngineValidity.INVALID
    machine.library.behave["Runtime.get_engine_validity"] = lambda *_: (invalid, bits)
    with pytest.raises(EnvironmentLacks, match=said) as caught:
        opened(machine, tiny, "tensorrt-rtx 1.7", targets=("8.6",))
    assert "1.7.1.116 on a GPU of compute capability 8.6" in str(caught.value)
    assert "Runtime.deserialize_cuda_engine" not in machine.library.names()


def test_an_engine_that_is_not_the_fastest_runs_and_is_told(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, frames: np.ndarray
) -> None:
    machine = installed(monkeypatch, "tensorrt-rtx 1.7")
    machine.library.behave["Runtime.get_engine_validity"] = lambda *_: (machine.library.EngineValidity.SUBOPTIMAL, 0)
    assert opened(machine, tiny, "tensorrt-rtx 1.7").infer(frames[:1]).shape == (1, 3)
    assert "not the fastest for this GPU" in caplog.text


def test_an_engine_that_does_not_open_is_told_in_the_librarys_words(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = installed(monkeypatch, "tensorrt 10.12")

    def fail(runtime: object, plan: bytes) -> None:
        given = [given for name, given in machine.library.said if name == "Runtime.__init__"][-1]
        given[0].log(machine.library.ILogger.Severity.ERROR, "the plan is not of this platform")

    machine.library.behave["Runtime.deserialize_cuda_engine"] = fail
    with pytest.raises(EnvironmentLacks, match=r"this GPU, found the plan is not of this platform\. Build an"):
        opened(machine, tiny, "tensorrt 10.12")


@pytest.mark.parametrize(
    ("member", "value", "said"),
    [
        ("get_tensor_name", lambda _, index: ("picture", "logits")[index], "expected input image, output logits"),
        ("num_io_tensors", 1, "expected input image, output logits"),
        ("get_tensor_dtype", lambda *_: None, "expected uint8 frames and float32 logits"),
        ("get_tensor_profile_shape", lambda *_: [(1, 8, 8, 3)] * 3, "expected batches of"),
        ("get_tensor_shape", lambda *_: (-1, 4), r"expected logits \(N, 3\)"),
    ],
)
def test_an_engine_of_another_signature_is_refused(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, member: str, value: object, said: str
) -> None:
    machine = installed(monkeypatch, "tensorrt 11.4")
    monkeypatch.setattr(machine, "_mode", lambda engine, name: name)
    machine.library.behave[f"ICudaEngine.{member}"] = value
    if member == "get_tensor_name":
        modes = machine.library.TensorIOMode
        machine.library.behave["ICudaEngine.get_tensor_mode"] = lambda _, name: modes.INPUT
    with pytest.raises(BundleRefused, match=f"not the one its manifest describes: {said}"):
        opened(machine, tiny, "tensorrt 11.4")


@pytest.mark.parametrize(
    ("member", "value", "said"),
    [
        ("ICudaEngine.create_execution_context", lambda *_: None, "gets no execution context"),
        ("IExecutionContext.execute_async_v3", lambda *_: False, "cannot be executed"),
        ("IExecutionContext.infer_shapes", lambda *_: ["image"], "cannot be prepared for a batch of 2"),
        ("IExecutionContext.set_input_shape", lambda *_: False, "cannot be prepared for a batch of 2"),
    ],
)
def test_a_failure_of_the_library_is_no_result(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, frames: np.ndarray, member: str, value: object, said: str
) -> None:
    machine = installed(monkeypatch, "tensorrt 11.4")
    runner = opened(machine, tiny, "tensorrt 11.4")
    machine.library.behave[member] = value
    with pytest.raises(EnvironmentLacks, match=said):
        runner.infer(frames[:2])


# Which engine of a bundle is opened.


def bundle(tiny: SimpleNamespace, *engines: Engine) -> Any:
    contents = {"model.onnx": tiny.network()} | {e.path: MAGIC + tiny.network() for e in engines}
    model = FileEntry(path="model.onnx", size=1, sha256="0" * 64, role="model")
    known = {field.name: getattr(tiny.draft(engines=engines), field.name) for field in fields(Draft)}
    manifest = Manifest(**known, files=(model,), signer=Signer(key_id="0" * 16, name="test"))
    return types.SimpleNamespace(manifest=manifest, contents=contents)


@pytest.mark.parametrize(
    ("capability", "chosen"), [((8, 6), "exact.plan"), ((12, 0), "blackwell.plan"), ((8, 9), "portable.plan")]
)
def test_the_engine_for_this_gpu_goes_before_the_portable_one(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], chosen: str
) -> None:
    machine = installed(monkeypatch, "tensorrt-rtx 1.7", Cuda(capability=capability))
    common = {"runtime": "tensorrt-rtx", "version": "1.7.1.116", "hardware": "this-gpu"}
    targets: dict[str, tuple[str, ...]] = {"blackwell": ("12.0",), "portable": (), "exact": ("8.6", "8.0")}
    engines = [tiny.engine(path=f"{name}.plan", targets=own, **common) for name, own in targets.items()]
    machine.profile = [(n, 8, 8, 1) for n in (1, 1, 16)]
    runner = open_runner(bundle(tiny, *engines), "tensorrt-rtx").runner
    assert isinstance(runner, EngineRunner)
    assert runner._entry.path == chosen


def test_a_station_runs_the_engine_of_its_bundle_and_no_changed_byte_of_it(
    make_bundle: Callable[..., Path], trust: list[Path], tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = installed(monkeypatch, "tensorrt 10.16")
    machine.profile = [(number, 8, 8, 1) for number in (1, 1, 16)]
    device = DeviceContract(name="orin", runtime="tensorrt", precision="fp32")
    engine = tiny.engine(model_sha256=hashlib.sha256(tiny.network()).hexdigest())
    plan = MAGIC + tiny.network()
    folder = make_bundle(asked=tiny.draft(device=device, engines=(engine,)), extra={engine.path: ("engine", plan)})
    station = Station.load(folder, trust)
    assert station.provider == "TensorRT 10.16.1.11"
    assert [station.inspect(tiny.picture(grey)).verdict for grey in (40, 220)] == ["pass", "reject"]
    machine.library.said.clear()
    (folder / engine.path).write_bytes(plan[:-1] + b"x")
    with pytest.raises(BundleRefused, match=r"e\.plan was changed after signing"):
        Station.load(folder, trust)
    assert machine.library.said == []


def test_a_bundle_without_an_engine_says_how_to_get_one(tiny: SimpleNamespace) -> None:
    with pytest.raises(EnvironmentLacks, match=r"the bundle holds no TensorRT engine.*station rebuild-engine BUNDLE"):
        open_runner(bundle(tiny), "tensorrt")


# CUDA itself.


def test_the_gpu_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "tensorrt 11.4", Cuda("cuda 12.9", capability=(12, 0)))
    assert cuda.gpu() == cuda.Gpu(name="NVIDIA RTX A2000", capability="12.0", driver="13.1")


def test_an_error_of_cuda_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = installed(monkeypatch, "tensorrt 11.4").cuda
    monkeypatch.setattr(fake, "cudaGetErrorString", lambda error: (None, b"out of memory"))
    error = fake.cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(EnvironmentLacks, match=r"the GPU failed: found cudaErrorMemoryAllocation \(out of memory\)"):
        cuda.checked((error, None))


def test_without_the_bindings_of_cuda_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EnvironmentLacks, match="pip install cuda-bindings"):
        cuda.gpu()


@pytest.mark.skipif(not INSTALLED, reason="the extra rtx is not installed")
class TestReal:
    """The real bindings of CUDA and TensorRT-RTX, as far as they go without a GPU."""

    @pytest.fixture(autouse=True)
    def _no_gpu(self) -> None:
        try:
            cuda.gpu()
        except EnvironmentLacks:
            return
        pytest.skip("this machine has a GPU")

    def test_a_machine_without_a_gpu_is_told_so(self) -> None:
        for call in (cuda.gpu, cuda.Stream, lambda: cuda.DeviceMemory(8), lambda: cuda.PinnedArray((8,), np.uint8)):
            with pytest.raises(EnvironmentLacks, match=r"no NVIDIA GPU can be used here.*cudaError.*nvidia-smi"):
                call()  # type: ignore[operator]

    def test_the_record_is_what_the_installed_bindings_of_cuda_say(self) -> None:
        from cuda.bindings import runtime

        here, recorded = describe_cuda(runtime, ""), RECORD["cuda 13.5"]
        assert {name: here[name] for name in ("functions", "enums", "constants")} == {
            name: recorded[name] for name in ("functions", "enums", "constants")
        }

    def test_a_real_engine_is_not_opened_without_a_gpu(self, tiny: SimpleNamespace) -> None:
        built = build_engine(tiny.network(), EngineOptions(runtime="tensorrt-rtx"))
        with pytest.raises(EnvironmentLacks, match="no NVIDIA GPU can be used here"):
            EngineRunner(built.plan, built.entry("e", "fp32"), CONTRACT)

    def test_an_engine_of_another_version_is_refused_first(self, tiny: SimpleNamespace) -> None:
        engine = tiny.engine(runtime="tensorrt-rtx", version="1.6.0.1", targets=())
        with pytest.raises(EnvironmentLacks, match=r"another version of TensorRT-RTX: expected 1\.6\.0\.1, found 1\.7"):
            EngineRunner(b"", engine, CONTRACT)


def test_every_function_of_cuda_that_is_used_is_recorded_alike_for_both_versions() -> None:
    old, new = ({k: v for k, v in RECORD[name].items() if k != "version"} for name in ("cuda 12.9", "cuda 13.5"))
    assert old == new
