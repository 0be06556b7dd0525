"""Stop strings, found wherever token borders fall."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text through until the first stop string; neither it nor anything after it comes out.

    Text that may be the beginning of a stop string is held back until it is decided.

    >>> matcher = StopMatcher(["END"])
    >>> [matcher.push(piece) for piece in ("one E", "N", "E", "ND two")]
    ['one ', '', 'EN', '']
    >>> matcher.stopped
    True
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(s for s in stops if s)
        self._held = ""
        self.stopped = False
        self.released = 0
        """Characters that came out so far."""

    def push(self, text: str) -> str:
        """Text that may be shown now."""
        if self.stopped:
            return ""
        if not self._stops:
            self.released += len(text)
            return text
        text = self._held + text
        starts = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if starts:
            self.stopped, self._held = True, ""
            return self._release(text[: min(starts)])
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return self._release(text[: len(text) - keep])

    def flush(self) -> str:
        """What was held back, at the end of the sequence."""
        held, self._held = self._held, ""
        return "" if self.stopped else self._release(held)

    def _release(self, text: str) -> str:
        self.released += len(text)
        return text

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max(len(stop) for stop in self._stops) - 1
        for size in range(min(longest, len(text)), 0, -1):
            end = text[len(text) - size :]
            if any(stop.startswith(end) for stop in self._stops):
                return size
        return 0
