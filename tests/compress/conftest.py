"""The world of tests/evaluate, under this folder's tests too."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_spec = spec_from_file_location("evaluate_world", Path(__file__).parents[1] / "evaluate" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = module_from_spec(_spec)
sys.modules[_spec.name] = _module  # dataclasses look their module up
_spec.loader.exec_module(_module)

world, untied_world = _module.world, _module.untied_world
