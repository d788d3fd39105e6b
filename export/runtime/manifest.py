"""What a bundle says about itself: the signed manifest, its fields and what they must mean together."""

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from export.runtime.errors import BundleRefused, EnvironmentLacks
from export.runtime.strictjson import canonical_bytes, read_json, shape

__all__ = [
    "SCHEMA",
    "Band",
    "DecisionRule",
    "DeviceContract",
    "Draft",
    "Engine",
    "Fallback",
    "FileEntry",
    "Golden",
    "Hardware",
    "Input",
    "JsonObject",
    "Manifest",
    "Model",
    "Output",
    "Role",
    "Runtime",
    "Signer",
    "Variant",
    "bundle_id",
    "canonical_bytes",
    "is_batch_profile",
    "parse_manifest",
    "variant_of",
]

SCHEMA: Final = 2

Runtime: TypeAlias = Literal["onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"]
Hardware: TypeAlias = Literal["this-gpu", "same-capability", "ampere-plus"]
Fallback: TypeAlias = Literal["onnxruntime-cpu", "onnxruntime-cuda"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
Role: TypeAlias = Literal["model", "engine", "golden-frame", "golden-scores", "reference", "report"]
JsonObject: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceContract:
    """The device the budget was measured on: its name, its runtime and the precision it computes in.

    ``batch`` is the least, best and most frames at once of an engine built for it. ``fallback`` runs the model where
    the runtime cannot, None for a station that shall rather stand still.
    """

    name: str
    runtime: Runtime
    precision: str
    batch: tuple[int, ...] = (1, 1, 16)
    fallback: Fallback | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Reject scores, ends included, that are too near to the threshold to go without a person's look."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRule:
    """How scores become a verdict: a reject threshold in (0, 1) with a band of review, or the most probable class."""

    rule: Literal["threshold", "argmax"]
    threshold: float | None
    review: Band | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """The network's input: uint8 (N, height, width, channels), in pixels, made by the resize rule named."""

    name: str
    height: int
    width: int
    channels: Literal[1, 3]
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"
    colour: Literal["grey", "rgb"]
    resize: str
    normalised_in_graph: Literal[True] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The network's output: float32 logits (N, labels)."""

    name: str
    kind: Literal["logits"] = "logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An ONNX file of the bundle, and the precision its graph computes in."""

    path: str
    precision: Precision
    opset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A file compiled for one version of a runtime.

    ``targets`` are compute capabilities such as "8.6": of TensorRT-RTX those it was built for, none for a portable
    engine; of TensorRT that of the GPU it was built on, and ``hardware`` says on which others it runs. ``batch`` is the
    least, best and most frames at once, ``model_sha256`` the hash of the ONNX file it was built from.
    """

    path: str
    runtime: Literal["tensorrt", "tensorrt-rtx"]
    precision: str
    version: str
    targets: tuple[str, ...]
    batch: tuple[int, ...]
    hardware: Hardware
    version_compatible: bool
    model_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """The scores a station must reproduce, each within the tolerance (a difference of probabilities)."""

    path: str
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The network in another precision, for engines built from it: with a threshold and golden scores of its own."""

    model: Model
    decision: DecisionRule
    golden: Golden


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the bundle: its size in bytes and its SHA-256 in lower-case hex."""

    path: str
    size: int
    sha256: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Who signed: the key's id (16 hex digits) and a person's or a workstation's name."""

    key_id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """All of a manifest that is known before the bundle's files are packed and signed.

    ``labels`` stand in the order of the model's outputs; ``good`` is the label that passes, None for a
    line that only sorts. ``decision`` and ``golden`` belong to ``model``, which the device runs; ``variants``
    are the models of engines that are built from another one, each with its own. ``reference`` is the file that tells
    how the training pictures look. ``threads`` is the intra-op
    count the budget was measured with. ``budget``, ``acceptance``, ``chain`` and ``provenance`` are recorded for
    the audit; nothing runs by them.
    """

    schema: Literal[2] = SCHEMA
    line: str
    created: str
    device: DeviceContract
    labels: tuple[str, ...]
    good: str | None
    decision: DecisionRule
    input: Input
    output: Output
    model: Model
    engines: tuple[Engine, ...]
    golden: Golden
    variants: tuple[Variant, ...] = ()
    reference: str
    threads: int
    budget: JsonObject
    acceptance: JsonObject
    chain: JsonObject
    provenance: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Draft):
    """A whole manifest: the draft, the list of every file, and the signer."""

    files: tuple[FileEntry, ...]
    signer: Signer


def bundle_id(manifest_bytes: bytes) -> str:
    """Return the bundle's name: the first 16 hex digits of its manifest's SHA-256."""
    return hashlib.sha256(manifest_bytes).hexdigest()[:16]


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest in ``data``.

    Raises EnvironmentLacks for another schema version, whose fields this station cannot know, and
    BundleRefused for anything unknown, missing, of the wrong type, contradicting itself or not in canonical spelling.
    """
    value = read_json(data, "the manifest")
    schema = value.get("schema") if isinstance(value, dict) else None
    if type(schema) is int and schema != SCHEMA:
        raise EnvironmentLacks(
            "the bundle's manifest is of another version",
            expected=f"schema {SCHEMA}",
            found=f"schema {schema}",
            fix="Update the station's software, or build the bundle with the version that belongs to it",
        )
    manifest = shape(Manifest, value, "manifest")
    for wrong, problem in _contradictions(manifest):
        if wrong:
            raise BundleRefused(f"the manifest contradicts itself: {problem}", fix="Build the bundle again")
    if canonical_bytes(value) != data:
        raise BundleRefused("the manifest is not in canonical spelling", fix="Build the bundle again")
    return manifest


def variant_of(manifest: Manifest, sha256: str) -> Variant:
    """Return the model with that hash, with its threshold and golden scores.

    Raises BundleRefused where the bundle has no such model.
    """
    own = Variant(model=manifest.model, decision=manifest.decision, golden=manifest.golden)
    hashes = {entry.path: entry.sha256 for entry in manifest.files}
    for variant in (own, *manifest.variants):
        if hashes[variant.model.path] == sha256:
            return variant
    raise BundleRefused(f"the bundle has no model {sha256}", fix="Build the bundle again")


def _contradictions(m: Manifest) -> list[tuple[bool, str]]:
    decisions = [m.decision, *(variant.decision for variant in m.variants)]
    thresholds = [decision.threshold for decision in decisions if decision.threshold is not None]
    models = [m.model, *(variant.model for variant in m.variants)]
    goldens = [m.golden, *(variant.golden for variant in m.variants)]
    named = [*m.labels, m.line, m.input.name, m.output.name, m.signer.name]
    return [
        (
            not all(text and text.isprintable() for text in named),
            "a name is empty or holds unprintable characters",
        ),
        (not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", m.created, re.ASCII), "created is no UTC time"),
        (len(m.labels) < 2 or len(set(m.labels)) != len(m.labels), "labels must be two or more, each once"),
        (m.good is not None and m.good not in m.labels, "good is none of the labels"),
        (
            any((decision.rule == "threshold") != (m.good is not None) for decision in decisions),
            "a threshold needs a good label, and only it",
        ),
        (
            any((decision.rule == "threshold") != (decision.threshold is not None) for decision in decisions),
            "rule and threshold do not belong together",
        ),
        (not all(0 < threshold < 1 for threshold in thresholds), "the threshold is not between 0 and 1"),
        (
            not all(_holds(decision) for decision in decisions),
            "a review band does not hold its threshold",
        ),
        (not all(0 <= golden.tolerance < 1 for golden in goldens), "the golden tolerance is not in [0, 1)"),
        (
            min(m.input.height, m.input.width, m.threads, *(model.opset for model in models)) < 1,
            "a size or count is below 1",
        ),
        ((m.input.colour == "grey") != (m.input.channels == 1), "colour and channels do not belong together"),
        (not re.fullmatch("[0-9a-f]{16}", m.signer.key_id), "the signer's key id is not 16 hex digits"),
        (
            any(f.size < 0 or not re.fullmatch("[0-9a-f]{64}", f.sha256) for f in m.files),
            "a file has no sound hash",
        ),
        (
            not all(is_batch_profile(batch) for batch in (m.device.batch, *(engine.batch for engine in m.engines))),
            "a batch profile is not least, best and most",
        ),
        (
            any(e.runtime == "tensorrt-rtx" and (e.version_compatible or e.hardware != "this-gpu") for e in m.engines),
            "a TensorRT-RTX engine claims what only TensorRT has",
        ),
        (
            _with_role(m, "model") != sorted(model.path for model in models),
            "the models are not the files of that role",
        ),
        (
            _with_role(m, "golden-scores") != sorted(golden.path for golden in goldens),
            "the golden scores are not the files of that role",
        ),
        (_with_role(m, "reference") != [m.reference], "the reference is not the file of that role"),
        (
            _with_role(m, "engine") != sorted(engine.path for engine in m.engines),
            "the engines are not the files of that role",
        ),
        (
            not {engine.model_sha256 for engine in m.engines} <= {f.sha256 for f in m.files if f.role == "model"},
            "an engine was built from another model",
        ),
    ]


def _holds(decision: DecisionRule) -> bool:
    band, threshold = decision.review, decision.threshold
    return band is None or (threshold is not None and 0 <= band.low <= threshold <= band.high <= 1)


def is_batch_profile(batch: tuple[int, ...]) -> bool:
    """Return whether these are the least, best and most frames at once."""
    return len(batch) == 3 and 1 <= batch[0] <= batch[1] <= batch[2]


def _with_role(manifest: Manifest, role: Role) -> list[str]:
    return sorted(entry.path for entry in manifest.files if entry.role == role)
