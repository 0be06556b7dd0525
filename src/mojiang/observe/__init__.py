"""Exporters: what a run says, written where other tools look for it.

A tracker is a listener of events (`core.events`). It is circumstance: it changes no fingerprint and no weight, and one
that fails ends with a warning, not with the training.

_track       from events to a tracker's run, made whole again from the event log when a run is continued
tensorboard  event files below WORKSPACE/tensorboard/RUN
wandb        Weights & Biases; offline unless the user is logged in
mlflow       MLflow; a database in the workspace unless MLFLOW_TRACKING_URI names another
"""
