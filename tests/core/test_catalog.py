"""The catalog lists without importing, refuses collisions and admits plugins."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import mojiang
from mojiang.core.catalog import Catalog, load_catalog
from mojiang.core.errors import BadUsage, NotFound, Unavailable


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys, mojiang; from mojiang.core.catalog import load_catalog; list(load_catalog(plugins=False));"
        "heavy = {'torch', 'numpy', 'pyarrow', 'pydantic', 'sqlalchemy', 'rich', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_collision_raises() -> None:
    catalog = Catalog()
    catalog.add("data", "load", "a:A", "…")
    with pytest.raises(BadUsage, match="'data.load' is added by other and by mojiang"):
        catalog.add("data", "load", "b:B", "…", source="other")


def test_an_unknown_name_gives_the_closest() -> None:
    with pytest.raises(NotFound) as caught:
        load_catalog(plugins=False).get("train.stf")
    assert "train.sft" in caught.value.hint


def test_a_missing_package_is_named() -> None:
    catalog = Catalog()
    catalog.add("x", "y", "no_such_package_here.z:Z", "…")
    with pytest.raises(Unavailable, match="no_such_package_here") as caught:
        catalog.get("x.y").load()
    assert "pip install no_such_package_here" in caught.value.hint


def test_a_plugin_adds_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "acme"

        def load(self) -> object:
            return lambda catalog: catalog.add("train", "acme", "acme:Acme", "Acme's way")

    monkeypatch.setattr(metadata, "entry_points", lambda group: [Point()] if group == "mojiang.plugins" else [])
    entry = load_catalog().get("train.acme")
    assert (entry.source, entry.summary) == ("acme", "Acme's way")
    assert "train.acme" not in load_catalog(plugins=False)


def test_packages_give_their_recipes_by_name() -> None:
    assert mojiang.data.Load.recipe == "data.load"
    with pytest.raises(AttributeError):
        _ = mojiang.data.NoSuchThing
    with pytest.raises(AttributeError):
        _ = mojiang.no_such_package
