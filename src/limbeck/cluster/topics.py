"""What clusters are about: words that tell their texts from the others, by class-based TF-IDF.

C: clusters, T: different words, N: texts. A cluster is read as one long text (Grootendorst 2022, arXiv 2203.05794,
section 3.3): what weighs is what is frequent in it and rare elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

READ_CHARS = 4000  # of a text that words are taken from: a book among notes would outweigh them

# Scripts that put no space between words: Thai, Lao, Myanmar, Khmer, kana, Han (with its rarer blocks).
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_TELLING = 2.0  # how many times more often, by share of texts, a cluster must have a word than the other texts
_SURE = 3.0  # standard errors that the two shares are apart by: in a small cluster, twice as often may be chance
_LONGEST_WORD = 40  # characters; longer ones are addresses, keys and the like


def class_tf_idf(counts: Any) -> csr_matrix:
    """W(t, c) = tf(t, c) · log(1 + A / tf(t)), equation 2 of arXiv 2203.05794. counts: sparse [C, T] → [C, T].

    tf(t, c) is how often cluster c has the word t, tf(t) how often all have it, and A the mean number of words of a
    cluster. The logarithm is the natural one. Words that none has weigh 0.
    """
    from scipy.sparse import csr_matrix

    totals = np.asarray(counts.sum(axis=0)).ravel()
    mean_words = totals.sum() / max(1, counts.shape[0])
    rarity = np.log1p(np.divide(mean_words, totals, out=np.zeros(totals.shape), where=totals > 0))
    return csr_matrix(counts.multiply(rarity))


def label_terms(
    texts: Sequence[str], labels: NDArray[np.int64], *, terms: int = 6, read_chars: int = READ_CHARS
) -> list[list[str]]:
    """The words that weigh most in each cluster, the heaviest first. texts: N; labels: [N], −1 = in none → C lists.

    Stop words are found by how many texts have them, without a list, so that it works in any language: a word stands
    for a cluster only if the share of its texts that have it is twice that of all others, by a difference of three
    standard errors, and two of its texts have it. Where there is no such word, as among few texts, those with twice
    the share are taken, and where there is none of these either (one cluster, or clusters that are alike), any. Of
    words of which one begins with the other ("table", "tables") the heavier is taken.

    See `words` for what a word is.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    count = int(labels.max(initial=-1)) + 1
    if not count:
        return []
    counter: Any = CountVectorizer  # its parameters are typed by their defaults alone
    vectorizer = counter(analyzer=lambda text: list(words(text[:read_chars])))
    try:
        found = vectorizer.fit_transform(texts)
    except ValueError:  # "empty vocabulary": texts of signs and digits
        return [[] for _ in range(count)]
    names = vectorizer.get_feature_names_out()
    rows = np.flatnonzero(labels >= 0)
    classes = csr_matrix((np.ones(len(rows)), (labels[rows], rows)), shape=(count, len(texts)))
    weights, having = class_tf_idf(classes @ found), (classes @ (found > 0).astype(np.float64)).tocsr()
    of_all = np.asarray((found > 0).sum(axis=0)).ravel()
    sizes = np.bincount(labels[rows], minlength=count)
    chosen = []
    for c in range(count):
        row = weights[c]
        columns = row.indices
        inside = np.asarray(having[c, columns].todense()).ravel()
        telling = _telling(inside, of_all[columns] - inside, sizes[c], len(texts) - sizes[c])
        order = np.lexsort((names[columns], -row.data))
        chosen.append(_distinct((str(names[columns[i]]) for i in order if telling[i]), terms))
    return chosen


def _telling(inside: NDArray[Any], outside: NDArray[Any], size: int, others: int) -> NDArray[np.bool_]:
    """Which words tell a cluster from the rest, by how many texts have them. inside, outside: [T] → [T]."""
    if not others:
        return np.ones(len(inside), bool)
    share, rest, of_all = inside / size, outside / others, (inside + outside) / (size + others)
    error = np.sqrt(of_all * (1 - of_all) * (1 / size + 1 / others))  # of a difference of two shares, were they equal
    often = (share >= _TELLING * rest) & (inside >= min(2, size // 2))  # what one text has is no topic
    sure = often & (share - rest >= _SURE * error)
    return next((found for found in (sure, often) if found.any()), np.ones(len(inside), bool))


def words(text: str) -> Iterator[str]:
    """Words of a text in any script, in small letters: letters with their marks, and digits after a letter.

    Where words are written apart they are taken as they are, if they have two characters or more. Where they are not
    (Chinese, Japanese, Thai, Lao, Khmer, Burmese), each two neighbouring characters are taken for a word.
    """
    for match in _pattern().finditer(unicodedata.normalize("NFKC", text).lower()):
        word = match.group()
        if match.lastgroup == "unspaced":
            yield from (word[i : i + 2] for i in range(max(1, len(word) - 1)))
        elif 2 <= len(word) <= _LONGEST_WORD:
            yield word


@cache
def _pattern() -> re.Pattern[str]:
    # \w knows letters and digits but not the marks that Indic vowels, among others, are written with
    marks = "".join(chr(i) for i in range(0x300, 0xFFFF) if unicodedata.category(chr(i)).startswith("M"))
    letter = rf"(?:(?![{_UNSPACED}])[^\W\d_])"
    inside = rf"(?:(?![{_UNSPACED}])(?:[^\W_]|[{re.escape(marks)}]|['’](?=[^\W\d_])))"
    return re.compile(rf"(?P<unspaced>(?:[{_UNSPACED}](?<=[\w{re.escape(marks)}]))+)|(?P<spaced>{letter}{inside}*)")


def _distinct(found: Iterator[str], most: int) -> list[str]:
    kept: list[str] = []
    for word in found:
        if len(kept) == most:
            break
        if not any(word.startswith(other) or other.startswith(word) for other in kept):
            kept.append(word)
    return kept
