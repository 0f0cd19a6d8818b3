"""Scores of free answers that need no judge: equal words, and BLEU as RoboBrain counts it."""

import re
import warnings
from collections.abc import Sequence

from blm.pipelines.digital.answers import normalise

_EDGES = " \t\n.,;:!?\"'<>()[]"
_YES_NO = ("yes", "no")
_WEIGHTS = ((1.0,), (0.5, 0.5), (0.33, 0.33, 0.33), (0.25, 0.25, 0.25, 0.25))
"""Of n-grams up to one, two, three and four words. Three times 0.33, not a third: RoboBrain's figures have it so."""


def same_words(reference: str, answer: str) -> float:
    """1 if an answer is the reference but for case, spacing and marks at its ends, otherwise 0.

    To a reference of yes or no, an answer that begins with that word.
    """
    right, said = (normalise(text).casefold().strip(_EDGES) for text in (reference, answer))
    if right in _YES_NO:
        said = (re.findall(r"[a-z]+", said) or [""])[0]
    return float(right == said)


def bleu(reference: str, answer: str) -> float:
    """Mean of BLEU-1 to BLEU-4 of whole words, 0 to 1; n-grams longer than the reference are left out."""
    from nltk.translate.bleu_score import sentence_bleu

    right, said = (text.lower().replace("\n", " ").split() for text in (reference, answer))
    if right and right[0] in _YES_NO and len(right) == 1:
        said = [next((word for word in _YES_NO if word in part), part) for part in said]
    if not right or not said:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no n-gram is shared is a score of about 0, not news
        return float(sum(sentence_bleu([right], said, weights=w) for w in _weights(len(right))) / len(_WEIGHTS))


def _weights(length: int) -> Sequence[tuple[float, ...]]:
    """The weights of BLEU-1 to BLEU-4, none over more words than the reference has."""
    return [_WEIGHTS[min(n, length, len(_WEIGHTS)) - 1] for n in range(1, len(_WEIGHTS) + 1)]
