"""What the benchmarks of a station share: the bundle of a finished run, a newer one like it, its pictures, a store."""

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from export.runtime.keys import load_private, public_path
from export.runtime.manifest import canonical_bytes
from export.runtime.trust import sign_bundle


def bundle_of(line: str, runs: Path) -> Path:
    """The newest bundle of a finished run of `line`."""
    found = sorted((runs / line).glob("pack-*/bundle"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SystemExit(f"no finished run of {line} in {runs}: make demo, or factory run {line}")
    return found[-1]


def renewed(bundle: Path, key: Path, destination: Path, hours: int) -> Path:
    """The same network in a bundle that was made so many hours later, signed by `key`."""
    shutil.copytree(bundle, destination)
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    made = datetime.strptime(manifest["created"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    manifest["created"] = (made + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
    (destination / "manifest.json").write_bytes(canonical_bytes(manifest))
    sign_bundle(destination, load_private(key))
    return destination


def new_store(folder: Path, key: Path) -> Path:
    """A station's folder that trusts `key`."""
    trusted = folder / "trusted"
    trusted.mkdir(parents=True)
    shutil.copy(public_path(key), trusted / "workstation.pub")
    return folder


def golden_pictures(bundle: Path) -> list[bytes]:
    """The pictures that a bundle carries."""
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    return [(bundle / entry["path"]).read_bytes() for entry in manifest["files"] if entry["role"] == "golden-frame"]


@dataclass(frozen=True)
class Usage:
    """A process now: resident memory in 10^6 bytes, open descriptors, threads (read from Linux's /proc)."""

    memory_mb: float
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Usage":
        own = Path(f"/proc/{pid}")
        fields = dict(line.split(":", 1) for line in (own / "status").read_text().splitlines())
        memory = int(fields["VmRSS"].split()[0]) * 1024 / 1e6
        return cls(memory, len(list((own / "fd").iterdir())), int(fields["Threads"]))

    def __str__(self) -> str:
        return f"{self.memory_mb:.1f} MB, {self.descriptors} descriptors, {self.threads} threads"


def percentiles(milliseconds: list[float]) -> str:
    """p50 and p99 in milliseconds."""
    p50, p99 = np.percentile(milliseconds, (50, 99))
    return f"p50 {p50:.2f}, p99 {p99:.2f} ms"
