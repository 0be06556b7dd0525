"""Recurrent encoder-decoder with attention: a source is read in both directions, a target is written looking at it.

`attention` is `bahdanau` (Bahdanau et al. 2015: additive, before each step, whose input it is part of) or `luong`
(Luong et al. 2015: bilinear "general" attention, after the recurrence, without input feeding, so that training
computes all positions at once). Both start from the mean of the source's states (Sennrich et al. 2017), so the memory
is all that the decoder needs of the encoder.

Tensor names carry their shape:
    B rows of the source · R rows of the target: B, or B × beams while decoding
    S source positions · T target positions
    N pairs of source and target · I and L positions of the longest source and target among them
    E embedding size · D features of the memory · H state size · A attention size · Q queries · K recurrent layers
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._attention import span_numbers
from mojiang.model._layers import Dropout, Embedding, Linear
from mojiang.model._seq2seq import DecoderCache, Seq2Seq
from mojiang.model._sequences import CELLS, Cell, Recurrence, init_parameter, pool, repack, spans_of, unpack
from mojiang.model.network import Head, HFConfig

AttentionKind = Literal["bahdanau", "luong"]
States = tuple[Tensor, Tensor]
"""Hidden and cell states of all layers, (K, N, H) both; a GRU has no cell state, its second is its first."""


@dataclass(frozen=True)
class RNNSeq2SeqConfig(HFConfig):
    """The shape of a recurrent encoder-decoder. `hidden_size` is the state's size in one direction."""

    MODEL_TYPE: ClassVar[str] = "rnn_seq2seq"
    CLASSES: ClassVar[dict[str, str]] = {"seq2seq_lm": "MojiangRNNSeq2Seq"}

    vocab_size: int
    embedding_size: int = 256
    hidden_size: int = 256
    num_layers: int = 1
    cell: Cell = "lstm"
    attention: AttentionKind = "luong"
    dropout: float = 0.2
    pad_token_id: int = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    head: Head = field(default="seq2seq_lm", kw_only=True)

    def check(self) -> None:
        """Raise `BadInput` for an unknown cell or attention."""
        if self.cell not in CELLS:
            raise BadInput(f"cell is {self.cell!r}", hint=f"known are {', '.join(CELLS)}")
        if self.attention not in get_args(AttentionKind):
            raise BadInput(f"attention is {self.attention!r}", hint=f"known are {', '.join(get_args(AttentionKind))}")


class Attention(nn.Module):
    """Weights over the source from a state of the decoder; additive or bilinear."""

    def __init__(self, config: RNNSeq2SeqConfig) -> None:
        super().__init__()
        self.key = Linear(2 * config.hidden_size, config.hidden_size)
        self.additive = config.attention == "bahdanau"
        if self.additive:
            self.query = Linear(config.hidden_size, config.hidden_size, bias=True)
            self.energy = Linear(config.hidden_size, 1)

    def forward(self, queries_BQH: Tensor, keys_BSA: Tensor, memory_BSD: Tensor, visible_BS: Tensor) -> Tensor:
        """What each query reads of the memory, (B, Q, D). `keys_BSA` is `key` of the memory."""
        if self.additive:
            sum_BQSA = self.query(queries_BQH)[:, :, None] + keys_BSA[:, None]
            scores_BQS: Tensor = self.energy(torch.tanh(sum_BQSA))[..., 0]
        else:
            scores_BQS = queries_BQH @ keys_BSA.mT
        weights_BQS = scores_BQS.float().masked_fill(~visible_BS[:, None], -torch.inf).softmax(-1)
        return weights_BQS.to(memory_BSD.dtype) @ memory_BSD


class RNNSeq2Seq(Seq2Seq):
    """A model that reads a source and writes a target.

    >>> model = RNNSeq2Seq(RNNSeq2SeqConfig(vocab_size=50, embedding_size=8, hidden_size=4)).init_weights(seed=0)
    >>> memory_BSD = model.encode(torch.ones(2, 9, dtype=torch.long))
    >>> hidden_BTD = model.decode(torch.zeros(2, 5, dtype=torch.long), memory_BSD)
    >>> tuple(memory_BSD.shape), tuple(model.logits(hidden_BTD).shape)
    ((2, 9, 8), (2, 5, 50))
    """

    CONFIG = RNNSeq2SeqConfig
    config: RNNSeq2SeqConfig

    def __init__(self, config: RNNSeq2SeqConfig) -> None:
        super().__init__(config)
        E, H = config.embedding_size, config.hidden_size
        feeds = config.attention == "bahdanau"
        self.embedding = Embedding(config.vocab_size, E)
        self.encoder = Recurrence(config.cell, E, H, config.num_layers, bidirectional=True)
        self.start = Linear(2 * H, config.num_layers * H, bias=True)
        self.decoder = CELLS[config.cell](E + 2 * H * feeds, H, config.num_layers, batch_first=True)
        self.attention = Attention(config)
        self.out = Linear(3 * H + E * feeds, H, bias=True)
        self.lm_head = Linear(H, config.vocab_size, bias=True)
        self.source_dropout, self.target_dropout = Dropout(config.dropout), Dropout(config.dropout)
        self.dropout = Dropout(config.dropout)

    def blocks(self) -> list[nn.Module]:
        """None: a recurrence is one fused kernel already, which a compiler would only take apart."""
        return []

    @property
    def head(self) -> nn.Linear:
        """The vocabulary projection."""
        return self.lm_head

    def encode(self, tokens_BS: Tensor, mask: Tensor | None = None, positions_BS: Tensor | None = None) -> Tensor:
        """The memory (B, S, D), 0 outside the sources. `mask`: boolean, one run of True per row, or spans (N, 3).

        There are no positions in a recurrence: `positions_BS` changes nothing.
        """
        spans_N3 = spans_of(mask, tokens_BS)
        x_NIE, valid_NI = unpack(self.source_dropout(self.embedding(tokens_BS, self.compute_dtype)), spans_N3)
        return repack(self.encoder(x_NIE, valid_NI), valid_NI, spans_N3, tokens_BS)

    def decode(
        self,
        inputs_RT: Tensor,
        memory_BSD: Tensor,
        mask: Tensor | None = None,
        *,
        target_mask: Tensor | None = None,
        positions_RT: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Final hidden states (R, T, H) of a target's inputs. Positions change nothing.

        Args:
            mask: of the source, as for `encode`.
            target_mask: boolean, one run of True per row, or spans; the n-th target answers the n-th source.
            cache: the states so far. T is 1 then, `target_mask` is not used, and R may be B × beams.

        Raises:
            BadInput: other numbers of sources and targets.
        """
        x_RTE = self.target_dropout(self.embedding(inputs_RT, self.compute_dtype))
        sources_N3 = spans_of(mask, memory_BSD)
        if cache is not None:
            visible_BS = span_numbers(sources_N3, *memory_BSD.shape[:2]) > 0
            return self._decode_step(x_RTE, memory_BSD, visible_BS, cache)
        memory_NID, visible_NI = unpack(memory_BSD, sources_N3)
        targets_N3 = spans_of(target_mask, inputs_RT)
        if len(sources_N3) != len(targets_N3):
            raise BadInput(
                f"there are {len(sources_N3)} sources and {len(targets_N3)} targets",
                hint="the n-th target answers the n-th source",
            )
        x_NLE, valid_NL = unpack(x_RTE, targets_N3)
        keys_NIA = self.attention.key(memory_NID)
        hidden_NLH, _ = self._run(x_NLE, self._first_states(memory_NID, visible_NI), keys_NIA, memory_NID, visible_NI)
        hidden_RTH: Tensor = self.dropout(repack(hidden_NLH, valid_NL, targets_N3, inputs_RT))
        return hidden_RTH

    def _decode_step(self, x_R1E: Tensor, memory_BSD: Tensor, visible_BS: Tensor, cache: DecoderCache) -> Tensor:
        """One position, its states read from and written to the cache: as the keys and values of one head."""
        layers = [cache.layer(number) for number in range(self.config.num_layers)]
        before = [state for layer in layers if (state := layer.newest())]
        if not before:
            beams = len(x_R1E) // len(memory_BSD)
            hidden_KBH, cell_KBH = self._first_states(memory_BSD, visible_BS)
            states = (hidden_KBH.repeat_interleave(beams, 1), cell_KBH.repeat_interleave(beams, 1))
        else:
            states = (torch.stack([h[:, 0] for h, _ in before]), torch.stack([c[:, 0] for _, c in before]))
        keys_BSA = layers[0].source(lambda: (self.attention.key(memory_BSD),) * 2)[0]
        hidden_R1H, after = self._run(x_R1E, states, keys_BSA, memory_BSD, visible_BS)
        for layer, hidden_RH, cell_RH in zip(layers, *after, strict=True):
            layer.append(hidden_RH[:, None, None], cell_RH[:, None, None])
        return hidden_R1H

    def _first_states(self, memory_NID: Tensor, visible_NI: Tensor) -> States:
        mean_ND = pool(memory_NID.float(), visible_NI, "mean")
        hidden_KNH = torch.tanh(self.start(mean_ND)).view(len(mean_ND), self.config.num_layers, -1).transpose(0, 1)
        return hidden_KNH.contiguous(), torch.zeros_like(hidden_KNH)

    def _run(
        self, x_RLE: Tensor, states: States, keys_BSA: Tensor, memory_BSD: Tensor, visible_BS: Tensor
    ) -> tuple[Tensor, States]:
        """The decoder over all inputs, (R, L, H), and its states after the last."""

        def read(queries_RQH: Tensor) -> Tensor:
            # the beams of one source stand side by side: their queries are queries to one memory
            queries_BQH = queries_RQH.reshape(len(memory_BSD), -1, queries_RQH.shape[-1]).to(memory_BSD.dtype)
            context_BQD: Tensor = self.attention(queries_BQH, keys_BSA, memory_BSD, visible_BS)
            return context_BQD.view(len(queries_RQH), -1, context_BQD.shape[-1])

        features: list[Tensor]
        if self.config.attention == "luong":
            y_RLH, states = self._step(x_RLE, states)
            features = [y_RLH.to(x_RLE.dtype), read(y_RLH)]
        else:
            ys, contexts = [], []
            for x_R1E in x_RLE[:, :, None].unbind(1):
                contexts.append(read(states[0][-1][:, None]))
                y_R1H, states = self._step(torch.cat([x_R1E, contexts[-1]], dim=-1), states)
                ys.append(y_R1H)
            features = [torch.cat(ys, dim=1).to(x_RLE.dtype), torch.cat(contexts, dim=1), x_RLE]
        return torch.tanh(self.out(torch.cat(features, dim=-1))), states

    def _step(self, x_RLE: Tensor, states: States) -> tuple[Tensor, States]:
        """The recurrence, in fp32."""
        if self.config.cell == "lstm":
            y_RLH, after = self.decoder(x_RLE.float(), states)
            return y_RLH, after
        y_RLH, hidden_KRH = self.decoder(x_RLE.float(), states[0])
        return y_RLH, (hidden_KRH, hidden_KRH)

    def head_names(self) -> set[str]:
        """The vocabulary projection's."""
        return {name for name in self.state_dict() if name.startswith("lm_head.")}

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As all networks without attention begin."""
        init_parameter(name, parameter, generator, self.config.cell)
