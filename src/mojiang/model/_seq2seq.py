"""What encoder–decoder models share: encode once, decode with a cache, and who sees whom between the two.

Tensor names: B rows of the source · R rows of the target: B, or B × beams while decoding · S source positions
T target positions · D hidden size · H heads · E head dimension · V vocabulary · C labels
N spans (row, start, stop), one text each
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._attention import attend, key_mask, span_numbers
from mojiang.model._layers import Dropout, Linear
from mojiang.model.network import Head, HFConfig, Network
from mojiang.tokenizer._pack import IGNORE

KeysValues = tuple[Tensor, Tensor]


class LayerCache:
    """Keys and values of one decoder layer: of the positions decoded so far, and of the source.

    The source's are kept once for all beams of a source, whose queries then stand side by side: beams cost no memory
    there, and reordering them moves nothing.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._own: KeysValues | None = None
        self._source: KeysValues | None = None

    def append(self, k_RHTE: Tensor, v_RHTE: Tensor) -> KeysValues:
        """Add this step's keys and values; returns those of every position so far."""
        R, H, T, E = k_RHTE.shape
        if self._own is None:
            self._own = (k_RHTE.new_empty(R, H, self.capacity, E), v_RHTE.new_empty(R, H, self.capacity, E))
        first, self.length = self.length, self.length + T
        for slab, new in zip(self._own, (k_RHTE, v_RHTE), strict=True):
            slab[:, :, first : self.length] = new
        return self._own[0][:, :, : self.length], self._own[1][:, :, : self.length]

    def newest(self) -> KeysValues | None:
        """Keys and values (R, H, E) of the newest position; None before the first."""
        return None if self._own is None else (self._own[0][:, :, self.length - 1], self._own[1][:, :, self.length - 1])

    def source(self, project: Callable[[], KeysValues]) -> KeysValues:
        """Keys and values of the source; `project` computes them the first time."""
        if self._source is None:
            self._source = project()
        return self._source

    def select(self, rows_R: Tensor, sources_B: Tensor | None) -> None:
        """Go on with these rows, in this order, and with these sources (None: with all of them)."""
        if self._own is not None:
            self._own = (self._rows(self._own[0], rows_R), self._rows(self._own[1], rows_R))
        if self._source is not None and sources_B is not None:
            self._source = (self._source[0][sources_B], self._source[1][sources_B])

    def _rows(self, slab: Tensor, rows_R: Tensor) -> Tensor:
        chosen = slab.new_empty(len(rows_R), *slab.shape[1:])
        chosen[:, :, : self.length] = slab[rows_R, :, : self.length]  # what is beyond is not written yet
        return chosen


class DecoderCache:
    """Keys and values of a batch that is being decoded, for at most `capacity` positions."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._layers: list[LayerCache] = []

    @property
    def length(self) -> int:
        """Positions decoded so far."""
        return self._layers[0].length if self._layers else 0

    def layer(self, number: int) -> LayerCache:
        """The part of one decoder layer."""
        while len(self._layers) <= number:
            self._layers.append(LayerCache(self.capacity))
        return self._layers[number]

    def select(self, rows_R: Tensor, sources_B: Tensor | None = None) -> None:
        """Go on with these rows, in this order, and with these sources (None: with all of them)."""
        for layer in self._layers:
            layer.select(rows_R, sources_B)


def split_heads(x_BTD: Tensor, head_dim: int) -> Tensor:
    """(B, T, H · E) → (B, H, T, E)."""
    B, T, _ = x_BTD.shape
    return x_BTD.view(B, T, -1, head_dim).transpose(1, 2)


def merge_heads(x_BHTE: Tensor) -> Tensor:
    """(B, H, T, E) → (B, T, H · E)."""
    B, _, T, _ = x_BHTE.shape
    return x_BHTE.transpose(1, 2).reshape(B, T, -1)


def attend_self(
    q_RHTE: Tensor,
    k_RHTE: Tensor,
    v_RHTE: Tensor,
    mask: Tensor | None,
    cache: LayerCache | None,
    *,
    causal: bool,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Self-attention; with a cache, of one new position over every position so far, itself included."""
    if cache is not None:
        k_RHTE, v_RHTE = cache.append(k_RHTE, v_RHTE)
        mask, causal = None, False
    return attend(q_RHTE, k_RHTE, v_RHTE, mask, causal=causal, scale=scale, bias=bias)


def attend_source(
    q_RHTE: Tensor,
    project: Callable[[], KeysValues],
    mask: Tensor | None,
    cache: LayerCache | None,
    scale: float | None = None,
) -> Tensor:
    """Cross-attention; `project` gives keys and values (B, H, S, E), `mask` is boolean, (B, 1, 1 or T, S).

    While decoding, R may be a multiple of B: the beams of one source follow each other.
    """
    k_BHSE, v_BHSE = project() if cache is None else cache.source(project)
    R, H, T, E = q_RHTE.shape
    B = k_BHSE.shape[0]
    q_BHQE = q_RHTE if R == B else q_RHTE.view(B, R // B, H, T, E).transpose(1, 2).reshape(B, H, -1, E)
    y_BHQE = attend(q_BHQE, k_BHSE, v_BHSE, mask, causal=False, scale=scale)
    return y_BHQE if R == B else y_BHQE.view(B, H, R // B, T, E).transpose(1, 2).reshape(R, H, T, E)


def cross_mask(mask: Tensor | None, target_mask: Tensor | None, memory_BSD: Tensor, inputs_RT: Tensor) -> Tensor | None:
    """Which source positions a target position sees, boolean (B, 1, 1 or T, S), from the masks of the two sides.

    Where both are spans, the n-th target span sees the n-th source span, so that packed pairs stay apart; else a row of
    targets sees all that is visible of its row of sources.

    Raises:
        BadInput: spans of the two sides that are not as many, or a source mask that differs by query position.
    """
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        if mask.dim() != 4 or mask.shape[2] != 1:
            raise BadInput(
                f"the source's boolean mask is {tuple(mask.shape)}; what the target may see does not follow from it",
                hint="give (B, 1, 1, S), True where there is a token, or spans (row, start, stop)",
            )
        return mask
    (B, S, _), T = memory_BSD.shape, inputs_RT.shape[1]
    if target_mask is None or target_mask.dtype == torch.bool:
        return key_mask(mask, B, S)
    if len(mask) != len(target_mask):
        raise BadInput(
            f"the source has {len(mask)} spans and the target {len(target_mask)}",
            hint="the n-th span of the target answers the n-th span of the source",
        )
    sources_BS = span_numbers(mask, B, S)
    targets_BT = span_numbers(target_mask, B, T)
    same_BTS = (targets_BT[:, :, None] == sources_BS[:, None]) & (sources_BS > 0)[:, None]
    return same_BTS[:, None]


class BiasedHead(Linear):
    """A vocabulary projection together with a bias that is not trained (a view of both, not a layer of its own)."""

    def __init__(self, head: nn.Linear, bias_V: Tensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = head.in_features, head.out_features
        self.weight = head.weight
        self.register_buffer("bias", bias_V)


class ClassificationHead(nn.Module):
    """Two layers over the state of a text's last token."""

    def __init__(self, size: int, num_labels: int, dropout: float) -> None:
        super().__init__()
        self.dense = Linear(size, size, bias=True)
        self.out_proj = Linear(size, num_labels, bias=True)
        self.dropout, self.inner_dropout = Dropout(dropout), Dropout(dropout)

    def forward(self, hidden_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """Scores (N, C) of each text, from all states and the mask that says where texts end."""
        B, T, _ = hidden_BTD.shape
        at = last_positions(mask, B, T, hidden_BTD.device)
        # What a text loses is what the state at its place in the row would lose, so that packing changes nothing.
        outer, inner = (
            drop(torch.ones_like(hidden_BTD))[at] if self.training and drop.p else 1.0
            for drop in (self.dropout, self.inner_dropout)
        )
        scores_NC: Tensor = self.out_proj(torch.tanh(self.dense(hidden_BTD[at] * outer)) * inner)
        return scores_NC


def last_positions(
    mask: Tensor | None, num_rows: int, num_positions: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Row and position of each text's last token, (N,) both.

    With spans there is one text per span that is not empty, in the order of the spans; otherwise one per row.

    >>> last_positions(torch.tensor([[0, 0, 3], [0, 3, 5], [1, 2, 2]]), 2, 5, torch.device("cpu"))
    (tensor([0, 0]), tensor([2, 4]))
    """
    if mask is not None and mask.dtype != torch.bool:
        rows_N, _, stops_N = mask[mask[:, 1] < mask[:, 2]].unbind(1)
        return rows_N, stops_N - 1
    rows_B = torch.arange(num_rows, device=device)
    if mask is None:
        return rows_B, torch.full_like(rows_B, num_positions - 1)
    places_T = torch.arange(num_positions, device=device)
    return rows_B, torch.where(mask.expand(num_rows, 1, 1, num_positions)[:, 0, 0], places_T, 0).amax(dim=1)


class Seq2Seq(Network):
    """A model that reads a source and writes a target.

    `model(tokens_BS, inputs_BT)` is `model.decode(inputs_BT, model.encode(tokens_BS))`. A subclass computes those two.
    """

    CONFIG: ClassVar[type[HFConfig]]
    qa_outputs: nn.Module
    classification_head: nn.Module

    @classmethod
    def from_hf(cls, config: dict[str, Any], head: Head = "seq2seq_lm", num_labels: int | None = None) -> Self:
        """A network, with arbitrary weights, for a `config.json`.

        Raises:
            BadInput: the config lacks something, or asks for what is not computed here.
        """
        return cls(cls.CONFIG.from_hf(config, head, num_labels))

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def encode(self, tokens_BS: Tensor, mask: Tensor | None = None, positions_BS: Tensor | None = None) -> Tensor:
        """The memory (B, S, D) of sources. `mask`: boolean, broadcastable to (B, H, S, S), or spans."""
        raise TypeError(f"{type(self).__name__} does not encode")

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
        """Final hidden states (R, T, D) of a target's inputs; causal.

        Args:
            mask: of the source: boolean (B, 1, 1, S), or spans.
            target_mask: boolean, broadcastable to (R, H, T, T), or spans; see `cross_mask` for spans on both sides.
            positions_RT: where each input stands in its target; counted from the cache's length if None.
            cache: what was decoded before. T is 1 then, `target_mask` is not used, and R may be B × beams.
        """
        raise TypeError(f"{type(self).__name__} does not decode")

    def forward(
        self,
        tokens_BS: Tensor,
        inputs_BT: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        positions_BT: Tensor | None = None,
        target_positions_BT: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states (B, T, D) of the decoder.

        Without `inputs_BT` the source itself, shifted right, is the target's input: what classification and question
        answering do. `mask` and `positions_BT` are the source's, `target_mask` and `target_positions_BT` the target's.
        """
        memory_BSD = self.encode(tokens_BS, mask, positions_BT)
        if inputs_BT is None:
            spans = mask if mask is not None and mask.dtype != torch.bool else None
            inputs_BT, target_mask, target_positions_BT = self.shift_right(tokens_BS, spans), spans, positions_BT
        return self.decode(inputs_BT, memory_BSD, mask, target_mask=target_mask, positions_RT=target_positions_BT)

    @property
    def start_token(self) -> int:
        """What a decoder's first input is."""
        start = self.config.decoder_start_token_id
        return int(self.config.pad_token_id if start is None else start)

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """What ends a target."""
        ends = self.config.eos_token_id
        return tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)

    @property
    def never_written(self) -> tuple[int, ...]:
        """Tokens that no target contains, whatever their score."""
        return ()

    def shift_right(self, targets_BT: Tensor, spans_N3: Tensor | None = None) -> Tensor:
        """The decoder's inputs: targets one place later, behind the start token; ignored ones become padding.

        With spans each packed target gets a start of its own.
        """
        inputs_BT = targets_BT.roll(1, dims=1)
        inputs_BT[:, 0] = self.start_token
        if spans_N3 is not None:
            B, T = targets_BT.shape
            numbers_BT = span_numbers(spans_N3, B, T)
            begins_BT = numbers_BT != numbers_BT.roll(1, dims=1)
            inputs_BT = inputs_BT.masked_fill(begins_BT, self.start_token)
        return inputs_BT.masked_fill(inputs_BT == IGNORE, self.config.pad_token_id)

    def scores(self, hidden_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores of the task, from final hidden states and the mask of the source that they were computed with.

        (N, C) of texts, from the state of each one's last token: one per non-empty span in the order of the spans, or
        one per row if there are no spans; (B, T, 2) of starts and ends for question answering.
        """
        if self.config.head == "question_answering":
            answers_BT2: Tensor = self.qa_outputs(hidden_BTD)
            return answers_BT2
        if self.config.head != "sequence_classification":
            raise TypeError(f"{type(self).__name__} with head {self.config.head!r} has no task head")
        scores_NC: Tensor = self.classification_head(hidden_BTD, mask)
        return scores_NC
