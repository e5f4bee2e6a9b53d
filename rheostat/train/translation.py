"""How good translations are: BLEU of what a network writes, beside what people wrote."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rheostat.data.base import Padded, Vocabulary
from rheostat.errors import TaskError
from rheostat.models.seq2seq import Seq2Seq
from rheostat.train.task import CHUNK_SEQUENCES, Data, lengths, trimmed


@dataclass(frozen=True)
class Bleu:
    """Corpus BLEU by sacrebleu's defaults (Post 2018), 0 to 100: cased, its own tokens (13a), one reference.

    The references are the `texts` of the data, as they were written. `width` sentences are kept in the search; 1 is
    greedy, which is quick enough for every epoch.
    """

    vocabulary: Vocabulary  # of the target language
    width: int = 1
    length_penalty: float = 1.0

    def __call__(self, model: nn.Module, data: Data, device: torch.device) -> float:
        import sacrebleu  # takes a tenth of a second

        if not isinstance(data, Padded) or not data.texts:
            raise TaskError("BLEU needs pairs of sentences with the texts of their targets.")
        hypotheses = translate(model, data.tensors[0], self.vocabulary, device, self.width, self.length_penalty)
        return float(sacrebleu.corpus_bleu(hypotheses, [list(data.texts)]).score)


def translate(
    model: nn.Module,
    source: Tensor,
    vocabulary: Vocabulary,
    device: torch.device,
    width: int = 5,
    length_penalty: float = 1.0,
) -> list[str]:
    """The translation of each row of source tokens (N, S), up to half as long again and ten tokens more."""
    if not isinstance(model, Seq2Seq):
        raise TaskError(f"A {type(model).__name__} cannot translate: give a Seq2Seq.")
    rows = Padded((source,))
    found: dict[int, str] = {}
    for part in lengths(rows).argsort(stable=True).split(CHUNK_SEQUENCES):
        (tokens,) = trimmed(rows.tensors, part)
        longest = tokens.shape[1] * 3 // 2 + 10
        tokens = tokens.to(device)
        sentences = model.beam(tokens, longest, width, length_penalty)
        found |= zip(part.tolist(), map(vocabulary.decode, sentences), strict=True)
    return [found[row] for row in range(len(source))]
