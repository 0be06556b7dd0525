"""Corpora: load, clean, normalize, deduplicate, split, mine; examples of every form, from files or fetched."""

from mojiang.core.catalog import lazy

DATA = {
    "load": (
        "mojiang.data.load:Load",
        "Read files, APIs, databases or data sets of the Hub into a corpus with source and licence",
    ),
    "crawl": (
        "mojiang.data.crawl:Crawl",
        "Collect the pages of web sites, politely: robots.txt, sitemaps, resumed after a kill",
    ),
    "clean": ("mojiang.data.clean:Clean", "Remove control characters and mojibake, drop what holds no text"),
    "normalize": ("mojiang.data.normalize:Normalize", "One Unicode form and one line ending for every document"),
    "quality": ("mojiang.data.quality:Quality", "A quick classifier of good and bad texts, measured on held-out ones"),
    "filter": (
        "mojiang.data.filter:Filter",
        "Drop what is no good text: rules, languages, keywords, classifier, perplexity",
    ),
    "pii": ("mojiang.data.pii:Pii", "Personal data in English and Chinese: tag, redact, or stand-ins with a key"),
    "dedup": ("mojiang.data.dedup:Dedup", "Drop exact copies, then near copies (MinHash), in bounded memory"),
    "decontaminate": (
        "mojiang.data.decontaminate:Decontaminate",
        "Find what evaluation sets ask: drop, cut, report",
    ),
    "mix": ("mojiang.data.mix:Mix", "Several corpora in one, by weight, temperature and epochs"),
    "split": ("mojiang.data.split:Split", "Train, validation and test by content hash, the same in every re-run"),
    "mine": ("mojiang.data.mine:Mine", "Instruction pairs mined from the corpus itself"),
    "examples": (
        "mojiang.data.examples:Examples",
        "Labelled examples from files of any usual shape, without copies, split",
    ),
    "augment": ("mojiang.data.augment:Augment", "More training examples: synonyms, EDA, back-translation, paraphrase"),
    "fetch": ("mojiang.data.fetch:Fetch", "A public data set out of a PyPI, npm or Debian package, in its form"),
}

__getattr__ = lazy(__name__, DATA)
