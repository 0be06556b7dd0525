"""Linear-chain conditional random field: a label sequence is scored as a whole, not position by position.

score(tags) = start[tag_1] + sum_t scores[t, tag_t] + sum_t transitions[tag_t-1, tag_t] + end[tag_T]

Source: Lafferty et al. 2001; as the last layer of a tagger, Huang et al. 2015 and Lample et al. 2016.

Tensor names carry their shape: B rows · T positions · C labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput

IGNORED = -100
"""The tag of a position that is no part of the sequence: PyTorch's `ignore_index`."""

SCHEMES = {
    "bio": {"B": "begin", "I": "inside"},
    "bioes": {"B": "begin", "I": "inside", "E": "end", "S": "single"},
    "bmes": {"B": "begin", "M": "inside", "E": "end", "S": "single"},
}
"""Tagging scheme → what its letters mean. `O` is outside in all of them."""


def illegal_transitions(labels: Sequence[str], scheme: str) -> tuple[Tensor, Tensor, Tensor]:
    """What a scheme forbids: `first_C` to begin with, `pairs_CC` [from, to] and `last_C` to end with; True = forbidden.

    Labels are `B-PER`, `I-PER`, `O`, or letters alone (`B`, `M`, `E`, `S`) as in word segmentation.

    Raises:
        BadInput: an unknown scheme, or a label that is not of the scheme.
    """
    if scheme not in SCHEMES:
        raise BadInput(f"the tagging scheme {scheme!r} is unknown", hint=f"known are {', '.join(SCHEMES)}")
    letters = {**SCHEMES[scheme], "O": "outside"}
    parts = [label.partition("-")[::2] for label in labels]
    strangers = [label for label, (letter, _) in zip(labels, parts, strict=True) if letter not in letters]
    if strangers:
        raise BadInput(f"{strangers[0]!r} is no label of the scheme {scheme}", hint="name the scheme of the data")
    read = [(letters[letter], entity) for letter, entity in parts]
    closes = "E" in letters
    border = ("outside", "")

    def illegal(before: tuple[str, str], after: tuple[str, str]) -> bool:
        is_open = before[0] in ("begin", "inside")
        if after[0] in ("inside", "end"):
            return not is_open or before[1] != after[1]
        return closes and is_open

    first = torch.tensor([illegal(border, after) for after in read])
    pairs = torch.tensor([[illegal(before, after) for after in read] for before in read])
    last = torch.tensor([illegal(before, border) for before in read])
    return first, pairs, last


class CRF(nn.Module):
    """Transition scores, the likelihood of a label sequence, and the best sequence.

    `mask_BT` is True at the positions of the sequence; the others are passed over wherever they stand, so a tagger over
    subwords can mark first subwords only. A row without any has log-likelihood 0. All arithmetic is in fp32 or better.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.start_transitions = nn.Parameter(torch.zeros(num_labels))
        self.end_transitions = nn.Parameter(torch.zeros(num_labels))
        self.transitions = nn.Parameter(torch.zeros(num_labels, num_labels))

    def log_likelihood(self, scores_BTC: Tensor, tags_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Log-probability of each row's tags, (B,). Tags where the mask is False are not read."""
        scores_BTC, tags_BT, mask_BT = self._packed(scores_BTC, tags_BT, mask_BT)
        return self._path_score(scores_BTC, tags_BT, mask_BT) - self._log_partition(scores_BTC, mask_BT)

    @torch.no_grad()
    def decode(
        self, scores_BTC: Tensor, mask_BT: Tensor, illegal: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> Tensor:
        """The best tags (B, T) by Viterbi; `IGNORED` where the mask is False.

        With `illegal` (see `illegal_transitions`), the best among the sequences that the scheme allows.
        """
        order_BT = _order(mask_BT)
        scores_BTC, _, valid_BT = self._packed(scores_BTC, torch.zeros_like(order_BT), mask_BT)
        best_BT = self._viterbi(scores_BTC, valid_BT, illegal)
        return torch.full_like(order_BT, IGNORED).scatter(1, order_BT[:, : best_BT.shape[1]], best_BT)

    def _packed(self, scores_BTC: Tensor, tags_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sequence's positions moved to the left, their order kept, and the rows cut to the longest."""
        order_BT = _order(mask_BT)[:, : max(1, int(mask_BT.sum(1).max()))]
        valid_BT = mask_BT.gather(1, order_BT)
        scores_BTC = scores_BTC.gather(1, order_BT[..., None].expand(-1, -1, scores_BTC.shape[2]))
        if scores_BTC.dtype.itemsize < 4:
            scores_BTC = scores_BTC.float()
        return scores_BTC, tags_BT.gather(1, order_BT).where(valid_BT, 0), valid_BT

    def _path_score(self, scores_BTC: Tensor, tags_BT: Tensor, mask_BT: Tensor) -> Tensor:
        emitted_BT = scores_BTC.gather(2, tags_BT[..., None])[..., 0] * mask_BT
        moved_BT = self.transitions[tags_BT[:, :-1], tags_BT[:, 1:]] * mask_BT[:, 1:]
        last_B = tags_BT.gather(1, (mask_BT.sum(1) - 1).clamp(min=0)[:, None])[:, 0]
        ends_B = (self.start_transitions[tags_BT[:, 0]] + self.end_transitions[last_B]) * mask_BT[:, 0]
        return emitted_BT.sum(1) + moved_BT.sum(1) + ends_B

    def _log_partition(self, scores_BTC: Tensor, mask_BT: Tensor) -> Tensor:
        """The forward algorithm: log of the sum over all label sequences of exp(score)."""
        alpha_BC = self.start_transitions + scores_BTC[:, 0]
        for t in range(1, scores_BTC.shape[1]):
            step_BC = torch.logsumexp(alpha_BC[:, :, None] + self.transitions, dim=1) + scores_BTC[:, t]
            alpha_BC = torch.where(mask_BT[:, t, None], step_BC, alpha_BC)
        return torch.logsumexp(alpha_BC + self.end_transitions, dim=1) * mask_BT[:, 0]

    def _viterbi(self, scores_BTC: Tensor, mask_BT: Tensor, illegal: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
        start_C: Tensor = self.start_transitions
        pairs_CC: Tensor = self.transitions
        end_C: Tensor = self.end_transitions
        if illegal is not None:
            first, pairs, last = (forbidden.to(scores_BTC.device) for forbidden in illegal)
            start_C, pairs_CC = start_C.masked_fill(first, -torch.inf), pairs_CC.masked_fill(pairs, -torch.inf)
            end_C = end_C.masked_fill(last, -torch.inf)
        best_BC = start_C + scores_BTC[:, 0]
        stay_BC = torch.arange(scores_BTC.shape[2], device=scores_BTC.device).expand_as(best_BC)
        came_from = []
        for t in range(1, scores_BTC.shape[1]):
            step_BC, from_BC = (best_BC[:, :, None] + pairs_CC).max(dim=1)
            inside_B1 = mask_BT[:, t, None]
            best_BC = torch.where(inside_B1, step_BC + scores_BTC[:, t], best_BC)
            came_from.append(torch.where(inside_B1, from_BC, stay_BC))
        tag_B1 = (best_BC + end_C).argmax(dim=1, keepdim=True)
        path = [tag_B1]
        for from_BC in reversed(came_from):
            path.append(tag_B1 := from_BC.gather(1, tag_B1))
        return torch.cat(path[::-1], dim=1).where(mask_BT, IGNORED)


def _order(mask_BT: Tensor) -> Tensor:
    """Positions of the sequence first, the others after them, each in their order."""
    return mask_BT.int().argsort(dim=1, descending=True, stable=True)
