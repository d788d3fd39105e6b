"""The one builder: real TensorRT-RTX engines where the extra `rtx` is installed, and every recorded API of TensorRT."""

import importlib.util
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import helper

from export.runtime import engine_builder
from export.runtime.engine_builder import EngineOptions, as_engine_runtime, build_engine
from export.runtime.errors import EnvironmentLacks, GateError, UsageError
from export.runtime.tensorrt_library import MODULES, Words, header_version
from tests.export.api.fake import RECORD, VERSIONS, Cuda, Machine, installed

INSTALLED = all(importlib.util.find_spec(name) for name in MODULES["tensorrt-rtx"])
needs_rtx = pytest.mark.skipif(not INSTALLED, reason="the extra rtx is not installed")
TENSORRT = [name for name in VERSIONS if name.startswith("tensorrt ")]
RTX = EngineOptions(runtime="tensorrt-rtx")
TRT = EngineOptions(runtime="tensorrt")


def other(**changes: object) -> EngineOptions:
    return EngineOptions(**({"runtime": "tensorrt"} | changes))  # type: ignore[arg-type]


def rtx(**changes: object) -> EngineOptions:
    return other(runtime="tensorrt-rtx", **changes)


def unknown(model: bytes) -> bytes:
    proto = onnx.load_from_string(model)
    proto.graph.node[2].CopyFrom(helper.make_node("NoSuchOperation", ["planes", "mean"], ["centred"]))
    return bytes(proto.SerializeToString())


# What is built for real, on a machine without a GPU.


@needs_rtx
@pytest.mark.parametrize("capabilities", [(), ("8.6",), ("8.6", "8.9", "12.0")])
@pytest.mark.parametrize("batch", [(1, 1, 16), (1, 1, 1), (4, 4, 4)])
def test_an_engine_is_built_without_a_gpu(
    tiny: SimpleNamespace, capabilities: tuple[str, ...], batch: tuple[int, int, int]
) -> None:
    built = build_engine(tiny.network(), rtx(capabilities=capabilities, batch=batch))
    assert len(built.plan) > 1000
    assert built.version == RECORD["tensorrt-rtx 1.7"]["version"]
    assert header_version(built.plan) == built.version
    entry = built.entry("engines/x.engine", "fp32")
    assert (entry.targets, entry.batch, entry.hardware) == (capabilities, batch, "this-gpu")
    assert entry.runtime == "tensorrt-rtx"
    assert len(entry.model_sha256) == 64


@needs_rtx
def test_a_model_of_fixed_batch_is_built_for_that_batch_alone(tiny: SimpleNamespace) -> None:
    model = tiny.network(batch=1)
    assert header_version(build_engine(model, rtx(batch=(1, 1, 1))).plan) is not None
    with pytest.raises(GateError, match=r"the model takes batches of 1 only, not \[1, 1, 16\]"):
        build_engine(model, RTX)


@needs_rtx
def test_a_capability_that_is_unknown_is_refused(tiny: SimpleNamespace) -> None:
    with pytest.raises(GateError, match=r"TensorRT-RTX builder refused the model: found no compute capability 3\.7"):
        build_engine(tiny.network(), rtx(capabilities=("3.7",)))


@needs_rtx
@pytest.mark.parametrize("spoil", [lambda _: b"no model at all", unknown], ids=["not onnx", "unknown operation"])
def test_a_model_the_parser_refuses_is_refused_in_its_words(
    tiny: SimpleNamespace, spoil: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(GateError, match=r"the TensorRT-RTX parser refused the model: found (?!no reason)") as caught:
        build_engine(spoil(tiny.network()), RTX)
    assert caught.value.exit_code == 1


@needs_rtx
def test_a_model_the_builder_refuses_is_refused_in_its_words(tiny: SimpleNamespace) -> None:
    """SM75 has no kernel for a Gemm in float32: the builder returns nothing, its logger says why."""
    with pytest.raises(GateError, match=r"the TensorRT-RTX builder refused the model: found .*FP32 GEMM"):
        build_engine(tiny.network(), rtx(capabilities=("7.5",)))


def test_a_plan_of_another_kind_has_no_version_in_its_header() -> None:
    assert header_version(b"ftrt" + bytes(100)) is None
    assert header_version(b"vtrt") is None


# What is refused before anything is loaded.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (rtx(version_compatible=True), "TensorRT-RTX builds no engine for other versions"),
        (rtx(hardware="ampere-plus"), "found hardware ampere-plus"),
        (other(capabilities=("8.6",)), "TensorRT builds for the GPU at hand"),
        (other(batch=(0, 1, 1)), r"no such batch profile.*found \[0, 1, 1\]"),
        (other(batch=(1, 4, 2)), "no such batch profile"),
        (other(batch=(1, 1)), "no such batch profile"),
    ],
)
def test_options_that_the_runtime_does_not_have_are_refused(options: EngineOptions, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        build_engine(b"", options)
    assert caught.value.fix


@pytest.mark.parametrize(("options", "extra"), [(RTX, "rtx"), (TRT, "trt")])
def test_without_the_extra_the_refusal_names_it(
    options: EngineOptions, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, MODULES[options.runtime][0], None)
    with pytest.raises(EnvironmentLacks, match=rf"is not installed.*edge-model-factory\[{extra}\]") as caught:
        build_engine(b"", options)
    assert caught.value.exit_code == 3


def test_a_runtime_of_models_has_no_engines() -> None:
    assert as_engine_runtime("tensorrt") == "tensorrt"
    with pytest.raises(UsageError, match="onnxruntime-cuda runs the ONNX model, no engine is built for it"):
        as_engine_runtime("onnxruntime-cuda")


# The contract with every recorded API: a call or a member that is not in the record fails.


@pytest.mark.parametrize("record", VERSIONS)
def test_the_builder_uses_only_what_this_version_has(
    record: str, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = installed(monkeypatch, record)
    name = record.partition(" ")[0]
    richest = (
        other(hardware="ampere-plus", version_compatible=True)
        if name == "tensorrt"
        else rtx(capabilities=("8.6", "12.0"))
    )
    built = build_engine(tiny.network(), richest, tmp_path)
    assert built.plan.endswith(tiny.network())
    assert built.version == RECORD[record]["version"]
    assert machine.profile == [(1, 8, 8, 1), (1, 8, 8, 1), (16, 8, 8, 1)]
    said = dict(machine.library.said)
    assert said["Builder.create_network"] == (1 << int(machine.library.NetworkDefinitionCreationFlag.STRONGLY_TYPED),)
    if name == "tensorrt":
        assert built.targets == ("8.6",)  # the GPU it was built on
        assert said["IBuilderConfig.set_flag"] == (machine.library.BuilderFlag.VERSION_COMPATIBLE,)
        level = machine.library.HardwareCompatibilityLevel.AMPERE_PLUS
        assert said["IBuilderConfig.hardware_compatibility_level"] == (level,)
        assert machine.library.names().index("IBuilderConfig.set_timing_cache") < machine.library.names().index(
            "Builder.build_serialized_network"
        )
    else:
        assert built.targets == ("8.6", "12.0")
        capability = machine.library.ComputeCapability
        set_ = [given for called, given in machine.library.said if called == "IBuilderConfig.set_compute_capability"]
        assert set_ == [(capability.SM86, 0), (capability.SM120, 1)]
        assert said["IBuilderConfig.num_compute_capabilities"] == (2,)
        assert "IBuilderConfig.create_timing_cache" not in machine.library.names()  # RTX times nothing
        assert list(tmp_path.iterdir()) == []


def test_the_records_differ_where_11_took_members_away() -> None:
    """So what the test above allows is not the same for all, and none of what is gone can be used."""
    old, new = RECORD["tensorrt 10.16"], RECORD["tensorrt 11.0"]
    assert {"FP16", "INT8"} <= old["enums"]["BuilderFlag"].keys() - new["enums"]["BuilderFlag"].keys()
    assert "EXPLICIT_BATCH" not in new["enums"]["NetworkDefinitionCreationFlag"]
    for name in ("platform_has_fast_fp16",):
        assert name in old["classes"]["Builder"]["members"] and name not in new["classes"]["Builder"]["members"]
    assert "IInt8EntropyCalibrator2" in old["classes"] and "IInt8EntropyCalibrator2" not in new["classes"]


def test_what_the_record_does_not_have_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in itself: were it lenient, the contract would be empty."""
    library = installed(monkeypatch, "tensorrt 11.4").library
    config = library.make("IBuilderConfig")
    with pytest.raises(AttributeError, match="FP16"):
        _ = library.BuilderFlag.FP16
    with pytest.raises(AttributeError, match="platform_has_fast_fp16"):
        _ = library.make("Builder").platform_has_fast_fp16
    with pytest.raises(AssertionError, match="int8_calibrator cannot be set"):
        config.int8_calibrator = None
    with pytest.raises(AssertionError, match="set_flag takes"):
        config.set_flag(3)
    with pytest.raises(AssertionError, match="set_timing_cache takes"):
        config.set_timing_cache(library.make("ITimingCache"))


@needs_rtx
def test_the_record_is_what_the_installed_bindings_say(python: Callable[..., object]) -> None:
    code = (
        "import json, sys, onnxruntime_ep_nv_tensorrt_rtx, tensorrt_rtx_bindings as trt;"
        "from tests.export.api.record import RECORD, describe;"
        "print(describe(trt) == json.loads(RECORD.read_text())['tensorrt-rtx 1.7'])"
    )
    done = python(code)
    assert done.stdout == "True\n", done  # type: ignore[attr-defined]


# What the library says when it fails, and the timing cache.


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return installed(monkeypatch, "tensorrt 11.4")


def test_no_plan_is_an_error_in_the_librarys_words(machine: Machine, tiny: SimpleNamespace) -> None:
    severity = machine.library.ILogger.Severity

    def fail(builder: object, network: object, config: object) -> None:
        logger = dict(machine.library.said)["Builder.__init__"][0]
        logger.log(severity.INFO, "a remark")
        logger.log(severity.ERROR, "no kernel for this layer")

    machine.library.behave["Builder.build_serialized_network"] = fail
    with pytest.raises(GateError, match=r"the TensorRT builder refused the model: found no kernel for this layer$"):
        build_engine(tiny.network(), TRT)


def test_a_refusal_of_the_parser_is_told_with_all_its_errors(machine: Machine, tiny: SimpleNamespace) -> None:
    parts = {"parse": lambda *_: False, "num_errors": 2}
    machine.library.behave |= {f"OnnxParser.{name}": value for name, value in parts.items()}
    machine.library.behave["OnnxParser.get_error"] = lambda _, i: machine.library.make("ParserError", index=i)
    machine.library.behave["ParserError.desc"] = lambda error: f"error {error.__dict__['index']}"
    with pytest.raises(GateError, match=r"the TensorRT parser refused the model: found error 0; error 1$"):
        build_engine(tiny.network(), TRT)


def test_a_library_that_makes_no_builder_is_a_lack_of_this_machine(machine: Machine, tiny: SimpleNamespace) -> None:
    def fail(builder: object, logger: object) -> None:
        raise TypeError("factory function returned nullptr")

    machine.library.behave["Builder.__init__"] = fail
    with pytest.raises(EnvironmentLacks, match="TensorRT makes no builder here"):
        build_engine(tiny.network(), TRT)


def test_a_profile_or_a_model_that_does_not_fit_is_refused(machine: Machine, tiny: SimpleNamespace) -> None:
    machine.library.behave["IBuilderConfig.add_optimization_profile"] = lambda *_: -1
    with pytest.raises(GateError, match="the batch profile is not accepted"):
        build_engine(tiny.network(), TRT)
    machine.library.behave["INetworkDefinition.num_inputs"] = 2
    with pytest.raises(GateError, match="the model has 2 inputs instead of one"):
        build_engine(tiny.network(), TRT)


@pytest.mark.parametrize("record", VERSIONS)
def test_ctrl_c_cancels_a_build_and_keeps_none_of_its_timings(
    record: str, tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = installed(monkeypatch, record)
    went_on: list[bool] = []

    def build(builder: object, network: object, config: Any) -> None:
        config.progress_monitor.phase_start("Building engine", None, 6)
        went_on.append(config.progress_monitor.step_complete("Building engine", 1))
        signal.raise_signal(signal.SIGINT)
        went_on.append(config.progress_monitor.step_complete("Building engine", 2))
        config.progress_monitor.phase_finish("Building engine")

    machine.library.behave["Builder.build_serialized_network"] = build
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build_engine(tiny.network(), EngineOptions(runtime=record.partition(" ")[0]), tmp_path)  # type: ignore[arg-type]
    assert went_on == [True, False]
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.glob("*.timings"))


@needs_rtx
def test_ctrl_c_cancels_a_real_build(tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pressed as soon as it is listened for."""
    listen, pressed, heard = signal.signal, list[int](), list[Words]()

    def press(number: int, handler: Any) -> Any:
        before = listen(number, handler)
        if not pressed:
            pressed.append(number)
            signal.raise_signal(number)
        return before

    class Heard(Words):
        def __init__(self, trt: Any) -> None:
            super().__init__(trt)
            heard.append(self)

    monkeypatch.setattr(engine_builder, "Words", Heard)
    monkeypatch.setattr(signal, "signal", press)
    with pytest.raises(KeyboardInterrupt):
        build_engine(tiny.network(), RTX)
    assert "BuildCanceled" in heard[0].take()


def test_a_process_that_ignores_ctrl_c_builds_on(machine: Machine, tiny: SimpleNamespace) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        built = build_engine(tiny.network(), TRT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert built.plan
    assert "IBuilderConfig.progress_monitor" not in machine.library.names()


def test_timings_are_kept_for_the_next_build_on_this_gpu_and_version(
    machine: Machine, tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for expected in (b"", b".", b".."):  # each build adds to what it was given
        build_engine(tiny.network(), TRT, tmp_path)
        assert machine.timings == expected
    elsewhere = installed(monkeypatch, "tensorrt 11.4", Cuda(capability=(8, 9)))
    build_engine(tiny.network(), TRT, tmp_path)
    assert elsewhere.timings == b""
    assert len(list(tmp_path.glob("*.timings"))) == 2


def test_timings_that_are_damaged_or_anothers_are_set_aside(
    machine: Machine, tiny: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_engine(tiny.network(), TRT, tmp_path)
    (path,) = tmp_path.glob("*.timings")
    path.write_bytes(path.read_bytes() + b"x")
    build_engine(tiny.network(), TRT, tmp_path)
    assert machine.timings == b""
    assert "it is damaged" in caplog.text
    machine.library.behave["ITimingCache.serialize"] = lambda _: machine.library.make("IHostMemory", data=b"others")
    build_engine(tiny.network(), TRT, tmp_path)
    build_engine(tiny.network(), TRT, tmp_path)  # now it is given these, and refuses them
    assert machine.timings == b""
    assert "belongs to another GPU or version" in caplog.text
    assert len(list(tmp_path.glob("*.damaged"))) == 1
