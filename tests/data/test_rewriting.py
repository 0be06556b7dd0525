"""Personal data and spellings in examples: texts change, and labels, splits, ids and the number of examples do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.data.clean import Clean
from mojiang.data.examples import Examples, read_examples
from mojiang.data.normalize import Normalize
from mojiang.data.pii import Pii

Make = Callable[..., Artifact]


def examples(make: Make, tmp_path: Path, form: Any, rows: list[dict[str, Any]]) -> Artifact:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return make(Examples(source=str(tmp_path / "a.jsonl"), form=form, validation=0.2, test=0.2))


def every(made: Artifact, form: str) -> list[tuple[str, dict[str, Any]]]:
    return [(split, row) for split in ("train", "validation", "test") for row in read_examples(made.path, split, form)]


def test_labelled_texts_are_redacted_and_labels_stay(make: Make, tmp_path: Path) -> None:
    mails = [{"text": f"Mail number {n} from me{n}@home.org", "label": f"call 1381234567{n}"} for n in range(10)]
    before = examples(make, tmp_path, "labelled", mails)
    made = make(Pii(data=before.ref, max_found=3))
    for (split, old), (other, new) in zip(every(before, "labelled"), every(made, "labelled"), strict=True):
        assert (split, old["id"], old["label"]) == (other, new["id"], new["label"])
        assert new["text"] == old["text"].split(" from ")[0] + " from [EMAIL]"
        assert new["bytes"] == len(new["text"].encode())
    assert made.metrics["documents_in"] == made.metrics["documents_kept"] == made.metrics["found_email"] == 10
    spans = pq.read_table(made.path / "pii-00000.parquet").to_pylist()
    assert {span["document"] for span in spans} == {f"{row['id']}:text" for _, row in every(made, "labelled")}


def test_an_example_goes_with_one_of_its_texts(make: Make, tmp_path: Path) -> None:
    many = " ".join(f"user{n}@home.org" for n in range(9))
    answer = {"role": "assistant", "content": "Ask me@home.org"}
    talks = [{"messages": [{"role": "user", "content": f"Question {n}"}, answer]} for n in range(9)]
    talks.append({"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": many}]})
    made = make(Pii(data=examples(make, tmp_path, "conversations", talks).ref, max_found=3))
    kept = [row["messages"] for _, row in every(made, "conversations")]
    assert len(kept) == 9
    assert all(m[1]["content"] == "Ask [EMAIL]" and m[0]["content"].startswith("Question") for m in kept)
    assert (made.metrics["documents_in"], made.metrics["documents_dropped"]) == (10, 1)


def test_normalize_too_and_what_judges_says_no(make: Make, tmp_path: Path) -> None:
    pairs = [{"source": f"cafe\u0301 {n}", "target": f"咖啡 {n}"} for n in range(10)]
    data = examples(make, tmp_path, "pairs", pairs)
    assert all(row["source"].startswith("café ") for _, row in every(make(Normalize(data=data.ref)), "pairs"))
    with pytest.raises(BadInput, match="holds pairs, not documents"):
        make(Clean(data=data.ref))
