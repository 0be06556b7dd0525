"""data.examples: every shape of file into its form, wrong rows dropped with a reason, no copy on two sides."""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.report import Report
from mojiang.data._accounting import why_dropped
from mojiang.data._documents import SPLITS
from mojiang.data._examples import _KEY, Policy, decide
from mojiang.data._forms import FORMS, Fields, Unusable, pixels_of, visible
from mojiang.data._records import split_of
from mojiang.data.examples import Examples, FormName, has_split, read_examples
from mojiang.data.mine import read_conversations

Make = Callable[..., Artifact]
Folder = Callable[..., Path]


def jsonl(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def everything(made: Artifact, form: str) -> list[dict[str, Any]]:
    return [
        row for split in SPLITS if has_split(made.path, split, form) for row in read_examples(made.path, split, form)
    ]


@pytest.fixture
def read(make: Make, folder: Folder) -> Callable[..., list[dict[str, Any]]]:
    """Write files, make examples of them, and give the form's columns of all rows, in the order of their paths."""

    def rows(files: dict[str, str | bytes], form: str, **settings: Any) -> list[dict[str, Any]]:
        made = make(Examples(source=str(folder(files)), form=form, **{"validation": 0, "test": 0, **settings}))
        found = sorted(everything(made, form), key=lambda row: row["path"])
        return [{column.name: row[column.name] for column in FORMS[form].columns} for row in found]

    return rows


# -- the shapes of files ------------------------------------------------------------------------------------------


def test_the_forms_on_offer_are_those_there_are() -> None:
    assert set(get_args(FormName)) == set(FORMS) - {"documents"}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "wrapped.json"])
def test_tables_of_every_kind_give_the_same_rows(read: Callable[..., Any], tmp_path: Path, name: str) -> None:
    rows = [{"Review": "很好，\n再来", "stars": 5}, {"Review": 'so "so"', "stars": 3}]
    cells = [[row["Review"].replace("\n", " "), str(row["stars"])] for row in rows]
    if name == "a.parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        content: str | bytes = sink.getvalue()
    elif name.endswith("sv"):
        import csv

        text = io.StringIO()
        csv.writer(text, delimiter="\t" if name == "a.tsv" else ",").writerows([["Review", "stars"], *cells])
        content = text.getvalue()
    else:
        whole = json.dumps({"version": 1, "rows": rows} if name == "wrapped.json" else rows, ensure_ascii=False)
        content = jsonl(rows) if "jsonl" in name else whole
    content = gzip.compress(content.encode()) if name.endswith(".gz") else content  # type: ignore[union-attr]
    found = read({name: content}, "labelled", columns={"text": "Review", "label": "stars"})
    assert [(" ".join(row["text"].split()), row["label"]) for row in found] == [("很好， 再来", "5"), ('so "so"', "3")]


def test_text_files_in_folders_named_by_class(read: Callable[..., Any]) -> None:
    found = read({"pos/1.txt": "good", "neg/a.txt": "差".encode("gb18030") * 9, "README.md": "about"}, "labelled")
    assert found == [
        {"text": "差" * 9, "text_b": None, "label": "neg"},
        {"text": "good", "text_b": None, "label": "pos"},
    ]


def test_class_numbers_of_a_hub_file_get_their_names(read: Callable[..., Any]) -> None:
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
                "text": {"dtype": "string", "_type": "Value"}}  # fmt: skip
    table = pa.table({"text": ["bad", "good"], "label": [0, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    assert [row["label"] for row in read({"a.parquet": sink.getvalue()}, "labelled")] == ["neg", "pos"]


CONLL = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\n"
CONLLU = "# text = It's\n1-2\tIt's\t_\t_\t_\n1\tIt\tit\tPRON\t_\n2\t's\tbe\tAUX\t_\n\n"


@pytest.mark.parametrize(
    ("name", "text", "columns", "tags"),
    [
        ("a.conll", CONLL, {}, [["B-ORG", "O"], ["B-PER"]]),
        ("a.txt", CONLL, {"tags": "1"}, [["NNP", "VBZ"], ["NNP"]]),
        ("a.conllu", CONLLU, {}, [["PRON", "AUX"]]),
        ("a.txt", "\n\tThe/at 1\\/2/cd jury/nn\n", {}, [["at", "cd", "nn"]]),
        ("a.txt", "迈向/v  充满/v  希望/n\n中共中央/nt  总书记/n\n", {}, [["v", "v", "n"], ["nt", "n"]]),
        ("a.jsonl", '{"words": ["a", "b"], "ner_tags": ["O", "B-X"]}\n', {}, [["O", "B-X"]]),
    ],
)
def test_tagged_text(read: Callable[..., Any], name: str, text: str, columns: dict[str, str], tags: list[Any]) -> None:
    found = read({name: text}, "tagged", columns=columns)
    assert [row["tags"] for row in found] == tags
    assert all(len(row["tokens"]) == len(row["tags"]) for row in found)


def test_squad_and_what_does_not_fit_its_context(read: Callable[..., Any]) -> None:
    context = "The Normans were the people who in the 10th century gave their name to Normandy."
    qas = [
        {"id": "1", "question": "Who?", "answers": [{"text": "The Normans", "answer_start": 0}] * 2},
        {"id": "2", "question": "When?", "answers": [{"text": "10th century", "answer_start": 7}]},  # offset is wrong
        {"id": "3", "question": "Why?", "answers": [], "is_impossible": True},
        {"id": "4", "question": "Where?", "answers": [{"text": "Paris", "answer_start": 0}]},
    ]
    squad = {"version": "2.0", "data": [{"title": "N", "paragraphs": [{"context": context, "qas": qas}]}]}
    found = read({"dev.json": json.dumps(squad)}, "spans")
    assert [row["question"] for row in found] == ["Who?", "When?", "Why?"]
    assert [len(row["answers"]) for row in found] == [1, 1, 0]
    for row in found:
        assert all(context[a["start"] :].startswith(a["text"]) for a in row["answers"])
    flat = {"question": "Who?", "context": context, "answers": {"text": ["Normandy"], "answer_start": [71]}}
    assert read({"dev.json": jsonl([flat])}, "spans")[0]["answers"] == [{"text": "Normandy", "start": 71}]


PARTS = [{"type": "text", "text": "Hi"}]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("openai.jsonl", jsonl([{"messages": CHAT}])),
        ("sharegpt.json", json.dumps([{"conversations": [{"from": "human", "value": "Hi"},
                                                          {"from": "gpt", "value": "Hello"}]}])),
        ("alpaca.json", json.dumps([{"instruction": "Hi", "input": "", "output": "Hello"}])),
        ("qa.csv", "question,answer\nHi,Hello\n"),
        ("trl.jsonl", jsonl([{"prompt": CHAT[:1], "completion": CHAT[1:]}])),
        ("parts.jsonl", jsonl([{"messages": [{"role": "user", "content": PARTS}, CHAT[1]]}])),
        ("bot.yml", "categories: [x]\nconversations:\n- - Hi\n  - Hello\n"),
        ("lists.json", json.dumps([["Hi", "Hello"]])),
    ],
)  # fmt: skip
def test_conversations_of_every_shape(make: Make, folder: Folder, name: str, text: str) -> None:
    made = make(Examples(source=str(folder({name: text})), form="conversations", validation=0, test=0))
    (row,) = read_conversations(made.path, "train")
    assert row["messages"] == CHAT
    assert row["language"] == "en"
    assert row["id"]


def test_tool_calls_come_back_as_they_were(make: Make, folder: Folder) -> None:
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    messages = [CHAT[0], {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "content": "2", "tool_call_id": "x"}, CHAT[1]]  # fmt: skip
    text = jsonl([{"messages": messages, "tools": [{"name": "add"}]}, {"messages": CHAT}])
    made = make(Examples(source=str(folder({"a.jsonl": text})), form="conversations", validation=0, test=0))
    first, second = sorted(read_conversations(made.path, "train"), key=lambda row: row["path"])
    assert first["messages"] == [CHAT[0], {"role": "assistant", "content": "", "tool_calls": calls}, *messages[2:]]
    assert json.loads(first["tools"]) == [{"name": "add"}]
    assert second["messages"] == CHAT


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
        {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": [{"role": "assistant", "content": "Go"}]},
        {"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "Go"}]},  # the prompt is implicit
        {"prompt": CHAT[:1], "chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "Go"}]},
    ],
)
def test_preferences(read: Callable[..., Any], record: dict[str, Any]) -> None:
    (row,) = read({"a.jsonl": jsonl([record])}, "preferences")
    assert (row["prompt"], row["chosen"], row["rejected"], row["desirable"]) == (CHAT[:1], "Hello", "Go", None)


def test_single_answers_judged_alone_and_tasks(read: Callable[..., Any]) -> None:
    kto = [{"prompt": "Hi", "completion": "Hello", "label": True}, {"prompt": "Hi", "completion": "Go", "label": False}]
    found = read({"a.jsonl": jsonl(kto)}, "preferences")
    assert [(row["completion"], row["desirable"], row["chosen"]) for row in found] == [
        ("Hello", True, None),
        ("Go", False, None),
    ]
    assert read({"a.jsonl": jsonl([{"question": "1+1?", "answer": 2}])}, "prompts") == [
        {"prompt": [{"role": "user", "content": "1+1?"}], "answer": "2"}
    ]


def test_pairs_with_and_without_a_header_and_nested(read: Callable[..., Any]) -> None:
    want = [{"source": "a", "target": "甲"}]
    assert read({"a.tsv": "source\ttarget\na\t甲\n"}, "pairs") == want
    assert read({"a.tsv": "a\t甲\n"}, "pairs") == want
    nested = {"translation": {"en": "a", "zh": "甲"}}
    columns = "source=translation.en,target=translation.zh"
    assert read({"a.tsv": "", "b.jsonl": jsonl([nested])}, "pairs", columns=columns) == want


def idx(array: np.ndarray[Any, Any]) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.astype(np.uint8).tobytes())


def test_images_keep_every_pixel_and_their_own_splits(make: Make, folder: Folder) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 5, 4))
    files = {
        "train-images-idx3-ubyte.gz": idx(pixels[:9]), "train-labels-idx1-ubyte.gz": idx(np.arange(9) % 3),
        "t10k-images-idx3-ubyte.gz": idx(pixels[9:]), "t10k-labels-idx1-ubyte.gz": idx(np.arange(3)),
    }  # fmt: skip
    made = make(Examples(source=str(folder(files)), form="images", validation=0))
    train = {row["path"]: row for row in read_examples(made.path, "train", "images")}
    assert made.metrics["test_examples"] == 3
    assert not has_split(made.path, "validation", "images")
    for number in range(9):
        row = train[f"train-images-idx3-ubyte.gz#{number + 1}"]
        assert (pixels_of(row["image"])[..., 0] == pixels[number]).all()
        assert row["label"] == str(number % 3)


def test_pictures_in_folders(read: Callable[..., Any]) -> None:
    from PIL import Image

    def picture(kind: str, size: int) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (size, size), (size, 2, 3)).save(out, kind)
        return out.getvalue()

    files = {"train/cat/1.png": picture("PNG", 3), "train/dog/1.jpg": picture("JPEG", 8), "train/dog/2.png": b"no"}
    found = read(files, "images")
    assert [row["label"] for row in found] == ["cat", "dog"]
    assert [pixels_of(row["image"]).shape for row in found] == [(3, 3, 3), (8, 8, 3)]


# -- copies, conflicts, splits, books -----------------------------------------------------------------------------


def test_copies_and_conflicts_are_dropped_and_can_be_asked_about(make: Make, folder: Folder) -> None:
    rows = [("Fine film", "pos"), ("fine  FILM", "pos"), ("so so", "pos"), ("So so", "neg"), ("bad", "neg")]
    text = jsonl({"text": t, "label": n} for t, n in rows) + '{"text": "no label"}\nnot json\n{"label": "x"}\n'
    source = str(folder({"a.jsonl": text}))
    made = make(Examples(source=source, form="labelled", validation=0, test=0))
    report = Report.load(made.path)
    reasons = {row[0]: row[1] for row in report.table("dropped by reason").rows}
    assert reasons == {
        "exact-copy": 1, "label-conflict": 2, "missing-label": 1, "broken-json": 1, "missing-text": 1,
    }  # fmt: skip
    assert [row["text"] for row in everything(made, "labelled")] == ["Fine film", "bad"]
    assert made.metrics["documents_in"] == 8 == 2 + sum(reasons.values())
    assert made.metrics["label_conflicts"] == 2
    assert {row[0]: row[1] for row in report.table("examples by label").rows} == {"pos": 1, "neg": 1}
    (fate,) = why_dropped([made], "a.jsonl#2")
    assert (fate.outcome, fate.reason) == ("dropped", "exact-copy")
    (kept,) = why_dropped([made], "a.jsonl#1")
    assert (kept.outcome, kept.reason) == ("kept", "train")
    assert kept.id in fate.detail
    first = make(Examples(source=source, form="labelled", validation=0, test=0, conflicts="first"))
    assert [(row["text"], row["label"]) for row in everything(first, "labelled")][1] == ("so so", "pos")
    plain = make(Examples(source=source, form="labelled", validation=0, test=0, dedup=False))
    assert plain.metrics["documents_kept"] == 5


def test_the_files_own_splits_win_and_copies_leave_the_training_split(make: Make, folder: Folder) -> None:
    def rows(*texts: str) -> str:
        return jsonl({"text": text, "label": "x"} for text in texts)

    many = [f"text {i}" for i in range(60)]
    files = {"train.jsonl": rows("same", *many), "test.jsonl": rows("same", "other")}
    source = str(folder(files))
    made = make(Examples(source=source, form="labelled", validation=0.2))
    assert {row["text"] for row in read_examples(made.path, "test", "labelled")} == {"same", "other"}
    assert made.metrics["train_examples"] + made.metrics["validation_examples"] == 60  # type: ignore[operator]
    reasons = {row[0]: row[1] for row in Report.load(made.path).table("dropped by reason").rows}
    assert reasons == {"copy-of-held-out": 1}
    ignored = make(Examples(source=source, form="labelled", own_splits=False))
    assert ignored.metrics["train_examples"] > 40
    only = make(Examples(source=str(Path(source) / "test.jsonl"), form="labelled", validation=0, test=0))
    assert only.metrics["train_examples"] == 2, "a file called test alone is all there is"


def test_one_question_stays_on_one_side(make: Make, folder: Folder) -> None:
    rows = [{"source": f"q{i % 40}", "target": f"answer {i}"} for i in range(200)]
    made = make(Examples(source=str(folder({"a.jsonl": jsonl(rows)})), form="pairs", validation=0.2, test=0.2))
    sides = Counter((row["source"], split) for split in SPLITS for row in read_examples(made.path, split, "pairs"))
    assert len(sides) == 40
    assert {split for _, split in sides} == set(SPLITS)


def test_splits_do_not_depend_on_order_or_company(make: Make, folder: Folder) -> None:
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(300)]

    def sides(some: list[dict[str, Any]]) -> dict[str, str]:
        made = make(Examples(source=str(folder({"a.jsonl": jsonl(some)})), form="labelled", validation=0.1, test=0.1))
        return {row["text"]: split for split in SPLITS for row in read_examples(made.path, split, "labelled")}

    whole = sides(rows)
    assert sides(rows[::-1]) == whole
    part = sides(rows[100:])
    assert {text: whole[text] for text in part} == part


def test_a_smaller_number_is_a_part_of_a_larger_one(make: Make, folder: Folder) -> None:
    source = str(folder({"a.jsonl": jsonl({"text": f"text {i}", "label": i % 2} for i in range(200))}))
    sets = [
        {row["id"] for row in everything(make(Examples(source=source, form="labelled", max_examples=n)), "labelled")}
        for n in (20, 80)
    ]
    assert (len(sets[0]), len(sets[1])) == (20, 80)
    assert sets[0] < sets[1]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), st.sampled_from([-1, 0, 1, 2])), min_size=1, max_size=30),
    st.booleans(),
    st.sampled_from(["drop", "first"]),
)
def test_decisions_hold_for_any_rows(rows: list[tuple[int, int, int]], own: bool, conflicts: Any) -> None:
    keys = np.zeros(len(rows), _KEY)
    for number, (text, label, given_split) in enumerate(rows):
        keys[number] = (bytes([text]) * 16, text * 2**60, label, bytes(16), given_split)
    policy = Policy("labelled", "x", conflicts=conflicts, own_splits=own, validation=0.2, test=0.2)
    reasons, firsts, splits = decide(keys, policy)
    kept = [i for i, reason in enumerate(reasons) if reason == 0]
    texts = [rows[i][0] for i in kept]
    assert len(set(texts)) == len(texts)
    labels = {text: {label for t, label, _ in rows if t == text} for text, _, _ in rows}
    expected = {text for text, found in labels.items() if len(found) == 1 or conflicts == "first"}
    assert set(texts) == expected
    assert all(rows[i][0] == rows[int(firsts[i])][0] for i in range(len(rows)))
    if own and any(given_split == 0 for _, _, given_split in rows):
        for i in kept:
            highest = max(g for t, _, g in rows if t == rows[i][0])
            assert highest <= 0 or splits[i] == highest


def test_nothing_usable_says_what_was_there(make: Make, folder: Folder) -> None:
    source = str(folder({"a.jsonl": jsonl([{"opinion": "x", "stars": 1}] * 3), "b.pdf": b"%PDF-1.4"}))
    with pytest.raises(BadInput, match="3 missing-text") as caught:
        make(Examples(source=source, form="labelled"))
    assert "--columns" in caught.value.hint


def test_reading_another_form_or_split_says_what_there_is(make: Make, folder: Folder) -> None:
    made = make(Examples(source=str(folder({"a.tsv": "a\tb\n"})), form="pairs", validation=0, test=0))
    with pytest.raises(BadInput, match="holds pairs, and labelled are needed"):
        list(read_examples(made.path, "train", "labelled"))
    with pytest.raises(BadInput, match="no test split"):
        list(read_examples(made.path, "test", "pairs"))


def test_wrong_columns_are_refused_before_anything_is_read() -> None:
    with pytest.raises(ValidationError, match="pairs have no column 'text'"):
        Examples(source="x", form="pairs", columns={"text": "a"})
    with pytest.raises(ValidationError, match="ours=theirs"):
        Examples(source="x", form="pairs", columns="text")


@given(st.text())
def test_what_is_visible_is_the_same_twice(text: str) -> None:
    assert visible(f"  {visible(text)}\n") == visible(visible(text))


@pytest.mark.parametrize(
    ("form", "record", "reason"),
    [
        ("labelled", {"text": " ", "label": 1}, "empty-text"),
        ("labelled", {"text": "x", "label": ["a", "b"]}, "several-labels"),
        ("tagged", {"tokens": ["a"], "tags": ["x", "y"]}, "unequal-lengths"),
        ("conversations", {"messages": CHAT[:1]}, "no-answer"),
        ("conversations", {"messages": [{"role": "wizard", "content": "x"}]}, "unknown-role"),
        ("conversations", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not-text"),
        ("preferences", {"prompt": "a", "chosen": "b", "rejected": "B "}, "chosen-equals-rejected"),
        ("preferences", {"prompt": "a", "completion": "b", "label": "maybe"}, "label-not-yes-or-no"),
        ("images", {"image": b"GIF89a", "label": 1}, "not-png-or-jpeg"),
        ("images", {"image": [[1, 2], [3]], "label": 1}, "not-an-image"),
    ],
)
def test_why_a_record_is_no_example(form: str, record: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        FORMS[form].build(Fields(record, {}, FORMS[form].aliases))
    assert caught.value.reason == reason


def test_names_that_only_contain_a_split_are_none() -> None:
    assert [split_of(name) for name in ("contest.csv", "latest/a.csv", "x/Dev-1.json", "test/train.csv")] == [
        "", "", "validation", "train",
    ]  # fmt: skip
