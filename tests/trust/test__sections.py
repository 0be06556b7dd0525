"""The words of the card: sizes, durations and languages as people write them."""

import pytest

from mojiang.trust import _sections
from mojiang.trust._evidence import Share


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(12, "12 bytes"), (1500, "1.5 kB"), (11_560_000, "11.6 MB"), (3 * 10**9, "3.0 GB")]
)
def test_sizes(num_bytes: int, text: str) -> None:
    assert _sections.size_in_words(num_bytes) == text


def test_languages_leave_out_what_is_hardly_there() -> None:
    data = [Share("s", "MIT", language, "txt", 1, size) for language, size in (("zh", 400), ("en", 700), ("de", 5))]
    assert _sections._languages(data) == "English and Chinese"
    assert _sections._languages(data[:1]) == "Chinese"


def test_curves_of_one_quantity_share_a_panel_and_a_single_point_is_no_curve() -> None:
    line = ([0.0, 1.0], [2.0, 1.0])
    found = {"loss": line, "validation_loss": line, "bits_per_byte": ([1.0], [2.0]), "learning_rate": line}
    panels = _sections._panels(found)
    assert list(panels) == ["Loss, nats per token"]
    assert list(panels["Loss, nats per token"]) == ["loss", "validation loss"]


def test_nested_settings_are_flattened() -> None:
    assert _sections._flat({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b.c": 2, "b.d.e": 3}
