"""MLflow: the database WORKSPACE/mlflow.db, or the server that MLFLOW_TRACKING_URI names.

A database and not a folder of files, which MLflow refuses since 3.17. `mlflow ui --backend-store-uri
sqlite:///WORKSPACE/mlflow.db` shows it.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mojiang.observe._track import Facts, is_figure

TAG = "mojiang.run"
BATCH = 500
"""Figures written at once; MLflow takes a thousand."""
MOST_SETTINGS = 100
FLUSH_SECONDS = 2.0
STATUS = {"done": "FINISHED", "interrupted": "KILLED"}
LONGEST = 5000
"""Characters of a parameter; MLflow takes six thousand."""


class MLflow:
    """A run of MLflow that carries the id of ours as a tag, by which a continued run finds it again."""

    def __init__(self, workspace: Path, facts: Facts) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # what a run is called is nobody else's business
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's own use of SQLAlchemy
            from mlflow.entities import Param
            from mlflow.tracking import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            uri = os.environ.get("MLFLOW_TRACKING_URI", "")
            local = f"sqlite:///{workspace / 'mlflow.db'}"
            self.client: Any = MlflowClient(tracking_uri=uri or local)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "mojiang")
        found = self.client.get_experiment_by_name(name)
        where = None if uri else str(workspace / "mlartifacts")
        experiment = found.experiment_id if found else self.client.create_experiment(name, artifact_location=where)
        runs = self.client.search_runs([experiment], filter_string=f"tags.`{TAG}` = '{facts.run}'", max_results=1)
        self.last, self._waiting, self._written = -1, list[Any](), time.monotonic()
        if runs:
            self.id = runs[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
            histories = (self.client.get_metric_history(self.id, key) for key in runs[0].data.metrics)
            self.last = max((metric.step for history in histories for metric in history), default=-1)
        else:
            tags = {TAG: facts.run, "mojiang.recipe": facts.recipe}
            self.id = self.client.create_run(experiment, tags=tags, run_name=facts.name).info.run_id
            settings = [Param(key, str(value)[:LONGEST]) for key, value in facts.flat().items()]
            for first in range(0, len(settings), MOST_SETTINGS):
                self.client.log_batch(self.id, params=settings[first : first + MOST_SETTINGS])

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """The figures of a step; written every few seconds, as each write is a transaction."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, step) for name, value in values.items()]
        if len(self._waiting) >= BATCH or time.monotonic() - self._written >= FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        for first in range(0, len(self._waiting), BATCH):
            self.client.log_batch(self.id, metrics=self._waiting[first : first + BATCH])
        self._waiting, self._written = [], time.monotonic()

    def end(self, status: str, summary: Mapping[str, Any]) -> None:
        """Final metrics as `final/NAME`, the artifact's REF as a tag, and the status."""
        self._flush()
        for name, value in summary.get("metrics", {}).items():
            if is_figure(value):
                self.client.log_metric(self.id, f"final/{name}", float(value), step=max(0, self.last))
            else:
                self.client.set_tag(self.id, f"final/{name}", str(value))
        for name, value in summary.items():
            if name != "metrics":
                self.client.set_tag(self.id, f"mojiang.{name}", str(value)[:LONGEST])
        self.client.set_terminated(self.id, STATUS.get(status, "FAILED"))
