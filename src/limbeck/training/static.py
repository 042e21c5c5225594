"""A floor to beat: one vector for each token, distilled from the same teacher on the same texts; a text is their mean.

No token sees another, so what a student scores above it comes from reading a text as a whole. `model2vec` runs it.

V: tokens of the vocabulary, N: texts, D: dims of the teacher, d: dims of the static vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.config import Static
from limbeck.folders import full_disk_named, replaced_folder
from limbeck.model.tokenizer import Tokenizer
from limbeck.objectives.distillation import cosine_distillation
from limbeck.training.distill import ROLE_PREFIX

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

    from limbeck.training.pipeline import Pipeline

Gather = Callable[[np.ndarray], np.ndarray]
"""Store rows [B] → teacher vectors [B, D]."""

_CHUNK = 16_384  # texts or vectors that are worked on at a time
_NO_TEXT = "\ufffd"  # what part of a character decodes to


@dataclass(frozen=True)
class Bags:
    """Tokens of N texts: those of text i are ids[starts[i] : starts[i + 1]]. ids: int64; starts: int64 [N + 1]."""

    ids: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Backend, *, max_tokens: int) -> Bags:
        """Tokens of texts as model2vec reads them: no special ones, none that are unknown, cut at `max_tokens`."""
        reader = _model(np.zeros((tokenizer.get_vocab_size(), 1), np.float32), tokenizer, max_tokens)
        ids, lengths = [np.empty(0, np.int64)], [0]
        for first in range(0, len(texts), _CHUNK):
            found = reader.tokenize(texts[first : first + _CHUNK])
            ids += [np.asarray(of_text, np.int64) for of_text in found]
            lengths += [len(of_text) for of_text in found]
        return cls(np.concatenate(ids), np.cumsum(lengths))

    def take(self, texts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Tokens of some texts [B], and where each begins among them [B], as `embedding_bag` wants them."""
        parts = [self.ids[self.starts[i] : self.starts[i + 1]] for i in texts]
        begins = np.cumsum([0, *(len(part) for part in parts[:-1])])
        return torch.from_numpy(np.concatenate(parts)), torch.from_numpy(begins)

    @property
    def with_tokens(self) -> np.ndarray:
        """Texts that have any."""
        return np.flatnonzero(np.diff(self.starts))


def distill_static(run: Pipeline) -> dict[str, Any]:
    """The stage of a run: train token vectors and write them to static/ as a folder of model2vec."""
    recipe, settings, teacher = run.recipe, run.recipe.static, run.teachers[0]
    assert settings is not None
    tokenizer = Tokenizer.load(run.student_folder).hf.backend_tokenizer
    texts: list[str] = []
    of_texts = []
    for name in recipe.distill_sources:
        table = run.prepared.sources[name].train
        for role in table.roles:
            texts += table.texts(role)
            of_texts.append(teacher.rows(table.teacher_texts(role), teacher.instruction(ROLE_PREFIX[role])))
    rows, gather = np.concatenate(of_texts), teacher.store.gather
    with run.live.status("static: reading texts"):
        bags = Bags.of(texts, tokenizer, max_tokens=settings.max_tokens)
    counts = np.bincount(bags.ids, minlength=tokenizer.get_vocab_size())
    alone = token_texts(tokenizer, counts, most=settings.taught_tokens)
    with run.live.status("static: the teacher reads tokens"):
        of_tokens = gather(teacher.rows(list(alone.values()), teacher.instruction("document")))
    down = principal_components(rows, gather, settings.dim)
    start = first_vectors(np.array(list(alone), np.int64), of_tokens, counts, down, sif=settings.sif)
    with run.live.status("static: training"):
        vectors, loss = train(start, bags, lambda i: gather(rows[i]) @ down, settings, seed=recipe.seed)
    save(run.out / "static", vectors, tokenizer, settings, teacher=Path(recipe.teacher.model).name)
    return {"texts": len(texts), "tokens": len(bags.ids), "taught_tokens": len(alone), "loss": loss}


def token_texts(tokenizer: Backend, counts: np.ndarray, *, most: int) -> dict[int, str]:
    """Token → the text that stands for it alone, of the `most` tokens that occur most often.

    Special tokens, white space and parts of a character have none. counts: int64 [V]; of equal ones, the first token
    of the vocabulary comes first, and vocabularies begin with what is frequent.
    """
    special = set(tokenizer.get_added_tokens_decoder())
    found: dict[int, str] = {}
    for token in np.argsort(-counts, kind="stable").tolist():
        text = tokenizer.decode([token]).strip().removeprefix("##")  # as WordPiece marks what goes on a word
        if len(found) < most and token not in special and text and _NO_TEXT not in text:
            found[token] = text
    return found


def principal_components(rows: np.ndarray, gather: Gather, dim: int) -> np.ndarray:
    """The map [D, d] of vectors to their first principal components, not centred: cosines are measured from 0.

    rows: int64 [N] of a store. Where d = D nothing is lost, and scalar products stay as they are.
    """
    products = 0.0
    for first in range(0, len(rows), _CHUNK):
        part = _floats(gather(rows[first : first + _CHUNK]))
        products = products + part.T @ part
    ascending = np.linalg.eigh(np.asarray(products, np.float64)).eigenvectors
    return ascending[:, ::-1][:, :dim].astype(np.float32)


def first_vectors(
    tokens: np.ndarray, of_tokens: np.ndarray, counts: np.ndarray, down: np.ndarray, *, sif: float
) -> np.ndarray:
    """What training starts from, as model2vec makes it: float32 [V, d], 0 where the teacher read no token.

    Args:
        tokens: int64 [n], those that it read.
        of_tokens: [n, D], its vectors of them.
        counts: int64 [V], how often each token occurs.
        down: [D, d].
        sif: a of a / (a + share), by which a token counts.
    """
    shares = counts / max(1, counts.sum())
    vectors = np.zeros((len(counts), down.shape[1]), np.float32)
    vectors[tokens] = _floats(of_tokens) @ down * (sif / (sif + shares[tokens]))[:, None]
    return vectors


def train(
    start: np.ndarray, bags: Bags, targets: Gather, settings: Static, *, seed: int
) -> tuple[np.ndarray, float | None]:
    """Turn the mean of each text's token vectors to where the teacher points, by 1 − cos.

    Args:
        start: float32 [V, d].
        bags: tokens of N texts.
        targets: texts [B], by number → the teacher's vectors of them [B, d].
        settings: epochs, batch size, learning rate.
        seed: of the order of the texts.

    Returns:
        Vectors [V, d], and the loss of the last step, None where there was none.
    """
    vectors = torch.from_numpy(start.copy()).requires_grad_()
    optimizer = torch.optim.SparseAdam([vectors], lr=settings.learning_rate)  # a step costs what its tokens do
    generator, texts = np.random.default_rng(seed), bags.with_tokens
    steps = -(-len(texts) // settings.batch_size) * settings.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, steps))
    loss = None
    for _ in range(settings.epochs):
        order = generator.permutation(texts)
        for first in range(0, len(order), settings.batch_size):
            batch = order[first : first + settings.batch_size]
            ids, begins = bags.take(batch)
            means = F.embedding_bag(ids, vectors, begins, mode="mean", sparse=True)
            loss = cosine_distillation(means, torch.from_numpy(_floats(targets(batch))))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return vectors.detach().numpy(), None if loss is None else float(loss.detach())


def save(folder: Path, vectors: np.ndarray, tokenizer: Backend, settings: Static, *, teacher: str) -> None:
    """Write a folder that `model2vec.StaticModel.from_pretrained` reads, whole or not at all. vectors: [V, d]."""
    from model2vec.persistence import save_pretrained

    model = _model(vectors, tokenizer, settings.max_tokens)
    about: Any = {**model.config, "teacher": teacher, "sif_coefficient": settings.sif, "hidden_dim": settings.dim}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_named(folder), replaced_folder(folder) as temporary:
        # without the card that model2vec would write: it promises a speed, a license and a hub page
        save_pretrained(temporary, model.embedding, model.tokenizer, about, create_model_card=False)


def _model(vectors: np.ndarray, tokenizer: Backend, max_tokens: int) -> Any:
    from model2vec import StaticModel  # in the `eval` extra

    about = {"model_type": "model2vec", "architectures": ["StaticModel"]}
    return StaticModel(vectors, tokenizer, about, normalize=True, max_length=max_tokens)


def _floats(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors, np.float32)
