"""The quantisation config, checked by the library that defines the format."""

import pytest

from mojiang.compress._compressed_tensors import quantization_config


def test_compressed_tensors_reads_the_scheme_as_meant() -> None:
    library = pytest.importorskip("compressed_tensors.quantization")
    parsed = library.QuantizationConfig.model_validate(quantization_config(["lm_head"]))
    (group,) = parsed.config_groups.values()
    weights = group.weights
    assert (weights.num_bits, weights.symmetric, weights.dynamic) == (8, True, False)
    assert weights.strategy == library.QuantizationStrategy.CHANNEL
    assert group.input_activations is None
    assert parsed.ignore == ["lm_head"]
    assert parsed.quantization_status == library.QuantizationStatus.COMPRESSED
