"""Augmentation: edits by hand and by property, thesauri in their own formats, generators, split by split."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.report import Report
from mojiang.data import augment as augmenting
from mojiang.data._eda import edit, pieces
from mojiang.data._labels import Judge, fold
from mojiang.data._thesaurus import read_cedict, read_groups, read_wordnet
from mojiang.data.augment import Augment
from mojiang.data.examples import Examples, read_examples

Make = Callable[..., Artifact]
WORDS = {"big": ("large",), "house": ("home", "dwelling"), "便宜": ("低廉",), "酒店": ("饭店",), "good": ("fine",)}
GOOD, BAD = "lovely warm great friendly clean".split(), "dirty cold rude awful noisy".split()  # noqa: SIM905


def reviews(folder: Path, number: int = 120) -> Path:
    chance = random.Random(4)
    lines = []
    for n in range(number):
        label, own = ("good", GOOD) if n % 2 else ("bad", BAD)
        words = [*chance.sample(own, 3), "house", "room", "street", f"w{n}", "big"]
        chance.shuffle(words)
        lines.append(json.dumps({"text": " ".join(words) + ".", "label": label}))
    path = folder / "reviews.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def examples(make: Make, folder: Path) -> Artifact:
    return make(Examples(source=str(reviews(folder)), form="labelled", validation=0.1, test=0.1))


# -- edits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language", "wanted"),
    [
        ("A big dog.", "en", "A large dog."),
        ("Big dogs", "en", "Large dogs"),
        ("很便宜的酒店", "zh", "很低廉的饭店"),
        ("nothing known here", "en", "nothing known here"),
    ],
)
def test_synonyms(text: str, language: str, wanted: str) -> None:
    assert edit(text, language, "synonym", 1.0, WORDS, random.Random(0)) == wanted


def test_articles_agree() -> None:
    assert edit("a big one", "en", "synonym", 1, {"big": ("enormous",)}, random.Random(0)) == "an enormous one"


@given(st.text(alphabet="ab big house not 便宜酒店不 12.,", max_size=60), st.sampled_from(["en", "zh"]))
def test_pieces_put_together_are_the_text(text: str, language: str) -> None:
    assert "".join(pieces(text, language, WORDS)) == text


@given(st.sampled_from(["swap", "delete", "insert", "synonym"]), st.integers(0, 10**6), st.floats(0.05, 1.0))
def test_negations_digits_and_marks_stay(kind: Any, seed: int, share: float) -> None:
    english = edit("It is not a good big house, 24 rooms!", "en", kind, share, WORDS, random.Random(seed))
    chinese = edit("这家酒店不便宜，有24间房。", "zh", kind, share, WORDS, random.Random(seed))
    for text, marks in ((english, ("not", "24", ",", "!")), (chinese, ("不", "24", "，", "。"))):
        assert all(text.count(mark) == 1 for mark in marks), text
    assert english == edit("It is not a good big house, 24 rooms!", "en", kind, share, WORDS, random.Random(seed))


def test_swap_keeps_the_words_and_delete_takes_some() -> None:
    text = "alpha beta gamma delta epsilon"
    assert sorted(edit(text, "en", "swap", 0.5, {}, random.Random(1)).split()) == sorted(text.split())
    assert len(edit(text, "en", "delete", 0.4, {}, random.Random(1)).split()) == 3
    assert edit("one", "en", "delete", 1.0, {}, random.Random(1)) == "one"


# -- thesauri -----------------------------------------------------------------------------------------------------


def test_wordnet_s_files_are_read_and_only_dominant_senses_count(tmp_path: Path) -> None:
    """Lines in the format of wndb(5WN) and senseidx(5WN)."""
    (tmp_path / "data.adj").write_text(
        "  1 licence text\n00000100 00 a 02 big 0 large 0 000 | of size  \n"
        "00000200 00 s 02 adult 0 big(p) 0 000 | age  \n"
        "00000300 00 a 02 fair 0 just 0 000 | x  \n00000400 00 a 02 fair 0 blond 0 000 | y  \n",
        encoding="latin-1",
    )
    for kind in ("noun", "verb", "adv"):
        (tmp_path / f"data.{kind}").write_text("", encoding="latin-1")
    (tmp_path / "index.sense").write_text(
        "big%3:00:01:: 00000100 1 90\nbig%5:00:00:: 00000200 2 5\nlarge%3:00:01:: 00000100 1 20\n"
        "fair%3:00:01:: 00000300 1 6\nfair%3:00:02:: 00000400 2 5\njust%3:00:01:: 00000300 1 0\n",
        encoding="latin-1",
    )
    assert read_wordnet(tmp_path) == {"big": ("large",), "large": ("big",)}


def test_cedict_words_of_the_same_meanings_are_synonyms() -> None:
    lines = [
        "醫生 医生 [yi1 sheng1] /doctor/CL:個|个[ge4]/", "大夫 大夫 [dai4 fu5] /doctor/",
        "博士 博士 [bo2 shi4] /doctor/PhD/court academician/", "電影 电影 [dian4 ying3] /movie/film/",
        "影片 影片 [ying3 pian4] /film/movie/", "張 张 [Zhang1] /surname Zhang/", "# remark",
    ]  # fmt: skip
    made = read_cedict(lines)
    assert made["电影"] == ("影片",)
    assert made["医生"] == ("博士", "大夫")  # PhD and academician begin a name or a remark
    assert "张" not in made


def test_a_file_of_groups(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("Aa01A01= 人 士 人物\nAa01A02# 有关 无关\nhappy, glad\tcheerful\nalone\n", encoding="utf-8")
    made = read_groups(path)
    assert made["人"] == ("士", "人物")
    assert made["glad"] == ("happy", "cheerful")
    assert "有关" not in made
    assert "alone" not in made
    path.write_text("alone\n", encoding="utf-8")
    with pytest.raises(BadInput, match="no synonyms"):
        read_groups(path)


# -- labels -------------------------------------------------------------------------------------------------------


def test_the_judge_has_not_seen_what_it_judges() -> None:
    """With labels that depend on nothing, a judge that had seen them would be right; one that has not is at chance."""
    chance = random.Random(0)
    rows = [{"text": f"unique{n} token{n} word{n}", "label": chance.choice("ab"), "language": "en"} for n in range(400)]
    judge = Judge(rows)
    said = judge.labels_of([r["text"] for r in rows], ["en"] * 400, [fold(r["text"]) for r in rows])
    assert 0.4 < sum(a == r["label"] for a, r in zip(said, rows, strict=True)) / 400 < 0.6


def test_a_copy_that_changes_its_label_goes(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Turns:
        def generate(self, prompts: Sequence[str], **_: Any) -> list[str]:
            swaps = dict(zip(GOOD + BAD, BAD + GOOD, strict=True))
            texts = [prompt.rpartition("\n")[2] for prompt in prompts]
            turned = [" ".join(swaps.get(word.strip("."), word) for word in text.split()) for text in texts]
            said = [text.replace("street", "road") for text in texts]
            return [turned[n] if n % 2 else said[n] for n in range(len(texts))]

    data = examples(make, tmp_path)
    monkeypatch.setattr(augmenting, "EndpointGenerator", lambda url, model: Turns())
    recipe = Augment(data=data.ref, methods=("paraphrase",), endpoint="http://localhost:1/v1", endpoint_model="m")
    made = make(recipe)
    dropped = dict((row[0], row[1]) for row in Report.load(made.path).table("dropped by reason").rows)
    total = len(list(read_examples(data.path, "train", "labelled")))
    assert dropped["label-changed"] >= 0.9 * (total // 2)
    assert made.metrics["label_preserved"] == pytest.approx(0.5, abs=0.06)
    kept = [row for row in read_examples(made.path, "train", "labelled") if "~paraphrase" in row["path"]]
    assert all("road" in row["text"] for row in kept)
    unchecked = make(recipe.model_copy(update={"check": False}))
    assert unchecked.metrics["added"] > made.metrics["added"]


# -- the recipe ---------------------------------------------------------------------------------------------------


def test_only_training_examples_are_added_to(make: Make, tmp_path: Path) -> None:
    data = examples(make, tmp_path)
    (tmp_path / "words.txt").write_text("big large huge\nhouse home\n", encoding="utf-8")
    made = make(Augment(data=data.ref, methods=("synonym", "swap"), copies=2, thesaurus_en=tmp_path / "words.txt"))
    for split in ("validation", "test"):
        before, after = (list(read_examples(a.path, split, "labelled")) for a in (data, made))
        assert before == after
    originals = list(read_examples(data.path, "train", "labelled"))
    after = list(read_examples(made.path, "train", "labelled"))
    assert after[: len(originals)] == originals
    added = after[len(originals) :]
    assert len(added) == made.metrics["added"] > len(originals)
    assert len({row["id"] for row in after}) == len(after)
    by_path = {row["path"]: row for row in originals}
    for row in added:
        source = by_path[row["path"].partition("~")[0]]
        assert (row["label"], row["language"], row["licence"]) == (
            source["label"],
            source["language"],
            source["licence"],
        )
        assert row["text"] != source["text"]
        assert row["bytes"] == len(row["text"].encode())
    drops = pq.read_table(made.path / "drops-00000.parquet").num_rows
    assert made.metrics["documents_in"] == made.metrics["documents_kept"] + drops
    table = {row[0]: row for row in Report.load(made.path).table("by method").rows}
    assert float(table["synonym"][3] or 0) > 0.9


def test_rare_labels_alone_and_no_more_than_asked(make: Make, tmp_path: Path) -> None:
    data = examples(make, tmp_path)
    made = make(Augment(data=data.ref, methods=("swap",), labels=("bad",), max_examples=7, check=False))
    added = [row for row in read_examples(made.path, "train", "labelled") if "~" in row["path"]]
    assert {row["label"] for row in added} == {"bad"}
    assert 0 < len(added) <= 7
    with pytest.raises(BadInput, match="no training example is labelled worse"):
        make(Augment(data=data.ref, methods=("swap",), labels=("worse",)))


def test_back_translation_goes_there_and_back(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Echo:
        def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
            asked.extend(prompts)
            assert set(options) == {"max_tokens", "temperature", "seed"}
            return [f"({p[-40:].strip()})" for p in prompts]

    data = examples(make, tmp_path)
    monkeypatch.setattr(augmenting, "EndpointGenerator", lambda url, model: Echo())
    made = make(
        Augment(
            data=data.ref, methods=("back_translation",), endpoint="http://x/v1", endpoint_model="m",
            max_examples=3, check=False, pivot="German",
        )
    )  # fmt: skip
    assert made.metrics["added"] == 3
    assert len(asked) == 6
    assert asked[0].startswith("Translate into German.")
    assert "Sample: " in asked[3]


def test_what_is_missing_is_said() -> None:
    for wrong in (
        {"methods": ()}, {"methods": ("paraphrase",)}, {"methods": ("back_translation",), "forth": "a"},
        {"endpoint": "http://x"}, {"prompt": "no place"},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            Augment(data="x", **wrong)  # type: ignore[arg-type]


def test_models_of_ours_write_through_the_protocol() -> None:
    """The same answers as the engine's own, in order; more work is done by the tests of the engine."""
    from mojiang.core.protocols import open_generator
    from mojiang.generate.engine import Engine, GenerationRequest, Sampling
    from mojiang.model.load import load_model
    from mojiang.tokenizer.load import load_tokenizer

    path = Path(__file__).parents[1] / "fixtures" / "tiny-llama"
    written = open_generator(path, "cpu").generate(["hello", "what is it"], max_tokens=6, temperature=0.0, seed=0)
    model, tokenizer = load_model(path), load_tokenizer(path)
    ids = tokenizer.start_ids + tokenizer.encode("hello")
    if tokenizer.chat_template is not None:
        ids = tokenizer.render_chat([{"role": "user", "content": "hello"}], add_generation_prompt=True)
    with Engine(model, tokenizer) as engine:
        one = engine.submit(GenerationRequest(tuple(ids), max_tokens=6, sampling=Sampling())).result()
    assert len(written) == 2
    assert written[0] == one.text.strip()
