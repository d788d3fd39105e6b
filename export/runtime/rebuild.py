"""An engine built on the station from the bundle's ONNX model, and proven on its golden pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from export.runtime import compat, cuda, overlay
from export.runtime.engine_builder import TIMINGS, BuiltEngine, EngineOptions, as_engine_runtime, build_engine
from export.runtime.engines import EngineRunner, Opened, contract_of
from export.runtime.errors import EnvironmentLacks
from export.runtime.manifest import Engine, Manifest, Runtime, Variant, variant_of
from export.runtime.station import Station
from export.runtime.trt_runner import rebuild
from export.runtime.trust import VerifiedBundle, verify_bundle


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was built: its record in the store, the library, its size in bytes, the seconds it took."""

    record: Path
    version: str
    size: int
    seconds: float


def rebuild_engine(
    folder: Path, trusted: Mapping[str, Ed25519PublicKey], store: Path, runtime: Runtime | None = None
) -> Rebuilt:
    """Build an engine from the bundle's model, prove it on the golden pictures, and record it in the store.

    ``runtime`` is another than the bundle's own. Nothing is recorded unless every golden picture came out again.

    Raises BundleRefused where the bundle or a golden picture does not hold, GateError where the model cannot be built,
    EnvironmentLacks where this machine cannot build the engine or run it, and UsageError for a runtime without engines.
    """
    bundle = verify_bundle(folder, trusted)
    manifest = bundle.manifest
    wanted = as_engine_runtime(runtime or manifest.device.runtime)
    compat.require(manifest, wanted)
    source = _source(manifest, wanted)
    start = perf_counter()
    built = build_engine(
        bundle.contents[source.model.path],
        EngineOptions(runtime=wanted, batch=manifest.device.batch),
        store / TIMINGS,
    )
    seconds = perf_counter() - start
    engine = built.entry(f"{wanted}.engine", source.model.precision)
    _prove(bundle, built, engine, source)
    path = overlay.record(store, bundle, engine, built.plan, cuda.gpu())
    return Rebuilt(path, built.version, len(built.plan), seconds)


def _source(manifest: Manifest, runtime: Runtime) -> Variant:
    """The model of the bundle's own engine for that runtime, or, if it has none, the one the bundle's device runs."""
    for engine in manifest.engines:
        if engine.runtime == runtime:
            return variant_of(manifest, engine.model_sha256)
    return Variant(model=manifest.model, decision=manifest.decision, golden=manifest.golden)


def _prove(bundle: VerifiedBundle, built: BuiltEngine, engine: Engine, source: Variant) -> None:
    manifest = bundle.manifest
    try:
        runner = EngineRunner(built.plan, engine, contract_of(manifest))
    except EnvironmentLacks as error:
        raise EnvironmentLacks(
            f"an engine of {len(built.plan)} bytes was built, but it cannot be run here on the golden pictures, "
            "so it is not recorded",
            found=error.message if error.found is None else f"{error.message}: {error.found}",
            fix="Run the bundle by another runtime on this GPU" if error.fix == rebuild(engine.runtime) else error.fix,
        ) from error
    Station(bundle, Opened(runner, source), engine.runtime).check_golden(bundle)
