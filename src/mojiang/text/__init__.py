"""Classic NLP: words and sentences, Chinese segmentation, sparse vectors, word vectors."""

from mojiang.core.catalog import lazy

TEXT = {
    "words": ("mojiang.text.words:Words", "Documents as words: English and Chinese, stems, lemmas, stop words"),
    "segment": ("mojiang.text.segment:Segment", "Train a Chinese segmenter and tagger: CRF over characters and words"),
    "vectorize": (
        "mojiang.text.vectorize:Vectorize",
        "Sparse vectors: bag of words, TF-IDF, hashing, n-grams; streaming",
    ),
    "word2vec": (
        "mojiang.text.word2vec:Word2Vec",
        "Word vectors: skip-gram or CBOW, with fastText's subwords if asked for",
    ),
    "glove": ("mojiang.text.glove:Glove", "Word vectors by GloVe: from counts of words that occur together"),
    "load": ("mojiang.text.load:Load", "Word vectors from a text file of word2vec, GloVe or fastText"),
    "probe": (
        "mojiang.text.probe:Probe",
        "Neighbours, analogies, similarity beside people's, and a plot of word vectors",
    ),
}

__getattr__ = lazy(__name__, TEXT)
