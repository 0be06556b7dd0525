"""For every capability a configuration that finishes in seconds on a CPU.

A value of an input field names the capability whose tiny artifact is the input; CORPUS is the folder of test texts, and
SITE a web site of them. A name with a colon is another tiny configuration of the capability before it.
"""

from __future__ import annotations

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "data.load": {"source": "CORPUS"},
    "data.crawl": {"start": "SITE", "manners": {"delay": 0}, "limits": {"pages": 8}, "as_of": "once"},
    "data.clean": {"data": "data.load"},
    "data.normalize": {"data": "data.clean"},
    "data.quality": {"labelled": "data.examples", "good_label": "5", "held_out": 0.2, "buckets": 4096},
    "data.filter": {"data": "data.clean", "min_words": 20},
    "data.pii": {"data": "data.clean"},
    "data.dedup": {"data": "data.normalize"},
    "data.decontaminate": {"data": "data.dedup", "against": ["data.examples"], "words": 4},
    "data.mix": {"sources": ["data.dedup", "data.normalize"], "weights": [3, 1], "max_epochs": 2, "bytes": 100_000},
    "data.split": {"data": "data.dedup", "validation": 0.1, "test": 0.1},
    "data.mine": {"data": "data.split"},
    "data.examples": {
        "source": "tests/fixtures/examples", "form": "labelled", "columns": {"text": "review", "label": "stars"},
        "test": 0.2,
    },
    "data.examples:preferences": {"source": "tests/fixtures/preferences", "form": "preferences"},
    "data.examples:images": {"source": "tests/fixtures/bars", "form": "images", "test": 0.2},
    "data.examples:tagged": {"source": "tests/fixtures/tagged", "form": "tagged"},
    "data.examples:spans": {"source": "tests/fixtures/spans", "form": "spans"},
    "data.examples:segmented": {"source": "tests/fixtures/segmented", "form": "tagged", "language": "zh"},
    "data.examples:pairs": {"source": "tests/fixtures/pairs", "form": "pairs"},
    "data.fetch": {"dataset": "arithmetic", "max_examples": 60},
    "text.words": {"data": "data.split", "segmenter": "text.segment", "form": "lemma"},
    "text.segment": {"data": "data.examples:segmented", "epochs": 2, "batch": 300},
    "text.vectorize": {"data": "data.split", "units": "characters_in_words", "shortest": 2, "longest": 3, "min_df": 3},
    "data.augment": {"data": "data.examples", "methods": ["swap", "delete"], "share": 0.2},
    "text.word2vec": {
        "data": "data.split", "size": 8, "min_count": 3, "epochs": 1, "longest_gram": 4, "gram_buckets": 500,
    },
    "text.glove": {"data": "data.split", "size": 8, "min_count": 3, "epochs": 2},
    "text.load": {"source": "tests/fixtures/vectors.txt"},
    "text.probe": {"model": "text.glove", "analogies": ["the a is"], "plot": 30},
    "tokenizer.bpe": {"data": "data.split", "vocab_size": 600},
    "tokenizer.wordpiece": {"data": "data.split", "vocab_size": 600},
    "tokenizer.char": {"data": "data.split"},
    "tokenizer.compare": {"data": "data.split", "tokenizers": ["tokenizer.bpe", "tokenizer.char"]},
    "model.extend": {"model": "train.pretrain", "data": "data.split", "tokens": 20},
    "tokenizer.unigram": {"data": "data.split", "vocab_size": 600, "sentinels": 20},
    "tokenizer.shards": {"data": "data.split", "tokenizer": "tokenizer.bpe"},
    "model.fetch": {"source": "tests/fixtures/tiny-llama"},
    "train.pretrain": {
        "data": "data.split", "tokenizer": "tokenizer.bpe", "steps": 6, "depth": 2, "width": 64, "context": 128,
        "batch_tokens": 512, "warmup_steps": 1,
    },
    "train.sft": {
        "model": "train.pretrain", "data": "data.mine", "replay": "data.split", "steps": 3, "batch_tokens": 512,
    },
    "train.lora": {"model": "train.pretrain", "data": "data.mine", "steps": 3, "batch_tokens": 512, "rank": 4},
    "train.reward": {"model": "train.sft", "data": "data.examples:preferences", "steps": 3, "batch_size": 4},
    "train.dpo": {"model": "train.sft", "data": "data.examples:preferences", "steps": 3, "batch_size": 4},
    "train.grpo": {
        "model": "train.sft", "data": "data.fetch", "reward": "number", "steps": 2, "group": 2, "batch_size": 2,
        "max_tokens": 8, "validation_prompts": 3,
    },
    "train.classify": {
        "data": "data.examples", "tokenizer": "tokenizer.bpe", "architecture": "textcnn", "width": 16, "steps": 4,
        "batch_size": 8,
    },
    "train.image_classify": {
        "data": "data.examples:images", "architecture": "lenet", "enlarge": 1, "steps": 4, "batch_size": 16,
    },
    "train.tagging": {
        "data": "data.examples:tagged", "tokenizer": "tokenizer.wordpiece", "architecture": "bilstm_crf", "width": 16,
        "steps": 4, "batch_size": 8,
    },
    "train.span": {
        "model": "train.pretrain", "data": "data.examples:spans", "context": 96, "stride": 8, "steps": 3,
        "batch_size": 4,
    },
    "train.seq2seq": {
        "data": "data.examples:pairs", "tokenizer": "tokenizer.wordpiece", "architecture": "gru", "width": 16,
        "steps": 4, "batch_size": 8, "written": 3, "context": 16,
    },
    "train.elmo": {
        "data": "data.split", "width": 16, "cells": 24, "max_words": 200, "context": 16, "steps": 4, "batch_size": 8,
    },
    "train.contrastive": {
        "model": "train.pretrain", "data": "data.examples:pairs", "pooling": "last", "steps": 3, "batch_size": 8,
    },
    "train.distill": {
        "teacher": "train.sft", "keep_layers": 2, "data": "data.mine", "steps": 3, "batch_tokens": 512,
    },
    "compress.merge": {"models": ["train.pretrain", "train.sft"], "method": "slerp", "t": 0.4},
    "train.plan": {
        "of": "train.classify", "data": "data.examples", "tokenizer": "tokenizer.bpe",
        "settings": {"architecture": "textcnn", "width": 16, "steps": 2, "batch_size": 8}, "asked": "once",
    },
    "train.sweep": {
        "of": "train.classify", "data": "data.examples", "tokenizer": "tokenizer.bpe", "metric": "loss",
        "settings": {"architecture": "textcnn", "width": 16, "steps": 2, "batch_size": 8},
        "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}, "trials": 2,
    },
    "train.crossval": {
        "of": "train.classify", "data": "data.examples", "tokenizer": "tokenizer.bpe", "folds": 2,
        "settings": {"architecture": "textcnn", "width": 16, "steps": 2, "batch_size": 8},
    },
    "evaluate.heldout": {
        "model": "train.sft", "data": "data.split", "max_bytes": 20_000, "samples": 1, "sample_tokens": 8,
    },
    "evaluate.completion": {"model": "train.sft", "data": "data.split", "problems": 2, "max_tokens": 8, "samples": 1},
    "compress.quantize": {
        "model": "train.sft", "data": "data.split", "parity_bytes": 5_000, "prompts": 2, "tokens": 8,
    },
    "trust.card": {"model": "train.sft", "reports": ["evaluate.heldout", "evaluate.completion"]},
    "trust.data_card": {"data": "data.dedup", "sample": 40, "topics": 3, "near": 0.7},
    "trust.gate": {
        "model": "train.sft", "reports": ["evaluate.heldout", "evaluate.completion"],
        "policy": "tests/contract/lenient.yaml",
    },
}  # fmt: skip
