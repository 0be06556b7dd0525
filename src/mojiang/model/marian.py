"""Marian (Junczys-Dowmunt et al. 2018), the family of the OPUS-MT translators (Tiedemann & Thottingal 2020).

BART's layers on sinusoidal positions, sines in the first half and cosines in the second, and no norm in front of them.
Source and target share one embedding, or each side has its own vocabulary.

Tensor names: B rows · S source positions · T target positions · D hidden size
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._layers import Dropout, Embedding
from mojiang.model._positions import sinusoidal_table
from mojiang.model._seq2seq import DecoderCache
from mojiang.model.bart import Bart, Layer, Seq2SeqShape, run_layers
from mojiang.model.network import Head, HFConfig


@dataclass(frozen=True)
class MarianConfig(Seq2SeqShape):
    """The shape of a Marian, in the words of its `config.json`."""

    MODEL_TYPE: ClassVar[str] = "marian"
    CLASSES: ClassVar[dict[str, str]] = {"seq2seq_lm": "MarianMTModel"}

    vocab_size: int = 58_101
    decoder_vocab_size: int | None = None
    share_encoder_decoder_embeddings: bool = True
    pad_token_id: int = 58_100
    bos_token_id: int | None = None
    eos_token_id: int | list[int] = 0
    decoder_start_token_id: int | None = 58_100
    forced_eos_token_id: int | list[int] | None = 0

    @classmethod
    def from_hf(cls, config: dict[str, Any], head: Head = "seq2seq_lm", num_labels: int | None = None) -> Self:
        """See `HFConfig.from_hf`."""
        return super().from_hf(config, head, num_labels)

    def check(self) -> None:
        """Raise `BadInput` for what is not computed."""
        super().check()
        if self.share_encoder_decoder_embeddings and not self.tie_word_embeddings:
            raise BadInput(
                "config.json asks for share_encoder_decoder_embeddings and for tie_word_embeddings=false",
                hint="a shared embedding is the vocabulary projection, too",
            )


class Stack(nn.Module):
    """The layers of one side."""

    def __init__(self, config: MarianConfig, decoder: bool) -> None:
        super().__init__()
        layers = config.decoder_layers if decoder else config.encoder_layers
        vocab = config.decoder_vocab_size if decoder and config.decoder_vocab_size else config.vocab_size
        if not config.share_encoder_decoder_embeddings:
            self.embed_tokens = Embedding(vocab, config.d_model, config.pad_token_id)
        self.layers = nn.ModuleList([Layer(config, decoder) for _ in range(layers)])
        self.dropout = Dropout(config.dropout)
        self._shape = (config.max_position_embeddings, config.d_model)
        self._table: Tensor | None = None

    def forward(
        self,
        x_BTD: Tensor,
        positions_BT: Tensor,
        mask: Tensor | None,
        memory_BSD: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Final states (B, T, D) for the vectors of tokens."""
        # No buffer: it is not in checkpoints, and a buffer made on the meta device would have no values to move.
        if self._table is None or self._table.device != x_BTD.device:
            self._table = sinusoidal_table(*self._shape).to(x_BTD.device)
        x_BTD = x_BTD + self._table[positions_BT].to(x_BTD.dtype)
        return run_layers(self.layers, self.dropout(x_BTD), mask, memory_BSD, memory_mask, cache)


class Stacks(nn.Module):
    """Both sides and the embedding they share, if they do: what Hugging Face calls `model.*`."""

    def __init__(self, config: MarianConfig) -> None:
        super().__init__()
        self.shared = (
            Embedding(config.vocab_size, config.d_model, config.pad_token_id)
            if config.share_encoder_decoder_embeddings
            else None
        )
        self.encoder = Stack(config, decoder=False)
        self.decoder = Stack(config, decoder=True)

    def tables(self) -> tuple[Embedding, Embedding]:
        """The token embeddings of the encoder and of the decoder."""
        if self.shared is not None:
            return self.shared, self.shared
        return self.encoder.embed_tokens, self.decoder.embed_tokens


class Marian(Bart):
    """A Marian translator. Padding, which also starts a translation, is never written.

    >>> shape = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    >>> sizes = {"vocab_size": 64, "d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    >>> Marian(MarianConfig(**sizes, **shape, pad_token_id=63, decoder_start_token_id=63)).start_token
    63
    """

    CONFIG: ClassVar[type[HFConfig]] = MarianConfig
    STACKS: ClassVar[Any] = Stacks

    @property
    def never_written(self) -> tuple[int, ...]:
        """Padding: its embedding is zero, so that its score would be one of the best where all are negative."""
        return (self.config.pad_token_id,)
