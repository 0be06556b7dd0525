"""From text to tokens: training BPE, WordPiece and Unigram, and loading any Hugging Face tokenizer."""

from mojiang.core.catalog import lazy

TOKENIZER = {
    "bpe": ("mojiang.tokenizer.bpe:BPE", "Train a byte-level BPE tokenizer, safe for Chinese and good for code"),
    "wordpiece": ("mojiang.tokenizer.wordpiece:WordPiece", "Train a WordPiece tokenizer for BERT and other encoders"),
    "unigram": ("mojiang.tokenizer.unigram:Unigram", "Train a Unigram tokenizer for T5 and other encoder-decoders"),
    "char": ("mojiang.tokenizer.char:Char", "Take the characters of a corpus as tokens"),
    "compare": ("mojiang.tokenizer.compare:Compare", "Set tokenizers side by side on the same text"),
    "shards": (
        "mojiang.tokenizer.shards:TokenShards",
        "Write a corpus as token shards, mapped or streamed from a URL",
    ),
}

__getattr__ = lazy(__name__, TOKENIZER)
