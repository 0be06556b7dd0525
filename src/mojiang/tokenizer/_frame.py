"""Special tokens around one text or two, as a tokenizer's post-processor puts them: `[CLS] a [SEP] b [SEP]`.

Learned once by letting the post-processor frame two short texts, so that any kind of it works; after that, framing ids
is putting lists together, and truncation needs no state in the tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mojiang.core.errors import BadInput

Part = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids and segments of the special tokens in one place."""


@dataclass(frozen=True)
class Frame:
    """What stands before, between and after the texts, and which segment each text is."""

    before: Part
    between: Part
    after: Part
    segments: tuple[int, ...]

    @property
    def num_added(self) -> int:
        """How many tokens the frame adds."""
        return len(self.before[0]) + len(self.between[0]) + len(self.after[0])

    def around(self, a: Sequence[int], b: Sequence[int] | None) -> tuple[list[int], list[int]]:
        """Ids and segment ids of the framed text or texts."""
        ids = [*self.before[0], *a]
        segments = [*self.before[1], *[self.segments[0]] * len(a)]
        if b is not None:
            ids += [*self.between[0], *b]
            segments += [*self.between[1], *[self.segments[1]] * len(b)]
        return ids + list(self.after[0]), segments + list(self.after[1])


def learn_frame(tokenizer: Any, pair: bool) -> Frame:
    """The frame of a `tokenizers.Tokenizer` around one text or two."""
    framed = tokenizer.encode("a", *(["b"] if pair else []), add_special_tokens=True)
    tokens = list(zip(framed.ids, framed.type_ids, framed.sequence_ids, strict=True))
    found = [sequence for _, _, sequence in tokens]
    if any(number not in found for number in range(1 + pair)):
        raise BadInput("the tokenizer's post-processor loses a text", hint="look at post_processor in tokenizer.json")
    first, last = found.index(0), len(found) - 1 - found[::-1].index(int(pair))

    def part(first: int, stop: int) -> Part:
        special = [(id, segment) for id, segment, sequence in tokens[first:stop] if sequence is None]
        return tuple(id for id, _ in special), tuple(segment for _, segment in special)

    segments = tuple(tokens[found.index(number)][1] for number in range(1 + pair))
    return Frame(part(0, first), part(first, last), part(last, len(tokens)), segments)


def longest_first(num_a: int, num_b: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts are kept so that together they fit: the longer one loses first.

    The same split as `transformers`' `truncation="longest_first"`.

    >>> longest_first(3, 10, 8), longest_first(10, 10, 7)
    ((3, 5), (3, 4))
    """
    if num_a + num_b <= room:
        return num_a, num_b
    shorter, longer = sorted((num_a, num_b))
    if shorter > room // 2:
        shorter, longer = room // 2, room - room // 2
    else:
        longer = room - shorter
    return (longer, shorter) if num_a > num_b else (shorter, longer)
