"""Coverage-guided fuzzing of what a station parses: manifests, trust statements, pictures.

python -m tests.benchmarks.fuzz manifest|statement|image --minutes 15      (needs the extra `fuzz`, Linux)

Anything raised but FactoryError is a finding, so are more than SECONDS and more than MEGABYTES for one input. A finding
is kept beside the corpus and the search goes on; the exit code is 1 if there was one.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

from tests.peak import peak_mb

SECONDS, MEGABYTES, LONGEST = 10, 1024, 16_384
PROJECT = Path(__file__).parents[2]


def main() -> None:
    """Search for some minutes, in processes that begin anew whenever one dies, and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--folder", type=Path, help="keeps corpus and findings (default: a new one)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix=f"fuzz-{options.target}-"))
    corpus, findings = folder / "corpus", folder / "findings"
    for place in (corpus, findings):
        place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[options.target]()):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    executions, coverage, deadline = 0, 0, time.monotonic() + 60 * options.minutes
    while (left := deadline - time.monotonic()) > 1:
        said = _search(options.target, corpus, findings, int(left))
        executions += max(map(int, re.findall(r"^#(\d+)", said, re.MULTILINE)), default=0)
        coverage = max([coverage, *map(int, re.findall(r"cov: (\d+)", said))])
    kept = sorted(findings.iterdir())
    print("| target | minutes | executions | coverage | corpus | findings |\n|---|---|---|---|---|---|")
    inputs = sum(1 for _ in corpus.iterdir())
    print(f"| {options.target} | {options.minutes:g} | {executions} | {coverage} | {inputs} | {len(kept)} |")
    for finding in kept:
        print(finding)
    sys.exit(1 if kept else 0)


def _search(target: str, corpus: Path, findings: Path, seconds: int) -> str:
    limits = [f"-max_total_time={seconds}", f"-timeout={6 * SECONDS}", "-rss_limit_mb=4096", f"-max_len={LONGEST}"]
    code = "import sys; from tests.benchmarks import fuzz; fuzz.child(*sys.argv[1:])"
    command = [sys.executable, "-c", code, target, str(corpus), str(findings), *limits]
    command.append(f"-artifact_prefix={findings}/died-")
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    said = done.stderr.decode(errors="replace")
    if not re.search(r"^#\d+", said, re.MULTILINE):
        raise SystemExit(said[-4000:])  # it never began
    return said


def child(target: str, corpus: str, findings: str, *limits: str) -> None:
    """Search in this process until libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["export.runtime", "PIL"]):
        from export.runtime.errors import FactoryError

        run = TARGETS[target]()

    def one(data: bytes) -> None:
        started = time.monotonic()
        try:
            run(data)
        except FactoryError:
            pass
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            _keep(Path(findings), f"{type(error).__name__}-{Path(last.filename).stem}-{last.lineno}", data)
        if time.monotonic() - started > SECONDS:
            _keep(Path(findings), "slow", data)
        if peak_mb() > MEGABYTES:
            _keep(Path(findings), "large", data)
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak back

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        rng = Random(seed)
        changed = _other_json(data, rng) if target != "image" and rng.random() < 0.5 else None
        return atheris.Mutate(data, longest) if changed is None else changed[:longest]

    atheris.Setup([sys.argv[0], *limits, corpus], one, custom_mutator=mutate)
    atheris.Fuzz()


def _keep(findings: Path, name: str, data: bytes) -> None:
    path = findings / name  # one input a place: the first
    if not path.exists():
        path.write_bytes(data)


def _manifest() -> Callable[[bytes], object]:
    from export.runtime.contents import check_paths
    from export.runtime.manifest import parse_manifest

    return lambda data: check_paths(entry.path for entry in parse_manifest(data).files)


def _statement() -> Callable[[bytes], object]:
    from export.runtime.statement import parse_statement, trusted_by

    return lambda data: trusted_by(parse_statement(data), {})


def _image() -> Callable[[bytes], object]:
    from PIL import Image

    from export.runtime.image import decode, fit

    Image.init()  # the readers of all formats, which are imported late else, and not followed

    def read(data: bytes) -> None:
        pixels = decode(data)
        for channels in (1, 3):
            fit(pixels, 24, 32, channels)

    return read


def _manifests() -> Iterator[bytes]:
    from export.runtime.strictjson import canonical_bytes
    from tests.mutants import CONTENT, draft, manifest_of, with_engine

    yield canonical_bytes(manifest_of(draft(), CONTENT, "0" * 16))
    yield canonical_bytes(with_engine())


def _statements() -> Iterator[bytes]:
    from export.runtime.strictjson import canonical_bytes
    from tests.mutants import statement

    yield canonical_bytes(statement())


def _pictures() -> Iterator[bytes]:
    from PIL import Image

    rng = Random(0)
    noise = Image.frombytes("RGB", (24, 17), rng.randbytes(24 * 17 * 3))
    flat = Image.new("RGB", (24, 17), (200, 100, 50))
    made: list[tuple[str, str, dict[str, Any]]] = [
        *(("PNG", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")),
        *(("JPEG", mode, {"progressive": late}) for mode in ("L", "RGB", "CMYK") for late in (False, True)),
        *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
        *(
            ("TIFF", "RGB", {"compression": way})
            for way in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        *(("TIFF", mode, {}) for mode in ("1", "L", "P", "I;16", "F", "RGBA", "CMYK")),
        ("TIFF", "1", {"compression": "group4"}),
        *(("WEBP", mode, {"lossless": exact}) for mode in ("RGB", "RGBA") for exact in (False, True)),
        *(("PPM", mode, {}) for mode in ("1", "L", "RGB", "I;16")),
        *(("GIF", "P", {"interlace": lines}) for lines in (0, 1)),
        *((kind, "P", {"save_all": True, "append_images": [flat]}) for kind in ("GIF", "PNG", "WEBP", "TIFF")),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "RGB", {"dpi": (300, 300), "icc_profile": b"x" * 64, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
    ]
    for kind, mode, options in made:
        for picture in (noise, flat):
            buffer = BytesIO()
            turned = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
            turned.save(buffer, kind, **options)
            yield buffer.getvalue()


TARGETS: dict[str, Callable[[], Callable[[bytes], object]]] = {
    "manifest": _manifest, "statement": _statement, "image": _image,
}  # fmt: skip
SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "manifest": _manifests, "statement": _statements, "image": _pictures,
}  # fmt: skip
ODD = (
    None, True, 0, 1, -1, 2**53, 10**70, 1.5, -0.0, 1e308, "", "x", "\x00", "\ud800", "../x", "0" * 16, "0" * 64, [],
    {}, [[]], "2025-01-31T12:00:00Z", ["a", "b"], {"schema": 1}, "\u202e", "CON", "\uff0e", "x" * 300,
)  # fmt: skip


def _other_json(data: bytes, rng: Random) -> bytes | None:
    """Change one place of a JSON document; None where it is none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    places = list(_places(document, 0))
    if not places:
        return None
    holder, key = rng.choice(places)
    way = rng.randrange(5)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), holder[key])
    elif way == 2:
        other, name = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[name]))
    elif way == 3:
        for _ in range(rng.choice((1, 10, 40))):
            holder[key] = [holder[key]] if rng.random() < 0.5 else {"x": holder[key]}
    else:
        holder[key] = rng.choice(ODD)
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _places(value: Any, depth: int) -> Iterator[tuple[Any, Any]]:
    if depth > 60:
        return
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key], depth + 1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
