"""BM25 as sparse vectors: an engine multiplies them, with the rarity of words that it counts itself.

Words are found by a tokenizer for all languages (also those written without spaces), lower-cased. By default nothing is
stemmed and no word is left out, since a corpus may hold many languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limbeck.errors import ConfigError
from limbeck.search.engine import Sparse


class Words:
    """Weights of the words in texts (Robertson & Zaragoza 2009: k1 = 1.2, b = 0.75)."""

    def __init__(self, *, language: str | None = None, average: float = 256.0) -> None:
        """Use a language's stop words and stemmer, or none.

        Args:
            language: its English name in lower case, such as "german"; None = words as they are.
            average: words of an average text, which lengths are held against.

        Raises ConfigError: an unknown language.
        """
        self._bm25 = _bm25(language, avg_len=average)

    def document(self, text: str) -> Sparse:
        """Weights of a text that is searched."""
        return _sparse(self._bm25.embed_document(text))

    def query(self, text: str) -> Sparse | None:
        """Words that are looked for; None where there are none."""
        found = _sparse(self._bm25.embed_query(text))
        return found if found.indices else None


def average_words(texts: Sequence[str], language: str | None = None) -> float:
    """Mean number of words that `Words` finds in these texts, at least 1. Raises ConfigError: an unknown language."""
    counting = _bm25(language, k=1e6, b=0.0)  # without saturation or lengths, weights are counts
    counts = [sum(counting.embed_document(text).values) for text in texts]
    return max(1.0, round(sum(counts) / max(1, len(counts)), 1))


def _bm25(language: str | None, **numbers: float) -> Any:
    import qdrant_edge as edge

    plain = {"stemmer": edge.DisabledStemmer(), "stopwords": edge.StopwordsSet()}
    how: dict[str, Any] = numbers | (plain if language is None else {"language": language})
    try:
        return edge.Bm25(edge.Bm25Config(tokenizer=edge.TokenizerType.Multilingual, **how))
    except ValueError:
        known = sorted(name.lower() for name in dir(edge.Language) if not name.startswith("_"))
        raise ConfigError(f"no stop words and stemmer for {language!r}; known are {', '.join(known)}") from None


def _sparse(vector: Any) -> Sparse:
    return Sparse(list(vector.indices), list(vector.values))
