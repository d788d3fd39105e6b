"""A kit measured on this station: every network timed, and one signed file to carry back."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime.contract import Contract
from export.runtime.engine_builder import TIMINGS, EngineOptions, build_engine
from export.runtime.engines import EngineRunner, OnnxRunner, Runner
from export.runtime.errors import UsageError
from export.runtime.files import write_atomic
from export.runtime.fingerprint import fingerprint
from export.runtime.keys import key_id
from export.runtime.kit import Kit, Measurements, Network, Result, measurements_bytes, read_kit
from export.runtime.manifest import Signer
from export.runtime.station_key import NAME, station_key
from export.runtime.timing import Effort, Variant, random_frames, time_variants

CARRIED: Final = Effort(rounds=5, seconds=0.2, runs=10, warm_up_s=0.1)  # one walk to the station, many networks
_SAY_EVERY_S: Final = 5.0
_BYTES_EACH: Final = 1024  # more than the figures of a network, or those of the machine, take


def measure_kit(
    folder: Path, trusted: Mapping[str, Ed25519PublicKey], store: Path, out: Path, say: Callable[[str], None]
) -> Measurements:
    """Time every network of a kit, one frame at a time, and write the signed file ``out``.

    A runtime of engines gets one of every network, built here. The station's key is made in ``store`` at its first use.

    Raises BundleRefused for a kit that is not what a trusted key signed, GateError for a network of which no engine can
    be built, EnvironmentLacks where this machine cannot run it, and UsageError where a file cannot be written.
    """
    kit = read_kit(folder, trusted)
    device = kit.manifest.device
    machine = fingerprint(device.runtime)
    known = (store / NAME).exists()
    private = station_key(store)
    if not known:
        say(f"made the station's key: {store / NAME} (it stays here), {store / NAME}.pub (for the workstation)")
    networks = kit.manifest.networks
    _check_place(out, len(networks))
    say(f"kit {kit.id}: {len(networks)} networks for device {device.name}, {device.runtime}, threads {device.threads}")
    built = _Progress("built {} of {} engines", len(networks), say)
    variants = [_variant(kit, network, store, built.tick) for network in networks]
    measured = _Progress("measured {} of {} turns", CARRIED.rounds * len(networks), say)
    timed = time_variants(variants, CARRIED, tick=measured.tick)
    measurements = Measurements(
        created=str(machine.circumstances["time"]),
        kit=kit.id,
        device=device,
        identity=machine.identity,
        circumstances=machine.circumstances,
        results=tuple(
            Result(sha256=network.sha256, frame=network.frame, latency=latency.summary)
            for network, latency in zip(networks, timed, strict=True)
        ),
        signer=Signer(key_id=key_id(private.public_key()), name="station"),
    )
    _write(out, measurements_bytes(measurements, private))
    return measurements


@dataclass(slots=True)
class _Progress:
    """One line every few seconds, and at the end."""

    what: str
    total: int
    say: Callable[[str], None]
    done: int = 0
    start: float = 0.0
    told: float = 0.0

    def __post_init__(self) -> None:
        self.start = self.told = monotonic()

    def tick(self) -> None:
        self.done += 1
        now = monotonic()
        if now - self.told >= _SAY_EVERY_S or self.done == self.total:
            left = (now - self.start) / self.done * (self.total - self.done)
            self.say(f"{self.what.format(self.done, self.total)}, about {left:.0f} s left")
            self.told = now


def _variant(kit: Kit, network: Network, store: Path, tick: Callable[[], None]) -> Variant:
    """How a network is opened for each of its turns; an engine of it is built once, now."""
    frame = (network.frame.height, network.frame.width, network.frame.channels)
    asked, device, model = kit.manifest, kit.manifest.device, kit.contents[network.sha256]
    contract = Contract(
        input_name=asked.input_name, output_name=asked.output_name, frame_shape=frame, classes=network.frame.classes
    )
    opens: Callable[[], Runner]
    if device.runtime in ("tensorrt", "tensorrt-rtx"):
        built = build_engine(model, EngineOptions(runtime=device.runtime), store / TIMINGS)
        opens = partial(EngineRunner, built.plan, built.entry(network.path, "as in the graph"), contract)
        tick()
    else:
        opens = partial(OnnxRunner, model, contract, runtime=device.runtime, threads=device.threads)
    return Variant(opens, random_frames(frame))


def _check_place(out: Path, networks: int) -> None:
    """Raise UsageError unless so many figures can be written there: told now, since measuring takes minutes."""
    if out.is_dir():
        raise _not_written(out, "a folder")
    beside = out.with_name(f".{out.name}.{os.getpid()}.place")
    try:
        try:
            write_atomic(beside, bytes(_BYTES_EACH * (networks + 4)))
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(out, error.strerror or str(error)) from error


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data)
    except OSError as error:
        raise _not_written(path, error.strerror or str(error)) from error


def _not_written(path: Path, found: str) -> UsageError:
    return UsageError(
        f"cannot write {path}", found=found, fix="Name a file in a folder with space that can be written, by --out"
    )
