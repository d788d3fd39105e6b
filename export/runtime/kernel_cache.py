"""The kernels that TensorRT-RTX compiles of an engine when it first runs on a station, kept for the next start.

They are native code as the engine is: the file is signed by the station's own key, and read by nothing before that
holds. All works without it, only later, so no failure here is one of the station.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature

from export.runtime.cuda import Gpu
from export.runtime.errors import FactoryError
from export.runtime.files import write_atomic
from export.runtime.station_key import station_key

DOMAIN: Final = b"edge-model-factory station kernels v1\n"
FOLDER: Final = "kernels"
_SIGNATURE_BYTES: Final = 64


class KernelCache:
    """One file for one engine, good for one GPU and driver; TensorRT-RTX checks its own version in what it holds."""

    def __init__(self, store: Path, plan: bytes, gpu: Gpu) -> None:
        engine = hashlib.sha256(plan).hexdigest()
        self.path = store / FOLDER / f"{engine[:16]}.kernels"
        self._store = store
        self._signed = DOMAIN + f"{engine}\n{gpu.name}\n{gpu.capability}\n{gpu.driver}\n".encode()
        self._kernels: Any = None
        self._known = b""

    def attach(self, config: Any) -> None:
        """Let an execution context of this runtime configuration take its kernels from here, and add its own."""
        if self._kernels is None:
            self._kernels = config.create_runtime_cache()
            if self._kernels is None:
                return
            self._known = self._read()
            if self._known and not self._kernels.deserialize(self._known):
                self._warn("TensorRT-RTX does not take them")
        config.set_runtime_cache(self._kernels)

    def keep(self) -> None:
        """Write the kernels if there are new ones."""
        held = None if self._kernels is None else self._kernels.serialize()
        kernels = b"" if held is None else bytes(held)
        if kernels in (b"", self._known):
            return
        self._known = kernels
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, station_key(self._store).sign(self._signed + kernels) + kernels)
        except (OSError, FactoryError) as error:
            self._warn(f"they cannot be kept: {error}")

    def _read(self) -> bytes:
        try:
            data = self.path.read_bytes()
            station_key(self._store).public_key().verify(
                data[:_SIGNATURE_BYTES], self._signed + data[_SIGNATURE_BYTES:]
            )
        except FileNotFoundError:
            return b""
        except (InvalidSignature, OSError, FactoryError) as error:
            self._warn(str(error) or "this station did not sign them for this engine, GPU and driver")
            return b""
        return data[_SIGNATURE_BYTES:]

    def _warn(self, reason: str) -> None:
        log = logging.getLogger(__name__)
        log.warning("%s: the kernels of the engine are compiled anew, which takes a while: %s", self.path, reason)
