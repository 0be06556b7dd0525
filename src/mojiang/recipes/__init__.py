"""Pipelines: recipes made of recipes, written as YAML. The named ones lie beside this file."""
