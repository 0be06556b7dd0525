"""Compressor baselines against the command-line tools and the formats' own decoders."""

import gzip
import lzma
import shutil
import subprocess

import pytest
import zstandard

from mojiang.evaluate._compressors import COMPRESSORS, compressed_bits

TEXT = ("墨匠 builds language models.\n" * 40 + "".join(chr(33 + i * 7 % 90) for i in range(3000))).encode()


@pytest.mark.parametrize("tool", [["gzip", "-9", "-c", "-n"], ["xz", "-9", "-c"], ["zstd", "-19", "-c", "-q"]])
def test_sizes_equal_the_command_line_tool(tool: list[str]) -> None:
    if shutil.which(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed here")
    written = len(subprocess.run(tool, input=TEXT, capture_output=True, check=True).stdout)
    # Reading from a pipe the tools cannot write the size field, and gzip's deflate differs by a few bytes from zlib's.
    assert compressed_bits(tool[0], TEXT) / 8 == pytest.approx(written, abs=24)


def test_what_is_counted_decompresses_to_the_input() -> None:
    assert gzip.decompress(gzip.compress(TEXT, 9, mtime=0)) == TEXT
    assert compressed_bits("gzip", TEXT) == 8 * len(gzip.compress(TEXT, 9, mtime=0))
    assert compressed_bits("xz", TEXT) == 8 * len(lzma.compress(TEXT, preset=9))
    assert compressed_bits("zstd", TEXT) == 8 * len(zstandard.compress(TEXT, 19))


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_an_empty_text_costs_its_container(name: str) -> None:
    assert 0 < compressed_bits(name, b"") <= 8 * 40
