"""Corpora: load, clean, normalize, deduplicate, split, and mine instruction pairs from them."""

from mojiang.core.catalog import lazy

DATA = {
    "load": ("mojiang.data.load:Load", "Read files, folders or python:stdlib into a corpus with source and licence"),
    "clean": ("mojiang.data.clean:Clean", "Remove control characters and mojibake, drop what holds no text"),
    "normalize": ("mojiang.data.normalize:Normalize", "One Unicode form and one line ending for every document"),
    "dedup": ("mojiang.data.dedup:Dedup", "Drop exact copies, in memory bounded by hashes"),
    "split": ("mojiang.data.split:Split", "Train, validation and test by content hash, the same in every re-run"),
    "mine": ("mojiang.data.mine:Mine", "Instruction pairs mined from the corpus itself"),
}

__getattr__ = lazy(__name__, DATA)
