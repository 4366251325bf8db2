"""A gateway that Prometheus can scrape."""

import pathlib
import time
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from serving.gateway.options import Monitoring
from tests.serving.collection import Collection
from tests.serving.loop_thread import LoopThread
from tests.serving.running import Running

Labels = tuple[tuple[str, str], ...]


class Scrape:
    """What Prometheus was told once: samples by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples: dict[tuple[str, Labels], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.samples[sample.name, tuple(sorted(sample.labels.items()))] = sample.value

    def value(self, name: str, **labels: str) -> float:
        """Returns the sum of the samples of a name that have these labels; there must be one."""
        found = self._found(name, labels)
        assert found, f"there is no {name} with {labels}"
        return sum(found)

    def has(self, name: str, **labels: str) -> bool:
        """Returns whether there is such a sample."""
        return bool(self._found(name, labels))

    def since(self, before: "Scrape") -> "Scrape":
        """Returns what has changed, for counters and histograms."""
        changed = Scrape("")
        changed.samples = {key: value - before.samples.get(key, 0.0) for key, value in self.samples.items()}
        return changed

    def labels(self, name: str) -> set[str]:
        """Returns the labels that samples of a name have."""
        return {label for found, labels in self.samples for label, _ in labels if found == name}

    def buckets(self, name: str) -> dict[float, float]:
        """Returns the buckets of a histogram without labels: bound -> count."""
        return {
            float(dict(labels)["le"]): n for (found, labels), n in self.samples.items() if found == f"{name}_bucket"
        }

    def _found(self, name: str, wanted: dict[str, str]) -> list[float]:
        return [
            value
            for (found, labels), value in self.samples.items()
            if found == name and wanted.items() <= dict(labels).items()
        ]


class Monitored(Running):
    """A gateway with an endpoint for Prometheus, on a free port. monitoring: further options of that section."""

    def __init__(
        self, loop: LoopThread, collection: Collection, *, monitoring: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self._file = pathlib.Path(f"{collection.root}.metrics-port")
        told = Monitoring(**{"metrics_port": 0, "metrics_port_file": str(self._file), **(monitoring or {})})
        super().__init__(loop, collection, monitoring=told, **options)

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self._file.read_text().strip()}/metrics"

    def glance(self) -> Scrape:
        """Returns what Prometheus is told now, whatever is under way."""
        with urllib.request.urlopen(self.metrics_url, timeout=30) as response:
            return Scrape(response.read().decode())

    def scrape(self) -> Scrape:
        """Returns what Prometheus is told when no request is under way, or else after a while.

        gRPC sends a refusal before the request is counted as ended.
        """
        end = time.monotonic() + 3.0
        while True:
            scrape = self.glance()
            begun, ended = (scrape.value(f"grpc_server_{what}_total") for what in ("started", "handled"))
            if begun == ended or time.monotonic() >= end:
                return scrape
            time.sleep(0.02)
