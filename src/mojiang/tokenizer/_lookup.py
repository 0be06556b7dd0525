"""Ids of texts part by part, looked up: what stands between two spaces comes again and again.

Our pattern never joins a visible character and a space after it, nor a letter and a line end after it, and looks no
further back than where a piece begins. So a text may be cut there, and the ids of the parts are the ids of the text.
Nine parts of ten were met before, and are looked up: several times as fast as cutting by the pattern and merging anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

MOST: Final = 2**17  # parts that are kept; some 30 MB
LONGEST: Final = 48  # characters of one that is kept

# What is white space anywhere, or could be in some version of Unicode, is not cut after.
_CUT: Final = re.compile(r"(?<=[^\x00-\x20\x7f-\xa0\u1680\u180e\u2000-\u206f\u3000\ufeff])(?= )|(?<=[0-9A-Za-z])(?=\n)")
_ROLE: Final = re.compile(r"[a-z]{1,16}\n")  # stands alone at the beginning of a text: its line end is not cut off


def parts_of(text: str) -> list[str]:
    """A text cut where our pattern cuts it anyway.

    >>> parts_of("user\\nSo it is.\\n  Yes\\n")
    ['user\\nSo', ' it', ' is.\\n  Yes', '\\n']
    """
    role = _ROLE.match(text)
    if role is None:
        return _CUT.split(text)
    first, *rest = _CUT.split(text[role.end() - 1 :])
    return [text[: role.end() - 1] + first, *rest]


def applies(spec: dict[str, Any], pattern: str) -> bool:
    """Whether a `tokenizer.json` cuts by this pattern, and by nothing else that sees more than a part."""
    steps = (spec.get("pre_tokenizer") or {}).get("pretokenizers") or []
    cut, letters = (steps[0], steps[1]) if len(steps) == 2 else ({}, {})
    return (
        cut.get("type") == "Split" and cut.get("pattern") == {"Regex": pattern} and cut.get("behavior") == "Isolated"
        and not cut.get("invert") and letters.get("type") == "ByteLevel"
        and not letters.get("use_regex") and not letters.get("add_prefix_space")
        and spec.get("normalizer") is None and (spec.get("model") or {}).get("dropout") is None
        and all(token.get("special") for token in spec.get("added_tokens") or ())
    )  # fmt: skip


class Lookup:
    """The ids of parts, with what makes them when they are met first."""

    def __init__(self, encode: Callable[[list[str]], Sequence[Sequence[int]]]) -> None:
        self._encode = encode
        self._known: dict[str, Sequence[int]] = {}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        known = self._known
        if len(known) > MOST:
            known.clear()
        parts = [parts_of(text) for text in texts]
        found = [list(map(known.get, some)) for some in parts]
        lacking = [n for n, ids in enumerate(found) if None in ids]
        new = list({part for n in lacking for part in parts[n] if part not in known})
        known.update(zip(new, self._encode(new), strict=True))
        for n in lacking:
            found[n] = list(map(known.get, parts[n]))
        for part in new:
            if len(part) > LONGEST:
                del known[part]
        return [list(chain.from_iterable(ids)) for ids in found]  # type: ignore[arg-type]  # none is None now
