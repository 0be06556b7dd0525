"""One small folder per kind of tokenizer, in the files that models of that kind come with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "def add(self, a: int) -> int:\n    return self.total + a  # it's 12345\n\n\n\tx\r\n",
    "我们的工作是训练语言模型，不是吗？春眠不觉晓，处处闻啼鸟。" * 3,
    "  leading, trailing  \n \n mixed 中英文 text's 'self' “quotes” — …  ",
    "नमस्ते दुनिया, Привет, 👨‍👩‍👧 e\u0301 \u3000\u00a0",
    "The weather in Paris is nice today, and Café Noir opens at 9:30!",
    "",
]
CORPUS = [*TEXTS, Path(json.__file__).read_text(encoding="utf-8")]
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What a user may write to end a turn, by kind.
CONTROL = {
    "gpt2": ["<|endoftext|>"],
    "llama3": ["<|begin_of_text|>", "<|eot_id|>"],
    "llama2": ["<s>", "</s>"],
    "mistral": ["<s>", "</s>", "[INST]"],
    "bert": ["[CLS]", "[SEP]", "[MASK]", "[PAD]"],
    "t5": ["</s>", "<pad>", "<extra_id_0>"],
}


def _byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=700, special_tokens=special, show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )  # fmt: skip
    return tokenizer


def _gpt2() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = _byte_level(["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer, {"model_max_length": 1024}  # the original's says nothing more; config.json does


def _llama3() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = _byte_level(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    spec = json.loads(tokenizer.to_str())
    spec["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    cut = pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, byte_level])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
        special_tokens=[("<|begin_of_text|>", 0)],
    )  # fmt: skip
    return tokenizer, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}


def _sentencepiece_bpe(special: list[str]) -> Tokenizer:
    """SentencePiece's BPE with byte fallback, as converted by `transformers`."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, show_progress=False))
    model = json.loads(learner.to_str())["model"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    merges = [tuple(merge) for merge in model["merges"]]
    vocab = {token: id for id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _llama2() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = _sentencepiece_bpe(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}


def _mistral() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = _sentencepiece_bpe(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def _bert() -> tuple[Tokenizer, dict[str, Any]]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer, {"do_lower_case": True}  # bert-base's own file names no special token


def _t5() -> tuple[Tokenizer, dict[str, Any]]:
    special = ["<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_1>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return tokenizer, {**names, "additional_special_tokens": special[3:]}


MAKERS = {"gpt2": _gpt2, "llama3": _llama3, "llama2": _llama2, "mistral": _mistral, "bert": _bert, "t5": _t5}


@pytest.fixture(scope="session")
def texts_of_all_kinds() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def control() -> dict[str, list[str]]:
    """Control tokens of each kind."""
    return CONTROL


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer folder of each kind."""
    made = {}
    for kind, make in MAKERS.items():
        folder = tmp_path_factory.mktemp(kind)
        tokenizer, config = make()
        (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        made[kind] = folder
    (made["gpt2"] / "config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 0}))
    (made["bert"] / "config.json").write_text(json.dumps({"pad_token_id": 0}))
    stops = {"bos_token_id": 0, "eos_token_id": [1, 2]}
    (made["llama3"] / "generation_config.json").write_text(json.dumps(stops))
    return made
