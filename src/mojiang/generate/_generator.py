"""A model of ours as the `Generator` that data work asks for: prompts in, texts out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mojiang.core.errors import BadInput
from mojiang.core.protocols import Generator
from mojiang.generate._seq2seq import translate_tokens
from mojiang.generate.engine import Engine, GenerationRequest, Sampling
from mojiang.model._seq2seq import Seq2Seq
from mojiang.model.architectures import resolve
from mojiang.model.load import load_model, read_config
from mojiang.model.network import Network
from mojiang.tokenizer.load import Tokenizer, load_tokenizer


class CausalGenerator:
    """A decoder that answers prompts in its chat template where it has one, and continues them where it has none."""

    def __init__(self, model: Network, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer

    def generate(self, prompts: Sequence[str], *, max_tokens: int, temperature: float, seed: int) -> list[str]:
        """One answer for each prompt; a prompt that is too long loses its beginning."""
        tokenizer = self._tokenizer
        room = max(1, self._model.config.max_position_embeddings - max_tokens - 1)
        with Engine(self._model, tokenizer) as engine:
            streams = []
            for number, prompt in enumerate(prompts):
                ids = tokenizer.start_ids + tokenizer.encode(prompt)
                if tokenizer.chat_template is not None:
                    ids = tokenizer.render_chat([{"role": "user", "content": prompt}], add_generation_prompt=True)
                sampling = Sampling(temperature=temperature, seed=seed + number)
                request = GenerationRequest(tuple(ids[-room:]), max_tokens=max_tokens, sampling=sampling)
                streams.append(engine.submit(request, wait=True))
            return [stream.result().text.strip() for stream in streams]


class Seq2SeqGenerator:
    """An encoder-decoder: a prompt is its source, the answer its target, written greedily."""

    def __init__(self, model: Seq2Seq, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer

    def generate(self, prompts: Sequence[str], *, max_tokens: int, temperature: float, seed: int) -> list[str]:
        """One target for each source; a source that is too long loses its end."""
        limit = getattr(self._model.config, "max_position_embeddings", None) or 512
        end = getattr(self._model.config, "eos_token_id", None)
        end = self._tokenizer.eos_id if end is None else end
        sources = []
        for prompt in prompts:
            ids = self._tokenizer.encode(prompt)[: limit - self._tokenizer.frame_size(False) - 1]
            tokens, _ = self._tokenizer.frame(ids)
            sources.append(tokens if tokens[-1:] == [end] else [*tokens, end])
        written = translate_tokens(self._model, sources, min(max_tokens, limit - 1))
        return [self._tokenizer.decode(tokens).strip() for tokens in written]


def open_generator(path: Path, device: str) -> Generator:
    """The model in a folder as a generator.

    Raises:
        BadInput: it is a model that writes nothing, such as a classifier.
    """
    head = resolve(read_config(path))[1]
    if head == "causal_lm":
        return CausalGenerator(load_model(path, device), load_tokenizer(path))
    model = load_model(path, device) if head == "seq2seq_lm" else None
    if not isinstance(model, Seq2Seq):
        raise BadInput(
            f"the model in {path} has head {head!r} and writes no text",
            hint="give a causal model or an encoder-decoder",
        )
    return Seq2SeqGenerator(model, load_tokenizer(path))
