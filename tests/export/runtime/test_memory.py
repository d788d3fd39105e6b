from types import SimpleNamespace
from typing import Any

import pytest

from export.runtime.errors import EnvironmentLacks
from export.runtime.memory import _STATUS, memory_mb


def asked(**changes: Any) -> dict[str, Any]:
    known = {"runtime": "onnxruntime-cpu", "threads": 1, "input_name": "image", "output_name": "logits"}
    return known | {"frame_shape": (8, 8, 1), "classes": 3} | changes


@pytest.mark.skipif(not _STATUS.exists(), reason="only Linux tells")
def test_a_process_with_a_network_is_weighed_alone(tiny: SimpleNamespace) -> None:
    ballast = bytearray(400_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])  # what this process holds is not the other's
    weight = memory_mb(tiny.network(), **asked())
    assert weight is not None and 20 < weight < 300


def test_a_model_that_cannot_be_run_says_why(tiny: SimpleNamespace) -> None:
    with pytest.raises(EnvironmentLacks, match=r"could not be measured: found .*another"):
        memory_mb(tiny.network(), **asked(input_name="another"))
