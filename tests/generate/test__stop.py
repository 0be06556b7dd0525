from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mojiang.generate._stop import StopMatcher

letters = st.text(alphabet="ab。", max_size=12)


@given(pieces=st.lists(letters, max_size=8), stops=st.lists(letters.filter(bool), max_size=3))
def test_equals_cutting_the_whole(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown, seen = "", ""
    for piece in pieces:
        if matcher.stopped:
            break
        seen += piece
        shown += matcher.push(piece)
        assert matcher.released == len(shown)
    found = [seen.index(s) for s in stops if s in seen]
    assert matcher.stopped == bool(found)
    shown += matcher.flush()
    assert shown == (seen[: min(found)] if found else seen)


def test_holds_back_no_more_than_it_must() -> None:
    matcher = StopMatcher(["\n\n"])
    assert matcher.push("one\n") == "one"
    assert matcher.push("two") == "\ntwo"
