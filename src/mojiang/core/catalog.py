"""The catalog: what Mojiang can do, as strings, so that listing it imports nothing heavy.

Each package's `__init__` holds one literal table named after it:

    TRAIN = {"sft": ("mojiang.train.sft:SFT", "Supervised fine-tuning on conversations")}

Third parties add entries through the entry-point group `mojiang.plugins`: a function `register(catalog)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from mojiang.core.errors import BadUsage, NotFound, Unavailable

Table = dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Entry:
    """One capability. `target` is `module:Class`; `source` says who added it."""

    group: str
    word: str
    target: str
    summary: str
    source: str = "mojiang"

    @property
    def name(self) -> str:
        """`group.word`, the name used everywhere."""
        return f"{self.group}.{self.word}"

    def load(self) -> Any:
        """Import the recipe's class."""
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise Unavailable(
                f"{self.name} needs the package {error.name!r}, which is not installed",
                hint=f"pip install {error.name}  (`mojiang doctor` shows what else is missing)",
            ) from error


class Catalog:
    """Capabilities by name. Adding a name twice raises."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def add(self, group: str, word: str, target: str, summary: str, source: str = "mojiang") -> None:
        """Add one capability; plugins call this."""
        entry = Entry(group, word, target, summary, source)
        if entry.name in self._entries:
            raise BadUsage(
                f"{entry.name!r} is added by {source} and by {self._entries[entry.name].source}",
                hint="remove one of the two packages",
            )
        self._entries[entry.name] = entry

    def get(self, name: str) -> Entry:
        """The capability called `group.word`."""
        if name not in self._entries:
            from mojiang.core.config import closest

            raise NotFound(f"there is no capability {name!r}", hint=closest(name, self._entries))
        return self._entries[name]

    def groups(self) -> list[str]:
        """The groups that have capabilities, in the order of the life cycle."""
        return list(dict.fromkeys(entry.group for entry in self))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries


LIFE_CYCLE = ("data", "text", "tokenizer", "model", "generate", "train", "evaluate", "compress", "serve")


def load_catalog(plugins: bool = True) -> Catalog:
    """Read every package's table, and the plugins'.

    >>> "train.sft" in load_catalog(plugins=False)
    True
    """
    import mojiang

    packages = [module.name for module in pkgutil.iter_modules(mojiang.__path__) if module.ispkg]
    order = {name: position for position, name in enumerate(LIFE_CYCLE)}
    catalog = Catalog()
    for package in sorted(packages, key=lambda name: (order.get(name, len(order)), name)):
        table: Table = getattr(importlib.import_module(f"mojiang.{package}"), package.upper(), {})
        for word, (target, summary) in table.items():
            catalog.add(package, word, target, summary)
    if plugins:
        for point in metadata.entry_points(group="mojiang.plugins"):
            point.load()(_Named(catalog, point.name))
    return catalog


class _Named:
    """The catalog as a plugin sees it: what it adds carries its name."""

    def __init__(self, catalog: Catalog, source: str) -> None:
        self._catalog, self._source = catalog, source

    def add(self, group: str, word: str, target: str, summary: str) -> None:
        self._catalog.add(group, word, target, summary, self._source)


def lazy(package: str, table: Table) -> Callable[[str], Any]:
    """A module `__getattr__` that imports a capability's class when it is first used (PEP 562)."""
    targets = {target.partition(":")[2]: target.partition(":")[0] for target, _ in table.values()}

    def __getattr__(name: str) -> Any:
        if name in targets:
            return getattr(importlib.import_module(targets[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__
