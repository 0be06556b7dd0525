"""The choice of documents: whole, deterministic, within the limit."""

from pathlib import Path

import pytest

from mojiang.core.errors import BadInput
from mojiang.data._documents import ShardWriter, document_id
from mojiang.evaluate._held_out import select_documents


def _write(folder: Path, texts: dict[str, str], order: int = 1) -> Path:
    with ShardWriter(folder / "test") as writer:
        for path, text in list(texts.items())[::order]:
            writer.add(
                {
                    "id": document_id("s", path, 0), "path": path, "source": "s", "licence": "CC0-1.0",
                    "language": "en", "format": "txt", "bytes": len(text.encode()), "text": text,
                }
            )  # fmt: skip
    return folder


TEXTS = {f"{i}.txt": f"document {i} " * (i + 1) for i in range(30)}


def test_takes_whole_documents_up_to_the_limit_whatever_their_order(tmp_path: Path) -> None:
    chosen = select_documents(_write(tmp_path / "a", TEXTS), "test", 1500)
    again = select_documents(_write(tmp_path / "b", TEXTS, order=-1), "test", 1500)
    assert [d.id for d in chosen.documents] == [d.id for d in again.documents]
    assert all(d.text == TEXTS[d.path] for d in chosen.documents)
    assert 0 < chosen.bytes == sum(len(d.data) for d in chosen.documents) <= 1500
    assert not chosen.complete


def test_a_larger_limit_only_adds(tmp_path: Path) -> None:
    folder = _write(tmp_path, TEXTS)
    small, large = (select_documents(folder, "test", limit) for limit in (800, 10**6))
    assert {d.id for d in small.documents} < {d.id for d in large.documents}
    assert large.complete
    assert (large.split_documents, large.split_bytes) == (30, sum(len(t) for t in TEXTS.values()))


def test_one_document_beyond_the_limit_is_cut_between_characters(tmp_path: Path) -> None:
    chosen = select_documents(_write(tmp_path, {"a": "墨匠" * 100}), "test", 100)
    assert chosen.documents[0].text == "墨匠" * 16 + "墨"
    assert chosen.bytes == 99


def test_a_split_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no text"):
        select_documents(_write(tmp_path, {"a": ""}), "test", 100)
