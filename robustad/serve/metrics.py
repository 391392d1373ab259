"""What a service counts, in Prometheus' format."""

from __future__ import annotations

from typing import Any

from robustad._imports import require
from robustad.serve.batcher import Batcher, Scores

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters and histograms of one service; several services in a process do not mix."""

    def __init__(self) -> None:
        prometheus: Any = require(
            "prometheus_client", extra="serve", purpose="the metrics of a service"
        )
        self._render = prometheus.generate_latest
        self.content_type: str = prometheus.CONTENT_TYPE_LATEST
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        more = {"registry": self.registry}
        self.requests = prometheus.Counter(
            "robustad_requests", "Requests answered.", ["endpoint", "code"], **more
        )
        self.seconds = prometheus.Histogram(
            "robustad_request_seconds",
            "From the first byte of a request to its answer.",
            ["endpoint"],
            buckets=SECONDS,
            **more,
        )
        self.at_work = prometheus.Gauge(
            "robustad_requests_in_progress", "Requests at work or waiting.", **more
        )
        self.images = prometheus.Counter(
            "robustad_images", "Images scored.", ["model", "verdict"], **more
        )
        self.batch_images = prometheus.Histogram(
            "robustad_batch_images", "Images in a batch.", ["model"], buckets=IMAGES, **more
        )
        self.batch_seconds = prometheus.Histogram(
            "robustad_batch_seconds", "To score a batch.", ["model"], buckets=SECONDS, **more
        )
        self.queue = prometheus.Gauge(
            "robustad_queue_images", "Images that wait for a model.", ["model"], **more
        )

    def batch(self, model: str, images: int, seconds: float) -> None:
        """Count a batch."""
        self.batch_images.labels(model).observe(images)
        self.batch_seconds.labels(model).observe(seconds)

    def scored(self, model: str, scores: Scores) -> None:
        """Count verdicts."""
        for verdict in scores.verdict:
            self.images.labels(model, str(verdict)).inc()

    def follow(self, model: str, batcher: Batcher) -> None:
        """Show a model's queue."""
        self.queue.labels(model).set_function(lambda: batcher.waiting)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        found: bytes = self._render(self.registry)
        return found
