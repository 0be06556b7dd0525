"""Prometheus metrics of one server, on a registry of its own.

Names follow vLLM where the quantity is the same, so that existing dashboards work; ours carry `mojiang:`.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mojiang.generate.engine import Generation
from mojiang.serve._models import ServedModel

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
_PER_TOKEN = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


class _EngineGauges(Collector):
    """Reads queue and slots when asked, instead of keeping a copy that could be stale."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = list(models)

    def collect(self) -> Iterable[Metric]:
        for name, text, field in (
            ("vllm:num_requests_waiting", "Requests in the queue", "waiting"),
            ("vllm:num_requests_running", "Requests being computed", "running"),
            ("mojiang:engine_steps", "Engine steps since the start", "steps"),
        ):
            family = GaugeMetricFamily(name, text, labels=["model_name"])
            for model in self._models:
                family.add_metric([model.name], getattr(model.engine.stats, field))
            yield family


class Metrics:
    """Counters and histograms; `observe` takes a finished generation."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineGauges(models))
        self.http = Counter("mojiang:http_requests", "HTTP responses", ["path", "status"], registry=self.registry)
        self._finished = Counter(
            "vllm:request_success", "Finished generations", ["model_name", "finished_reason"], registry=self.registry
        )
        self._prompt = Counter("vllm:prompt_tokens", "Prompt tokens", ["model_name"], registry=self.registry)
        self._output = Counter("vllm:generation_tokens", "Generated tokens", ["model_name"], registry=self.registry)
        self._first = self._histogram("vllm:time_to_first_token_seconds", "From request to first token", _SECONDS)
        self._each = self._histogram("vllm:time_per_output_token_seconds", "Mean time of later tokens", _PER_TOKEN)
        self._total = self._histogram("vllm:e2e_request_latency_seconds", "From request to last token", _SECONDS)
        self._queue = self._histogram("vllm:request_queue_time_seconds", "Waiting for a slot", _SECONDS)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ["model_name"], buckets=buckets, registry=self.registry)

    def observe(self, model: str, generation: Generation) -> None:
        """Count a finished generation."""
        tokens = len(generation.tokens) - generation.num_repeated
        self._finished.labels(model, generation.finish_reason).inc()
        self._prompt.labels(model).inc(generation.num_prompt_tokens)
        self._output.labels(model).inc(tokens)
        self._queue.labels(model).observe(generation.seconds_queued)
        self._total.labels(model).observe(generation.seconds)
        if tokens:
            self._first.labels(model).observe(generation.seconds_to_first_token)
        if tokens > 1:
            seconds = generation.seconds - generation.seconds_to_first_token
            self._each.labels(model).observe(seconds / (tokens - 1))

    def render(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
