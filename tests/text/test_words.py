"""Words, sentences, stems, lemmas and stop lists: hand-labelled cases, properties, and NLTK as a peer."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.stem import PorterStemmer, SnowballStemmer
from nltk.tokenize import NLTKWordTokenizer

import mojiang
from mojiang.core.errors import Unavailable
from mojiang.core.store import Store
from mojiang.data._documents import read_documents
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.text import _chinese, _english
from mojiang.text._analysis import Analysis, Analyzer, form_of
from mojiang.text._stop_words import CHINESE, ENGLISH
from mojiang.text._wordnet import lemma, lemma_of
from mojiang.text.words import Words

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't know; he'll see the dog's bone.",
         "I|do|n't|know|;|he|'ll|see|the|dog|'s|bone|."),
        ("They cannot pay $1,250.50 by 12:30 on 2024-01-02.", "They|can|not|pay|$|1,250.50|by|12:30|on|2024-01-02|."),
        ("See https://a.org/x?y=1, or write to j.doe@mail.example.com!",
         "See|https://a.org/x?y=1|,|or|write|to|j.doe@mail.example.com|!"),
        ("A state-of-the-art test... (5% better) #nlp @you", "A|state-of-the-art|test|...|(|5%|better|)|#nlp|@you"),
        ("Dr. No's 3rd visit to the U.S. in the 1990s", "Dr.|No|'s|3rd|visit|to|the|U.S.|in|the|1990s"),
        ("naïve café Gödel’s proof", "naïve|café|Gödel|’s|proof"),
        ("x86_64 and C3PO v2", "x86_64|and|C3PO|v2"),
    ],
)  # fmt: skip
def test_english_words(text: str, words: str) -> None:
    assert _english.words(text) == words.split("|")


@given(st.text(max_size=80))
def test_no_character_is_lost_or_made(text: str) -> None:
    solid = "".join(text.split())
    assert "".join(_english.words(text)) == solid
    assert "".join("".join(_chinese.words(text)).split()) == solid
    assert "".join("".join(_english.sentences(text)).split()) == solid


def test_words_agree_with_the_treebank_conventions() -> None:
    """NLTK's tokenizer on our own pages; it cuts URLs, keeps `word/word` and changes quotes, which are left out."""
    text = re.sub(r"[`\"“”|*#/<>_=\[\]{}~·≡→…&:%-]+|--", " ", (ROOT / "STYLE.md").read_text(encoding="utf-8"))
    peer, same, total = NLTKWordTokenizer(), 0, 0
    for sentence in _english.sentences(text):
        theirs, ours = peer.tokenize(sentence), _english.words(sentence)
        total += len(theirs)
        same += (Counter(theirs) & Counter(ours)).total()
    assert total > 300
    assert same / total > 0.97


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He met Mr. J. Smith in the U.S. He left.", ["He met Mr. J. Smith in the U.S.", "He left."]),
        ("It cost $3.50. Too much!", ["It cost $3.50.", "Too much!"]),
        ("We saw cats, dogs, etc. They ran. e.g. a fox did.", ["We saw cats, dogs, etc.", "They ran. e.g. a fox did."]),
        ("“Stop!” he said. “Why?”", ["“Stop!” he said.", "“Why?”"]),
        ("At 5 p.m. on Friday it ended... and then nothing.", ["At 5 p.m. on Friday it ended... and then nothing."]),
        ("A heading\n\nA paragraph", ["A heading", "A paragraph"]),
        ("今天下雨。他说：“走吧！”我们走了……", ["今天下雨。", "他说：“走吧！”我们走了……"]),
        ("真的？真的！", ["真的？", "真的！"]),
        ("价格是3.5元。见www.a.cn。", ["价格是3.5元。", "见www.a.cn。"]),
        ("", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert _english.sentences(text) == sentences


def vocabulary() -> list[str]:
    text = " ".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").rglob("*.md")))
    return sorted(set(re.findall(r"[a-z]{3,}", text.lower())))


def test_stems_are_the_published_ones() -> None:
    words = vocabulary()
    assert len(words) > 1500
    porter, snowball = form_of("porter"), form_of("snowball")
    original = PorterStemmer(mode="ORIGINAL_ALGORITHM")
    assert [w for w in words if porter(w) != original.stem(w)] == []
    english = SnowballStemmer("english")
    # The algorithm was revised since NLTK's port (`-ogist`, past tenses in -eed, and exceptions): a handful of words.
    assert sum(snowball(w) != english.stem(w) for w in words) < 0.01 * len(words)
    assert [snowball(w) for w in ("running", "happily", "generously")] == ["run", "happili", "generous"]


@pytest.mark.parametrize(
    ("word", "part", "expected"),
    [
        ("children", "noun", "child"), ("analyses", "noun", "analysis"), ("wolves", "noun", "wolf"),
        ("boxes", "noun", "box"), ("women", "noun", "woman"), ("ran", "verb", "run"), ("studies", "verb", "study"),
        ("hoping", "verb", "hope"), ("hopping", "verb", "hop"), ("best", "adjective", "good"),
        ("nicest", "adjective", "nice"), ("blorks", "noun", "blorks"), ("was", "verb", "be"),
    ],
)  # fmt: skip
def test_lemmas_by_part_of_speech(word: str, part: Any, expected: str) -> None:
    assert lemma(word, part) == expected


def test_lemmas_without_part_of_speech() -> None:
    text = "the children were running as his boxes has used and saw us this less mice geese went"
    lemmas = "the child be run as his box have use and see us this less mouse goose go"
    assert [lemma_of(word) for word in text.split()] == lemmas.split()


def test_stop_lists_are_closed_classes() -> None:
    assert not {"not", "no", "n't", "never", "不", "没", "没有", "未"} & (ENGLISH | CHINESE)
    assert all(word == word.lower() and word.isascii() or "’" in word for word in ENGLISH)
    assert all(_chinese.has_han(word) for word in CHINESE)
    assert {"the", "of", "的", "了", "我们"} <= ENGLISH | CHINESE
    assert not {"time", "good", "people", "人", "中国", "大"} & (ENGLISH | CHINESE)


def test_an_analyzer_reads_both_languages() -> None:
    analyzer = Analyzer(Analysis(form="lemma", stop_words=False, drop=("models",)))
    assert analyzer.sentences("The Models were trained on GPUs. 我们用GPU训练模型。") == [
        ["train", "gpus"], ["gpu", "训", "练", "模", "型"],
    ]  # fmt: skip
    assert Analyzer(Analysis(lowercase=False, marks=True)).words("Hello, World!") == ["Hello", ",", "World", "!"]
    assert Analyzer().sentences("a B\n\n的 c", is_words=True) == [["a", "b"], ["的", "c"]]


def test_jieba_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    pytest.importorskip("jieba")
    assert Analyzer(Analysis(chinese="jieba")).words("我来到北京清华大学") == ["我", "来到", "北京", "清华大学"]
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "jieba":
            raise ModuleNotFoundError("no jieba", name="jieba")
        return real(name, *rest)

    _chinese.jieba_cutter.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Unavailable) as caught:
        Analyzer(Analysis(chinese="jieba")).words("你好")
    assert caught.value.hint == "pip install 'mojiang[jieba]'"


def test_documents_become_words_and_stay_in_their_split(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(
            "\n\n".join([f"The {number} cats ran home."] * 20 + ["他们睡了。"]), encoding="utf-8"
        )
    (folder / "marks.txt").write_text("... !!! --- ??? ;;; ,,,", encoding="utf-8")
    corpus = Load(source=str(folder)).execute(store, name="corpus")
    split = Split(data=corpus.ref, validation=0.2).execute(store, name="split")
    made = Words(data=split.ref, form="lemma", marks=False).execute(store, name="made")
    counts = {s: sum(b.num_rows for b in read_documents(split.path, s)) for s in ("train", "validation")}
    for name, count in counts.items():
        rows = [row for batch in read_documents(made.path, name) for row in batch.to_pylist()]
        assert len(rows) == count - sum(row["path"] == "marks.txt" for b in read_documents(split.path, name)
                                        for row in b.to_pylist())  # fmt: skip
        assert all(re.fullmatch(r"(the \d+ cat run home\n){20}他 们 睡 了", row["text"]) for row in rows)
        assert {row["format"] for row in rows} == {"words"}
    assert made.metrics["documents_dropped"] == 1
    assert made.metrics["sentences"] == 630
    again = mojiang.text.Words(data=made.ref, marks=False, stop_words=False).execute(store, name="again")
    assert again.metrics["words"] < made.metrics["words"]
