"""Roles of special tokens: what each folder's own files say, and nothing that they do not say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mojiang.core.errors import BadInput
from mojiang.tokenizer._special import ROLES
from mojiang.tokenizer.load import load_tokenizer

NAMED = {
    "gpt2": {"bos": "<|endoftext|>", "eos": "<|endoftext|>"},  # ids in config.json
    "llama3": {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>"},
    "llama2": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "mistral": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "bert": {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
    "t5": {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
}


@pytest.mark.parametrize("kind", NAMED)
def test_roles_are_what_the_files_say(kind: str, folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(folders[kind])
    found = {role: tokenizer.token(id) for role in ROLES if (id := tokenizer.special_id(role)) is not None}
    assert found == NAMED[kind]
    for role in ROLES:
        if role in NAMED[kind]:
            assert getattr(tokenizer, f"{role}_id") == tokenizer.token_id(NAMED[kind][role])
        else:
            with pytest.raises(BadInput, match=f"no {role} token"):
                getattr(tokenizer, f"{role}_id")


def test_roles_are_those_of_transformers(folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    for kind in ("llama3", "llama2", "mistral", "t5"):
        peer, tokenizer = AutoTokenizer.from_pretrained(str(folders[kind])), load_tokenizer(folders[kind])
        assert [tokenizer.special_id(role) for role in ROLES] == [getattr(peer, f"{role}_token_id") for role in ROLES]


def test_what_ends_an_answer_and_what_begins_a_text(folders: dict[str, Path]) -> None:
    llama, gpt2, t5 = (load_tokenizer(folders[kind]) for kind in ("llama3", "gpt2", "t5"))
    assert llama.stop_ids == {1, 2}  # generation_config.json has both
    assert (llama.start_ids, gpt2.start_ids, t5.start_ids) == ([0], [0], [])
    assert load_tokenizer(folders["bert"]).stop_ids == set()


def copied(folder: Path, to: Path, **config: Any) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    (to / "tokenizer_config.json").write_text(json.dumps(config))
    return to


def test_a_token_only_the_config_calls_special_is_special(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["gpt2"], tmp_path, eos_token={"content": "the", "lstrip": False}, pad_token=" nowhere")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_id in tokenizer.special_ids
    assert tokenizer.eos_id not in tokenizer.encode("the weather")
    assert tokenizer.decode(tokenizer.encode("the weather")) == "the weather"
    assert tokenizer.special_id("pad") is None  # not in the vocabulary, so it has no id


def test_tokens_that_only_the_config_adds_get_their_ids(folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    size = load_tokenizer(folders["gpt2"]).vocab_size
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    added = {
        str(size): {"content": "<|im_start|>", "special": True, **flags},
        str(size + 1): {"content": "<tool>", "special": False, **flags},
    }
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": added}
    folder = copied(folders["gpt2"], tmp_path, **config)
    tokenizer, peer = load_tokenizer(folder), AutoTokenizer.from_pretrained(str(folder))
    assert (tokenizer.token_id("<|im_start|>"), tokenizer.token_id("<tool>")) == (size, size + 1)
    assert tokenizer.vocab_size == len(peer) == size + 2
    assert tokenizer.encode("a<tool>") == peer.encode("a<tool>", add_special_tokens=False)
    config["added_tokens_decoder"] = {str(size + 5): added[str(size)]}
    with pytest.raises(BadInput, match=f"says that '<|im_start|>' is token {size + 5}"):
        load_tokenizer(copied(folders["gpt2"], tmp_path, **config))


def test_old_folders_name_their_tokens_in_a_map(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["llama2"], tmp_path)
    names = {"eos_token": {"content": "</s>"}, "pad_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.eos_id, tokenizer.pad_id) == (2, 0)
    (folder / "special_tokens_map.json").write_text("[]")
    with pytest.raises(BadInput, match="holds no JSON object"):
        load_tokenizer(folder)
