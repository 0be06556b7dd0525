"""Filters: datatrove's own verdicts, hand-labelled Chinese and English, and books that balance whatever comes in."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st
from pydantic import ValidationError

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.report import Report
from mojiang.data import filter as filtering
from mojiang.data._accounting import Changes
from mojiang.data._documents import SCHEMA, read_documents
from mojiang.data._keywords import read_words
from mojiang.data._mapping import map_texts
from mojiang.data._rules import C4, FineWeb, Gopher, Repetition, Verdict, c4, fineweb, gopher, repetition
from mojiang.data._words import _BETWEEN_SPACES, _SPACED, CHARACTERS_PER_WORD, Remembered, sentences, words
from mojiang.data.filter import Filter, Settings, judge, judge_batch, judge_row
from mojiang.model.fetch import Fetch

TINY = Path(__file__).parents[1] / "fixtures" / "tiny-llama"
REFERENCE = Path(__file__).parents[1] / "fixtures" / "filters" / "datatrove.jsonl"
THEIRS = {
    "gopher_short_doc": "gopher-few-words", "gopher_long_doc": "gopher-many-words",
    "gopher_below_avg_threshold": "gopher-short-words", "gopher_above_avg_threshold": "gopher-long-words",
    "gopher_too_many_hashes": "gopher-hashes", "gopher_too_many_ellipsis": "gopher-ellipses",
    "gopher_too_many_bullets": "gopher-bullets", "gopher_too_many_end_ellipsis": "gopher-cut-lines",
    "gopher_below_alpha_threshold": "gopher-symbols", "gopher_enough_stop_words": "gopher-stop-words",
    "dup_para_frac": "repetition-paragraphs", "dup_para_char_frac": "repetition-paragraph-characters",
    "dup_line_frac": "repetition-lines", "dup_line_char_frac": "repetition-line-characters",
    "line_punct_ratio": "fineweb-open-lines", "short_line_ratio": "fineweb-short-lines",
    "char_dup_ratio": "fineweb-again", "list_ratio": "fineweb-list", "empty": "empty", "": "",
    "too_few_sentences": "c4-few-sentences", "curly_bracket": "c4-curly-bracket", "lorem_ipsum": "c4-lorem-ipsum",
    **{f"top_{n}_gram": f"repetition-top-{n}-gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"repetition-{n}-grams" for n in range(5, 11)},
}  # fmt: skip


def reference() -> list[dict[str, Any]]:
    return [json.loads(line) for line in REFERENCE.read_text(encoding="utf-8").splitlines()]


def reason(verdict: Verdict | None) -> str:
    return verdict.reason if verdict else ""


def test_with_the_same_words_every_verdict_is_datatrove_s() -> None:
    """Versions 0.10.1, its English tokenizer and default thresholds; 80 texts, 40 of them spoiled on purpose."""
    seen: Counter[str] = Counter()
    for row in reference():
        text, tokens = row["text"], row["words"]
        got = {
            "gopher": reason(gopher(text, tokens, "en", Gopher())),
            "repetition": reason(repetition(text, tokens, Repetition())),
            "fineweb": reason(fineweb(text, tokens, "en", FineWeb())),
        }
        for name, mine in got.items():
            theirs = THEIRS.get(row[name], "")
            # They divide by nothing where there is no word at all.
            assert mine == theirs or not text.strip(), (name, text[:80])
            seen[theirs] += 1
        verdict = c4(text, "en", C4(), Changes())
        assert verdict.reason == THEIRS[row["c4"]]
        assert row["c4"] or verdict.text == row["c4_text"]
    assert len(seen) >= 18, seen


def test_with_our_words_the_verdicts_are_nearly_all_the_same() -> None:
    same: Counter[str] = Counter()
    for row in reference():
        tokens = words(row["text"], "en")
        for name, verdict in (
            ("gopher", gopher(row["text"], tokens, "en", Gopher())),
            ("repetition", repetition(row["text"], tokens, Repetition())),
            ("fineweb", fineweb(row["text"], tokens, "en", FineWeb())),
        ):
            same[name] += bool(reason(verdict)) == bool(THEIRS.get(row[name], ""))
    assert all(count >= 0.95 * len(reference()) for count in same.values()), same


# -- Chinese, labelled by hand ------------------------------------------------------------------------------------

NEWS = (
    "昨天下午，市图书馆新馆正式对读者开放。新馆建在老城区的河边，共有四层，藏书一百二十万册，"
    "比旧馆多了一倍。许多市民一早就来到门口排队，希望能第一个走进阅览室。一位退休教师说，"
    "他在这座城市住了四十年，看着图书馆从几间平房变成今天的样子，心里非常高兴。"
)
ESSAY = (
    "我小的时候，家里并不富裕，父亲每天很晚才回来，母亲在灯下给我们缝补衣服。那时候最盼望的事情，"
    "就是过年能吃上一顿饺子。后来我离开了村子，到外地读书、工作，走过很多地方，也见过不少人，"
    "可是每到冬天，还是会想起那盏灯。"
)
GUIDE = (
    "安装之前，请先确认系统中已经有 Python 3.11 或更新的版本。下载完成以后，打开终端，进入解压后的文件夹，"
    "运行安装命令即可。如果提示缺少权限，可以在命令前加上 sudo；如果网络较慢，也可以换用国内的镜像。"
    "安装结束后，用版本命令检查是否成功，然后按照下一节的说明写第一个程序。"
)
PIECES = (NEWS + ESSAY + GUIDE).replace("。", "，").split("，")
ADDRESSES = (
    "黑龙江省哈尔滨市道里区建设街，吉林省长春市朝阳区红旗街，辽宁省沈阳市铁西区兴华街，"
    "河北省石家庄市桥西区，山东省济南市历下区泺源街，河南省郑州市金水区花园路，湖北省武汉市武昌区中南路"
)
GOOD_ZH = [NEWS, ESSAY, GUIDE, NEWS + "\n" + ESSAY, ESSAY + "\n\n" + GUIDE]
BAD_ZH = [
    ("gopher-few-words", "您的浏览器版本过低，请升级。"),
    ("gopher-short-clauses", "手机 壳 贴膜 耳机 包邮 正品 特价 热卖 新款 促销 女装 男装 鞋 包 帽 袜 " * 8),
    ("gopher-long-clauses", "".join(c for c in NEWS + ESSAY if c.isalpha())),
    ("gopher-hashes", "#热门话题# #今日头条# #要闻# " * 3 + "".join(f"#{NEWS[i : i + 4]}#" for i in range(0, 120, 4))),
    ("gopher-cut-lines", "\n".join(NEWS[i : i + 22] + "……" for i in range(0, 110, 22))),
    ("gopher-bullets", "\n".join("● " + part for part in (NEWS + ESSAY).split("，"))),
    ("gopher-symbols", "".join(NEWS[i : i + 5] + "※◆★※◆★" for i in range(0, len(NEWS), 5))),
    ("gopher-stop-words", ADDRESSES),
    ("repetition-top-2-gram", "买它吧，" * 40 + "我的是在了"),
    ("repetition-lines", "\n".join([NEWS[:60], NEWS[60:120]] * 3)),
    ("fineweb-short-lines", "\n".join(part + "。" for part in PIECES if part)),
    ("fineweb-open-lines", "\n".join(part for part in PIECES if len(part) > 12)),
]  # fmt: skip


def judged(text: str, language: str = "zh", **settings: Any) -> str:
    return judge(Settings(Filter(data="x", **settings)), text, language, Changes()).reason


@pytest.mark.parametrize("segmenter", ["characters", "jieba"])
@pytest.mark.parametrize("text", GOOD_ZH)
def test_good_chinese_stays(text: str, segmenter: str) -> None:
    assert judged(text, segmenter=segmenter) == ""


@pytest.mark.parametrize(("wanted", "text"), BAD_ZH, ids=[name for name, _ in BAD_ZH])
def test_bad_chinese_goes_for_its_reason(wanted: str, text: str) -> None:
    assert judged(text) == wanted


def test_characters_stand_for_jieba_s_words() -> None:
    texts = [NEWS, ESSAY, GUIDE]
    solid = [sum(any(c.isalpha() for c in w) for w in words(t, "zh", "jieba")) for t in texts]
    counted = [sum(any(c.isalpha() for c in w) for w in words(t, "zh")) / CHARACTERS_PER_WORD for t in texts]
    assert sum(counted) == pytest.approx(sum(solid), rel=0.1)


# -- English, by hand ---------------------------------------------------------------------------------------------

STORY = (
    "The house at the end of the road had been empty for years, and nobody could say who owned it. In the spring a "
    "family came from the city with two dogs and a piano. They painted the door, cut the grass, and asked the "
    "neighbours to tea. By the summer it seemed to all of us that they had always been there, and that the house had "
    "only waited for them."
)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("", STORY),
        ("gopher-few-words", "Please log in to continue."),
        (
            "gopher-stop-words",
            " ".join(w for w in STORY.split() if w.lower() not in ("the", "to", "of", "and", "that")),
        ),
        ("gopher-hashes", STORY.replace(" ", " # ")),
        ("gopher-long-words", "internationalization " * 60),
        ("repetition-paragraphs", "\n\n".join([STORY] * 3)),
        ("repetition-top-2-gram", STORY[:200] + " they said that" * 40),
        ("fineweb-open-lines", "\n".join(STORY[i : i + 50] for i in range(0, len(STORY) - 50, 50)).replace(".", ",")),
    ],
)
def test_english_by_hand(wanted: str, text: str) -> None:
    assert judged(text, "en") == wanted


def test_every_threshold_can_be_moved_and_every_group_left_out() -> None:
    assert judged(STORY, "en", min_words=500) == "gopher-few-words"
    assert judged(STORY, "en", gopher={"min_words": 500, "on": False}) == ""
    assert judged(STORY, "en", max_short_lines=0.0, short_line=1000) == "fineweb-short-lines"
    assert judged(STORY, "en", repetition={"top_ngrams": {1: 0.001}}) == "repetition-top-1-gram"
    assert judged(STORY, "en", fineweb={"on": False}, c4={"on": True, "min_sentences": 9}) == "c4-few-sentences"


def test_c4_takes_lines_out_in_both_languages() -> None:
    changes = Changes()
    english = "Home\nShop\n" + STORY.replace(". ", ".\n") + "\nWe use cookies.\nEnable JavaScript now, please."
    assert c4(english, "en", C4(min_sentences=3), changes).text == STORY.replace(". ", ".\n")
    chinese = "首页\n登录\n" + NEWS + "\n本站使用cookie，请查看隐私政策。\n版权所有，未经授权不得转载。"
    assert c4(chinese, "zh", C4(min_sentences=3), changes).text == NEWS
    assert changes["lines taken out: policies"] == 3
    assert c4("占位{x}的文字，是一行。", "zh", C4(), changes).reason == "c4-curly-bracket"


@pytest.mark.parametrize(
    ("text", "language", "number"),
    [("One. Two! Three?", "en", 3), ("Mr. A. Smith of the U.S. army. He left", "en", 2), ("no end", "en", 1),
     ("", "en", 0), ("一句。两句！三句？", "zh", 3), ("“好。”他说……走了", "zh", 3), ("...", "en", 1)],
)  # fmt: skip
def test_sentences(text: str, language: str, number: int) -> None:
    assert sentences(text, language) == number


@checked(deadline=None, max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["Dr.", "mr.", "-5", "/usr", ".5", "it's", "don't", "n't", "_", "__", "U.S.", "...", ":-)"]
            ),
            st.sampled_from([" ", "\n", "\t", "\xa0", "\x1c", "\u3000", "a@b.org", "http://x.y/z", "3,000.5", "C++"]),
            st.text(max_size=4),
        ),
        max_size=30,
    ).map("".join)
)
def test_words_part_by_part_are_those_of_the_pattern(text: str) -> None:
    assert words(text, "en") == _SPACED.findall(text)


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Remembered, "MOST", 3)
    lengths = Remembered(len)
    assert [lengths["x" * n] for n in (1, 2, 3, 4, 5, 100, 1)] == [1, 2, 3, 4, 5, 100, 1]
    assert set(lengths) <= {"x", "x" * 4, "x" * 5}  # three went when the fourth came; the long one never stayed
    assert all(len(part) <= Remembered.LONGEST for part in _BETWEEN_SPACES)


def test_documents_judged_together_are_judged_as_alone(corpus: Callable[..., Artifact]) -> None:
    texts = [*GOOD_ZH, *(text for _, text in BAD_ZH), STORY, *(row["text"] for row in reference())]
    data = corpus({f"{n:03d}.{'py' if n % 9 == 0 else 'txt'}": text for n, text in enumerate(texts) if text.strip()})
    batch = next(read_documents(data.path))
    for recipe in (
        Filter(data="x"), Filter(data="x", code=True, languages=("en",)), Filter(data="x", c4={"on": True}),
        Filter(data="x", gopher={"on": False}, fineweb={"on": False}), Filter(data="x", repetition={"on": False}),
    ):  # fmt: skip
        together = judge_batch(Settings(recipe), batch)
        alone = map_texts(lambda row, changes, recipe=recipe: judge_row(Settings(recipe), row, changes), batch)
        assert together.drops == alone.drops
        assert together.kept.equals(alone.kept)
        assert together.changes == alone.changes


def test_keywords_are_words_where_there_are_spaces() -> None:
    keywords = read_words(["ass # a remark", "big deal", "赌博", "赌博网站", ""])
    assert keywords.found("A class pass, a Big  deal; assess! Ass.", "en") == ["big deal", "ass"]
    assert keywords.found("这个赌博网站和赌博", "zh") == ["赌博网站", "赌博"]


@checked(deadline=None)
@given(
    st.lists(st.text(alphabet="ab 好坏。.#\n…-", max_size=120), min_size=1, max_size=12), st.sampled_from(["en", "zh"])
)
def test_in_is_kept_and_dropped(texts: list[str], language: str) -> None:
    rows = [
        {"id": f"{i:032x}", "path": f"{i}.txt", "source": "s", "licence": "l", "language": language, "format": "txt",
         "bytes": len(text.encode()), "text": text} for i, text in enumerate(texts)
    ]  # fmt: skip
    settings = Settings(Filter(data="x", min_words=3, c4={"on": True, "min_sentences": 1}))
    mapped = map_texts(lambda row, changes: judge_row(settings, row, changes), pa.RecordBatch.from_pylist(rows, SCHEMA))
    kept, dropped = set(mapped.kept.column("id").to_pylist()), {drop.id for drop in mapped.drops}
    assert kept | dropped == {row["id"] for row in rows}
    assert not kept & dropped
    assert all(drop.reason for drop in mapped.drops)
    assert mapped.bytes_in == sum(row["bytes"] for row in rows)


def test_the_recipe_says_why(
    corpus: Callable[..., Artifact], make: Callable[..., Artifact], tmp_path: Path,
    rows: Callable[..., list[dict[str, Any]]],
) -> None:  # fmt: skip
    (tmp_path / "words.txt").write_text("piano\n", encoding="utf-8")
    german = "Das Haus am Ende der Straße war seit Jahren leer, und niemand wusste, wem es gehörte."
    data = corpus({
        "a.txt": STORY, "b.txt": STORY.replace("piano", "goat"), "c.txt": "short", "d.txt": NEWS, "e.py": "x = 1\n" * 9,
        "f.txt": german,
    })  # fmt: skip
    made = make(Filter(data=data.ref, languages=("en", "zh"), keywords=tmp_path / "words.txt"))
    assert {row["path"] for row in rows(made)} == {"b.txt", "d.txt", "e.py"}
    drops = {row["path"]: row for row in pq.read_table(made.path / "drops-00000.parquet").to_pylist()}
    assert {path: row["reason"] for path, row in drops.items()} == {
        "a.txt": "keywords", "c.txt": "gopher-few-words", "f.txt": "language",
    }  # fmt: skip
    assert drops["c.txt"]["detail"] == "few-words: 1, at least 50"
    assert "piano" in drops["a.txt"]["detail"]
    report = Report.load(made.path)
    dropped = report.table("dropped by reason").rows
    assert made.metrics["documents_in"] == made.metrics["documents_kept"] + sum(int(row[1] or 0) for row in dropped)
    rules = dict(map(tuple, report.table("rules").rows))
    assert rules["gopher.min_words"] == 50
    assert rules["max_keywords"] == 0
    assert not any(str(rule).startswith("c4") for rule in rules)


def test_the_content_of_the_list_of_keywords_counts(tmp_path: Path) -> None:
    prints = []
    for content in ("one\n", "one\n", "two\n"):
        (tmp_path / "words").write_text(content, encoding="utf-8")
        prints.append(Filter(data="x", keywords=tmp_path / "words").fingerprint({}, 0))
    assert prints[0] == prints[1] != prints[2]
    with pytest.raises(BadInput, match="cannot be read"):
        Filter(data="x", keywords=tmp_path / "none").fingerprint({}, 0)


class _Zip:
    """A scorer from another world: bits for each byte under gzip's model."""

    def bits_per_byte(self, texts: Sequence[str]) -> list[float]:
        import zlib

        return [8 * len(zlib.compress(text.encode(), 9)) / max(1, len(text.encode())) for text in texts]


def test_a_language_model_is_asked_through_the_protocol(
    corpus: Callable[..., Artifact], make: Callable[..., Artifact], rows: Callable[..., list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(filtering, "open_scorer", lambda path, device: _Zip())
    noise = "".join(chr(n) for n in random.Random(3).choices(range(33, 127), k=1500))
    data = corpus({"a.txt": STORY, "b.txt": "again and " * 300, "c.txt": noise, "d.py": "x = 1\n" * 300})
    off: Any = {"on": False}
    model = make(Fetch(source=str(TINY)))
    made = make(
        Filter(data=data.ref, language_model=model.ref, gopher=off, repetition=off, fineweb=off, min_bits=1, max_bits=6)
    )
    assert {row["path"] for row in rows(made)} == {"a.txt", "d.py"}
    drops = {row["path"]: row["reason"] for row in pq.read_table(made.path / "drops-00000.parquet").to_pylist()}
    assert drops == {"b.txt": "too-predictable", "c.txt": "too-surprising"}
    assert made.metrics["documents_in"] == 4


def test_a_model_of_ours_scores_as_the_evaluation_does(tmp_path: Path) -> None:
    from mojiang.core.protocols import open_scorer
    from mojiang.evaluate._loading import load_for_scoring
    from mojiang.evaluate._scoring import document_nats

    texts = ["The house at the end", "你好"]
    model, tokenizer, _ = load_for_scoring(TINY, "cpu", "float32")
    start, end = tokenizer.borders
    nats = [document_nats(model, [tokenizer.encode(t)], start=start, end=end, context=64)[0] for t in texts]
    wanted = [n / math.log(2) / len(t.encode()) for n, t in zip(nats, texts, strict=True)]
    assert open_scorer(TINY, "cpu").bits_per_byte(texts) == pytest.approx(wanted, rel=1e-4)


def test_senseless_settings_are_refused(corpus: Callable[..., Artifact], make: Callable[..., Artifact]) -> None:
    off: Any = {"on": False}
    with pytest.raises(ValidationError, match="nothing else is asked for"):
        Filter(data="x", gopher=off, repetition=off, fineweb=off)
    with pytest.raises(ValidationError, match="nothing could be kept"):
        Filter(data="x", min_bits=5)
    with pytest.raises(BadInput, match="nothing is left"):
        make(Filter(data=corpus({"a.txt": "too short to be kept"}).ref))
