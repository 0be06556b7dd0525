"""What the encoder families' tests share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent / "encoder_parity.py"


@pytest.fixture(scope="session")
def parity() -> ModuleType:
    """encoder_parity.py, beside this file, as a module."""
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("encoder_parity", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
