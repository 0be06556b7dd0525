"""Mojiang (模匠): the large-model engineer's workbench.

>>> import mojiang
>>> store = mojiang.open("/tmp/mojiang-doc")          # doctest: +SKIP
>>> corpus = mojiang.data.Load(source="python:stdlib").execute(store)   # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mojiang.core.store import Store

__version__ = "0.1.0"
__all__ = ["__version__", "find_workspace", "open"]


def find_workspace(start: Path | None = None) -> Path:
    """`$MOJIANG_WORKSPACE`, else the nearest `.mojiang` folder upward, else `./.mojiang`."""
    if os.environ.get("MOJIANG_WORKSPACE"):
        return Path(os.environ["MOJIANG_WORKSPACE"])
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        if (folder / ".mojiang").is_dir():
            return folder / ".mojiang"
    return here / ".mojiang"


def open(workspace: Path | str | None = None, store: str = "") -> Store:
    """Open (or make) a workspace's store; `store` is a database URL, by default `$MOJIANG_STORE` or SQLite."""
    from mojiang.core.store import Store

    return Store(workspace or find_workspace(), store or os.environ.get("MOJIANG_STORE", ""))


def __getattr__(name: str) -> Any:
    """Packages such as `mojiang.train` are imported when first used."""
    if (Path(__file__).parent / name / "__init__.py").is_file():
        return importlib.import_module(f"mojiang.{name}")
    raise AttributeError(f"module 'mojiang' has no attribute {name!r}")
