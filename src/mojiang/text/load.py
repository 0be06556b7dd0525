"""Word vectors from a text file of word2vec, GloVe or fastText."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.errors import NotFound
from mojiang.core.files import sha256_file
from mojiang.core.recipe import Metrics, Recipe

if TYPE_CHECKING:
    from mojiang.core.run import Run


class Load(Recipe):
    """Bring word vectors in from a text file, plain or .gz: a word and its numbers in each line.

    word2vec's first line of sizes may be there or not (GloVe). Lines that are none are counted, never passed over.

    When not to use: for word2vec's or fastText's binary files; their tools write text.
    Source: the formats of word2vec (Mikolov et al. 2013) and GloVe (Pennington et al. 2014).
    Example:
        >>> Load(source="glove.6B.100d.txt", max_words=100_000).max_words
        100000
    """

    recipe: ClassVar[str] = "text.load"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"

    source: str = Field(min_length=1)
    """The file."""
    max_words: int | None = Field(None, ge=1)
    """Read the first ones only, which in such files are the most frequent."""

    def identity(self) -> dict[str, Any]:
        """The content of the file."""
        path = Path(self.source)
        if not path.is_file():
            raise NotFound(f"there is no file {path}", hint="give a text file of word vectors")
        return {"content": sha256_file(path)}

    def run(self, run: Run) -> Metrics:
        """Read and save."""
        from mojiang.text._vectors import read_text_vectors

        vectors, left = read_text_vectors(Path(self.source), self.max_words)
        vectors.save(run.out, method="loaded")
        for reason, count in sorted(left.items()):
            run.warn(f"{count:,} lines left out: {reason}")
        return {"words": len(vectors.words), "size": vectors.vectors_VD.shape[1], "lines_left_out": sum(left.values())}
