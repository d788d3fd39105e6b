"""What Prometheus reads: counters and a histogram in its text format, version 0.0.4."""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

KIND: Final = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS_MS: Final = (0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)


class Metrics:
    """Counts what was answered; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._responses: Counter[int] = Counter()
        self._buckets = [0] * (len(_BOUNDS_MS) + 1)
        self._sum_ms = 0.0

    def answered(self, ms: float) -> None:
        """Count the milliseconds of a verdict."""
        with self._lock:
            self._buckets[next((i for i, bound in enumerate(_BOUNDS_MS) if ms <= bound), len(_BOUNDS_MS))] += 1
            self._sum_ms += ms

    def responded(self, status: int) -> None:
        """Count an HTTP answer by its status."""
        with self._lock:
            self._responses[status] += 1

    def text(self, status: Mapping[str, Any]) -> str:
        """Return the metrics as text; ``status`` is the inspector's own."""
        with self._lock:
            responses = [(_labels(code=str(code)), number) for code, number in sorted(self._responses.items())]
            lines = [
                *_metric("station_http_responses_total", "counter", "HTTP answers by status.", responses),
                *_histogram(self._buckets, self._sum_ms),
            ]
        return "\n".join([*lines, *_of_status(status), *_of_process(), ""])


def _metric(name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> list[str]:
    return [
        f"# HELP {name} {text}",
        f"# TYPE {name} {kind}",
        *(f"{name}{labels} {float(n)!r}" for labels, n in samples),
    ]


def _histogram(buckets: list[int], sum_ms: float) -> list[str]:
    name, seconds = "station_inspection_seconds", [*(f"{bound / 1000:g}" for bound in _BOUNDS_MS), "+Inf"]
    below = [sum(buckets[: i + 1]) for i in range(len(buckets))]
    return [
        f"# HELP {name} Seconds from a picture to its verdict, on record.",
        f"# TYPE {name} histogram",
        *(f'{name}_bucket{{le="{bound}"}} {number}' for bound, number in zip(seconds, below, strict=True)),
        f"{name}_sum {sum_ms / 1000!r}",
        f"{name}_count {below[-1]}",
    ]


def _of_process() -> list[str]:
    """Memory and descriptors under the names of Prometheus' own clients; nothing where there is no /proc."""
    process = Path("/proc/self")
    if not (process / "status").exists():
        return []
    fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    memory, descriptors = int(fields["VmRSS"].split()[0]) * 1024, sum(1 for _ in (process / "fd").iterdir())
    return [
        *_metric("process_resident_memory_bytes", "gauge", "Resident memory.", [("", memory)]),
        *_metric("process_open_fds", "gauge", "Open file descriptors.", [("", descriptors)]),
        *_metric("process_threads", "gauge", "Threads.", [("", int(fields["Threads"]))]),
    ]


def _of_status(status: Mapping[str, Any]) -> list[str]:
    given = dict.fromkeys(("pass", "reject", "review", "class"), 0) | status["verdicts"]
    verdicts = [(_labels(verdict=verdict), number) for verdict, number in given.items()]
    running = _labels(**{name: status[name] for name in ("bundle", "line", "since")})
    return [
        *_metric("station_verdicts_total", "counter", "Verdicts given since the start.", verdicts),
        *_metric("station_faults_total", "counter", "Safe verdicts, for a fault.", [("", status["faults"])]),
        *_metric("station_drift_alarms", "gauge", "Alarms of drift that are told.", [("", len(status["drift"]))]),
        *_metric("station_unrecorded", "gauge", "Verdicts that wait for the log.", [("", status["unrecorded"])]),
        *_metric("station_lost_total", "counter", "Verdicts that the log never got.", [("", status["lost"])]),
        *_metric("station_healthy", "gauge", "Verdicts can be given and logged.", [("", status["healthy"])]),
        *_metric("station_bundle_info", "gauge", "The bundle that runs.", [(running, 1)]),
    ]


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
