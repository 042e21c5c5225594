"""What training read of each source, for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from limbeck.config import Source
from limbeck.data.tables import Prepared
from limbeck.evaluation.scores import TrainingSource


def training_sources(
    prepared: Prepared, sources: Sequence[Source], tokens: Mapping[str, int] = {}
) -> dict[str, TrainingSource]:
    """Source → kind, examples, languages and weight of its training half. tokens: of a source, where counted."""
    weights = {source.name: source.weight for source in sources}
    return {
        name: TrainingSource(
            kind=split.train.kind,
            examples=len(split.train),
            weight=weights.get(name),
            languages=dict(Counter(tag for tag in split.train.lang if tag).most_common()),
            tokens=tokens.get(name),
        )
        for name, split in prepared.sources.items()
    }
