"""Artifacts, recipes, runs and the store: what every other package stands on."""
