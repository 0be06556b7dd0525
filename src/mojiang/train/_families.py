"""Families of models: which objective trains which, and a new model of a family in a given size.

Nothing heavy is imported until a model is made, so that a recipe can look a family up while it checks its settings.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mojiang.core.errors import BadInput

if TYPE_CHECKING:
    from mojiang.model.network import Head, Network
    from mojiang.tokenizer.load import Tokenizer
    from mojiang.train._plan import Shape

ObjectiveName = Literal[
    "causal", "masked", "masked_nsp", "masked_sop", "replaced_token", "span_corruption", "denoising"
]
FamilyName = Literal[
    "qwen3", "llama", "qwen2", "gpt2", "qwen3_moe", "bert", "roberta", "albert", "electra", "distilbert", "t5", "bart"
]

DECODERS = ("qwen3", "llama", "qwen2", "gpt2", "qwen3_moe")
SEQ2SEQ = ("t5", "bart")
ENCODERS = ("bert", "roberta", "albert", "electra", "distilbert")
TRAINS: dict[str, tuple[Head, tuple[str, ...]]] = {
    "causal": ("causal_lm", DECODERS),
    "masked": ("masked_lm", ENCODERS),
    "masked_nsp": ("pretraining", ("bert", "albert")),
    "masked_sop": ("pretraining", ("albert", "bert")),
    "replaced_token": ("pretraining", ("electra",)),
    "span_corruption": ("seq2seq_lm", ("t5", "bart")),
    "denoising": ("seq2seq_lm", ("bart", "t5")),
}
"""Objective → the head it needs, and the families that have it, the usual one first."""
HEAD_DIM = 64
EXPERTS, CHOSEN = 8, 2
"""Of a new mixture: so many experts, of which a token uses two, together as wide as a dense layer would be."""


def check_family(objective: str, family: str) -> None:
    """Refuse an objective that a family cannot be trained for.

    Raises:
        BadInput: naming the families that it trains, and the objectives that train this one.
    """
    families = TRAINS[objective][1]
    if family not in families:
        others = [name for name, (_, known) in TRAINS.items() if family in known]
        raise BadInput(
            f"objective {objective} trains {', '.join(families)}, not {family}",
            hint=f"for {family} take objective={' or '.join(others)}" if others else "take a model of these families",
        )


def new_model(
    family: str, objective: str, shape: Shape, vocab_size: int, context: int, tokenizer: Tokenizer
) -> Network:
    """A network of a family with arbitrary weights, with the head that the objective trains.

    An encoder–decoder gets `shape`'s layers on either side. The vocabulary is padded to a multiple of 64 for the matrix
    units, and learned positions to one that padded batches have.
    """
    from mojiang.model.architectures import build
    from mojiang.model.decoder import Decoder
    from mojiang.train._batches import PAD_TO

    if family in DECODERS and family != "gpt2":
        config = shape.config(vocab_size, context, tokenizer.eos_id, tokenizer.pad_id)
        mixture: dict[str, Any] = {
            "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "norm_topk_prob": True,
            "moe_intermediate_size": config.intermediate_size // CHOSEN,
        }  # fmt: skip
        return Decoder(replace(config, model_type=family, **(mixture if family == "qwen3_moe" else {})))
    settings = _settings(family, shape.hidden_size, shape.num_layers, -(-context // PAD_TO) * PAD_TO)
    settings |= {"model_type": family, "vocab_size": -(-vocab_size // 64) * 64, **_special(family, tokenizer)}
    if family == "roberta":
        settings["max_position_embeddings"] += settings["pad_token_id"] + 1  # its texts begin behind padding's
    model = build(settings, TRAINS[objective][0])
    return with_generator(model) if objective == "replaced_token" else model


def _settings(family: str, width: int, depth: int, context: int) -> dict[str, Any]:
    """The size of a model in the words of its `config.json`."""
    heads, inner = max(1, width // HEAD_DIM), 4 * width
    if family == "gpt2":
        return {"n_positions": context, "n_embd": width, "n_layer": depth, "n_head": heads}
    if family == "t5":
        # As v1.1: gated, where three projections of 8/3 hold as many weights as two of 4, and with a vocabulary
        # projection of its own, which learns faster than the embeddings (5.02 against 5.45 nats after 250 steps).
        inner = -(-8 * width // 3 // HEAD_DIM) * HEAD_DIM
        sizes: dict[str, Any] = {"d_model": width, "d_kv": HEAD_DIM, "d_ff": inner, "num_layers": depth}
        return {**sizes, "num_heads": heads, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    if family == "bart":
        sides = {"layers": depth, "attention_heads": heads, "ffn_dim": inner}
        both = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sides.items()}
        return {**both, "d_model": width, "max_position_embeddings": context}
    if family == "distilbert":
        sizes = {"dim": width, "hidden_dim": inner, "n_layers": depth, "n_heads": heads}
        return {**sizes, "max_position_embeddings": context}
    settings = {
        "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": inner,
        "max_position_embeddings": context,
    }  # fmt: skip
    if family in ("albert", "electra"):
        settings["embedding_size"] = min(width, 128) if family == "albert" else width
    return settings


def _special(family: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """Ids of special tokens, in the words of `config.json`."""
    pad = tokenizer.special_id("pad")
    if family == "gpt2":
        return {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": pad}
    if family in SEQ2SEQ:
        end = end_id(tokenizer)
        ids: dict[str, Any] = {"pad_token_id": tokenizer.pad_id, "eos_token_id": end}
        if family == "t5":
            return {**ids, "decoder_start_token_id": tokenizer.pad_id}
        begin = first_id(tokenizer, "bos", "cls")
        return {**ids, "bos_token_id": begin, "decoder_start_token_id": end, "forced_eos_token_id": end}
    if family == "roberta":
        ids = {"bos_token_id": first_id(tokenizer, "bos", "cls"), "eos_token_id": first_id(tokenizer, "eos", "sep")}
        return {**ids, "pad_token_id": tokenizer.pad_id}
    return {"pad_token_id": pad, "bos_token_id": None, "eos_token_id": None}


def first_id(tokenizer: Tokenizer, *roles: str) -> int | None:
    """Id of the token with the first of these roles that the tokenizer has."""
    return next((id for role in roles if (id := tokenizer.special_id(role)) is not None), None)


def end_id(tokenizer: Tokenizer) -> int:
    """Id of the token that ends a text: `eos`, or BERT's `sep`.

    Raises:
        BadInput: the tokenizer names neither.
    """
    end = first_id(tokenizer, "eos", "sep")
    return tokenizer.eos_id if end is None else end


def with_generator(discriminator: Any, folder: Path | None = None) -> Network:
    """ELECTRA's discriminator together with its generator: the one in `folder`, or a new one a quarter as wide."""
    from mojiang.model.electra import Electra
    from mojiang.model.load import load_model
    from mojiang.train._pretraining import Replacing

    if folder is not None:
        generator: Any = load_model(folder, head="masked_lm")
        return Replacing(generator, discriminator)
    config = discriminator.config
    heads = max(1, config.num_attention_heads // 4)
    small = replace(
        config, head="masked_lm", num_attention_heads=heads,
        hidden_size=config.hidden_size // config.num_attention_heads * heads,
        intermediate_size=config.intermediate_size * heads // config.num_attention_heads,
    )  # fmt: skip
    return Replacing(Electra(small).init_weights(0), discriminator)


def load_for(objective: str, folder: Path, tokenizer: Tokenizer, context: int, log: Any) -> Network:
    """The model of a folder with the head that the objective trains.

    Raises:
        BadInput: its family has no such head, it has fewer embeddings than the tokenizer ids, or fewer positions than
            `context`.
    """
    from mojiang.model.load import load_model, read_config
    from mojiang.train._audit import check_vocabulary
    from mojiang.train._batches import PAD_TO

    family = str(read_config(folder).get("model_type"))
    model = load_model(folder, head=TRAINS[objective][0])
    check_vocabulary(tokenizer, model.config)
    if family in ("gpt2", "bart", *ENCODERS):  # those with learned positions
        limit = model.config.max_position_embeddings - getattr(model.config, "first_position", 0)
        if context > (limit := limit // PAD_TO * PAD_TO):
            raise BadInput(f"context is {context}, and the model has {limit} positions", hint=f"give context={limit}")
    if objective != "replaced_token":
        return model
    there = (folder / "generator" / "config.json").exists()
    if not there:
        log("the model comes without its generator; a new one is trained beside it")
    return with_generator(model, folder / "generator" if there else None)
