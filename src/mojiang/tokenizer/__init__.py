"""From text to tokens: byte-level BPE with a chat template, and loading what was trained."""

from mojiang.core.catalog import lazy

TOKENIZER = {
    "bpe": ("mojiang.tokenizer.bpe:BPE", "Train a byte-level BPE tokenizer, safe for Chinese and good for code"),
}

__getattr__ = lazy(__name__, TOKENIZER)
