"""The kernel, run by Triton's interpreter on the CPU, which must be chosen before triton is imported: in a process."""

import importlib.util
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernel_is_the_join_and_its_backward_pass_draws_the_same_masks() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "36 joins\n"


def _check(dtype: torch.dtype, coupling: str, levels: tuple[int, int], layout: torch.memory_format) -> None:
    from factory.swapout.fused import join

    def run(seed: int, x: Tensor, f: Tensor) -> Tensor:
        return join(x, f, levels, coupling, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]

    one = torch.ones(8, 5, 7, 9, dtype=dtype).contiguous(memory_format=layout)
    y = run(0, one, 2 * one)
    assert y.is_contiguous(memory_format=layout)
    t1, t2 = y % 2, y // 2
    p, q = levels[0] / 256, {"independent": levels[1] / 256, "same": levels[0] / 256}.get(coupling, 1 - levels[0] / 256)
    both = {"independent": p * q, "same": p, "opposite": 0.0}[coupling]
    for mask, share in ((t1, p), (t2, q), (t1 * t2, both)):
        assert abs(float(mask.double().mean()) - share) <= 5 * (share * (1 - share) / y.numel()) ** 0.5
    neighbours = float((t1 == t1.roll(1, 3)).double().mean())
    assert abs(neighbours - p * p - (1 - p) ** 2) < 6 * 0.5 / y.numel() ** 0.5
    assert torch.equal(y, run(0, one, 2 * one))
    assert p in {0.0, 1.0} or not torch.equal(y, run(1, one, 2 * one))
    # small integers, because the interpreter cuts the last bits of a bfloat16 off where a GPU rounds
    x, f, g = torch.randint(-9, 10, (3, *one.shape)).to(dtype).unbind()
    x, f = x.requires_grad_(), f.requires_grad_()
    z = run(0, x.contiguous(memory_format=layout), f)  # the branch and the gradient in another layout
    assert torch.equal(z, t1 * x + t2 * f)
    z.backward(g)  # type: ignore[no-untyped-call]
    assert x.grad is not None and f.grad is not None
    assert torch.equal(x.grad, t1 * g) and torch.equal(f.grad, t2 * g)


if __name__ == "__main__":
    torch.manual_seed(0)
    cases = list(
        product(
            (torch.float32, torch.bfloat16, torch.float16),
            ("independent", "same", "opposite"),
            ((64, 192), (256, 77)),
            (torch.contiguous_format, torch.channels_last),
        )
    )
    for case in cases:
        _check(*case)
    print(len(cases), "joins")
