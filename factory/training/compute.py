"""What a training runs on. The dtype and the number of threads change the last bits, so they are part of its inputs."""

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True, slots=True)
class Compute:
    """Device, dtype of the matrix products ("float32" or "bfloat16"), CPU threads."""

    device: str
    dtype: str
    threads: int

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision where it pays, else no change."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bfloat16")

    def as_json(self) -> dict[str, object]:
        """The inputs of a stage that trains."""
        return {**asdict(self), "torch": torch.__version__}


def this_machine() -> Compute:
    """A GPU if torch sees one, else the CPU; bfloat16 on both where the hardware multiplies in it."""
    if torch.cuda.is_available():
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Compute("cuda", "bfloat16" if bfloat16 else "float32", 1)
    amx = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return Compute("cpu", "bfloat16" if amx else "float32", torch.get_num_threads())
