"""Near duplicates among many texts: vectors on disk, bits joined with themselves, pairs scored again in full.

Memory, beside the model and what `limbeck encode` holds of a chunk of texts, is about 0.4 kB a text, or 0.5 kB with
ids: at B bits, 3 · B / 8 bytes of bits; the hashes by which copies of texts and ids are found, 120 bytes each; and some
hundred bytes for where a text stands and what its group is. On disk, in files without a name, are the texts and their
vectors, 2 bytes a dimension. Neither grows with the number of pairs; where nearly all texts are near each other, a core
has some 120 MB of them at hand.
"""

from limbeck.dedup.calibration import Expected, Labelled
from limbeck.dedup.corpus import Corpus, read_corpus
from limbeck.dedup.groups import Groups, group

__all__ = ["Corpus", "Expected", "Groups", "Labelled", "group", "read_corpus"]
