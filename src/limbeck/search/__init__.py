"""Search over a corpus. Needs no torch: the encoder is whatever turns texts into vectors."""

from limbeck.search.exact import Corpus, Hit, SearchEncoder, load_corpus, search_corpus

__all__ = ["Corpus", "Hit", "SearchEncoder", "load_corpus", "search_corpus"]
