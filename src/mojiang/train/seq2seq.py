"""Sequence to sequence: fine-tune T5, BART or Marian, or train an encoder–decoder from scratch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe, TokenizerRef
from mojiang.core.run import Run
from mojiang.train._settings import Compute, Length, Optim, Watch, check_one_start, rate_from_scratch

if TYPE_CHECKING:
    from pathlib import Path

    from mojiang.model.network import Network
    from mojiang.tokenizer.load import Tokenizer

HEAD_SIZE = 32  # of a transformer from scratch, where the width is a multiple of it


class Seq2Seq(Recipe):
    """Train a model to write a target for a source: translations, summaries, corrections.

    With `model`, a pre-trained encoder–decoder (T5, BART, Marian) is fine-tuned. Without, `architecture` names one that
    is trained from scratch on a `tokenizer`'s ids: an LSTM or GRU with attention, or a Marian-like transformer. Beside
    the loss, targets of the validation split are written greedily and compared by BLEU and chrF.

    When not to use: when a chat model can be asked to do it; give it the pairs as conversations (`sft`).
    Source: Sutskever et al. 2014 and Luong et al. 2015 (recurrent); Vaswani et al. 2017; Raffel et al. 2020 (T5).
    Example:
        >>> Seq2Seq(data="pairs", tokenizer="bpe", architecture="transformer", epochs=20).layers
        2
    """

    recipe: ClassVar[str] = "train.seq2seq"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    data: DatasetRef
    """Pairs of source and target, with their splits."""
    model: ModelRef | None = None
    """The pre-trained encoder–decoder to fine-tune."""
    tokenizer: TokenizerRef | None = None
    """The tokenizer of a network from scratch, for both sides."""
    architecture: Literal["lstm", "gru", "transformer"] | None = None
    """A network to train from scratch."""
    width: int = Field(256, ge=16, le=4096)
    """Size of embeddings and states of a network from scratch."""
    layers: int = Field(2, ge=1, le=48)
    """Layers of each side of a network from scratch."""
    prefix: str = ""
    """What every source begins with, for T5's tasks: `translate English to German: `."""
    context: int = Field(128, ge=8)
    """Longest source and longest target in tokens; longer ones lose their end, and are counted."""
    batch_size: int = Field(32, ge=1)
    """Pairs of an optimizer step."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Of the network; left out: as its config says."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of each target token's weight that is spread over the vocabulary."""
    written: int = Field(100, ge=0)
    """Sources of a measured split for which a target is written, for BLEU and chrF."""
    length: Length = Length(epochs=3)
    """How long."""
    optim: Optim = Optim(learning_rate=1e-4, weight_decay=0.01, beta2=0.98, warmup_steps=100, schedule="linear")
    """How a gradient becomes a step; from scratch at 1e-3 unless said otherwise."""
    compute: Compute = Compute(compile="off")
    """How the work is done."""
    watch: Watch = Watch(validations=3, keep_best=True)
    """What is looked at on the way."""

    @model_validator(mode="before")
    @classmethod
    def _faster_from_scratch(cls, values: Any) -> Any:
        return rate_from_scratch(values, 1e-3)

    @model_validator(mode="after")
    def _one_start(self) -> Seq2Seq:
        check_one_start(self.model, self.tokenizer, self.architecture)
        return self

    def run(self, run: Run) -> Metrics:
        """Encode, train, measure the test split, save."""
        from mojiang.model.load import load_model
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._audit import check_vocabulary
        from mojiang.train._pairs import Writing, encode_pairs
        from mojiang.train._supervised import fitting, read_splits, say_cut, set_dropout, train_on

        started = time.monotonic()
        origin = run.input("model" if self.model else "tokenizer").path
        tokenizer = load_tokenizer(origin)
        if self.model:
            model = load_model(origin, device=run.device, head="seq2seq_lm")
            check_vocabulary(tokenizer, model.config)
        else:
            model = self._from_scratch(tokenizer, origin).init_weights(run.seed).to(run.device)
        set_dropout(model, self.dropout)
        rows, context, end = read_splits(run, "pairs"), fitting(model, self.context), end_token(model)
        encoded = {split: encode_pairs(some, tokenizer, end, context, self.prefix) for split, some in rows.items()}
        say_cut(run, encoded, rows, f"pairs have a side longer than {context} tokens, which loses its end")
        splits = {split: examples for split, (examples, _) in encoded.items()}
        objective = Writing(tokenizer, self.label_smoothing, self.written, context, splits.get("validation"))
        return train_on(run, self, model, objective, splits, origin, started)

    def _from_scratch(self, tokenizer: Tokenizer, origin: Path) -> Network:
        from mojiang.model.marian import Marian, MarianConfig
        from mojiang.model.rnn_seq2seq import RNNSeq2Seq, RNNSeq2SeqConfig

        pad, end = tokenizer.special_id("pad"), tokenizer.special_id("eos")
        end = tokenizer.special_id("sep") if end is None else end
        if pad is None or end is None or pad == end:
            raise BadInput(
                f"the tokenizer of {origin} has no token to fill up rows, or none that ends a text",
                hint="name pad_token and eos_token in its tokenizer_config.json",
            )
        tokens: dict[str, Any] = {
            "vocab_size": tokenizer.vocab_size, "pad_token_id": pad, "eos_token_id": end, "decoder_start_token_id": pad,
        }  # fmt: skip
        if self.architecture != "transformer":
            cell: Literal["lstm", "gru"] = "gru" if self.architecture == "gru" else "lstm"
            shape: dict[str, Any] = {"embedding_size": self.width, "hidden_size": self.width, "num_layers": self.layers}
            return RNNSeq2Seq(RNNSeq2SeqConfig(**tokens, **shape, cell=cell))
        heads = self.width // HEAD_SIZE if self.width % HEAD_SIZE == 0 else 1
        sides: dict[str, Any] = {
            f"{side}_{what}": value for side in ("encoder", "decoder")
            for what, value in (("layers", self.layers), ("ffn_dim", 4 * self.width), ("attention_heads", heads))
        }  # fmt: skip
        # Embeddings of unit size beside positions of unit size, and logits of unit size from the tied projection.
        config = MarianConfig(
            **tokens, **sides, d_model=self.width, forced_eos_token_id=end, scale_embedding=True,
            init_std=self.width**-0.5, max_position_embeddings=max(512, self.context),
        )  # fmt: skip
        return Marian(config)


def end_token(model: Network) -> int:
    """What ends a target of this model."""
    ends: tuple[int, ...] = model.end_tokens  # type: ignore[assignment]
    if not ends:
        raise BadInput("the model's config.json names no eos_token_id", hint="a model that writes has to know when")
    return ends[0]
