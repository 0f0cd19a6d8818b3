"""The published instruction to a judge (EgoThink's `single-math-v2`), and how its verdict is read."""

import re

SYSTEM = "You are a helpful assistant."
TEMPLATE_NAME = "single-math-v2"
TEMPLATE = (
    "[Instruction]\nPlease act as an impartial judge and evaluate the quality of the response provided by an AI "
    "assistant to the user question displayed below. Your evaluation should consider correctness and helpfulness. You "
    "will be given a reference answer and the assistant's answer. Begin your evaluation by comparing the assistant's "
    "answer with the reference answer. Identify and correct any mistakes. The assistant has access to an image "
    "alongwith questions but you will not be given images. Therefore, please consider only how the answer is close to "
    "the reference answer. If the assistant's answer is not exactly same as or similar to the answer, then he must be "
    "wrong.  Be as objective as possible. Discourage uninformative answers. Also, equally treat short and long answers "
    "and focus on the correctness of answers.  After providing your explanation, you must rate the response with "
    'either 0, 0.5 or 1 by strictly following this format: "[[rating]]", for example: "Rating: [[0.5]]".\n\n'
    "[Question]\n{question}\n\n"
    "[The Start of Reference Answer]\n{ref_answer_1}\n[The End of Reference Answer]\n\n"
    "[The Start of Assistant's Answer]\n{answer}\n[The End of Assistant's Answer]"
)
"""Word for word, its slips included."""
RATINGS = (0.0, 0.5, 1.0)
_MARKS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


def instruction(question: str, reference: str, answer: str) -> str:
    """What the judge is told."""
    return TEMPLATE.format(question=question, ref_answer_1=reference, answer=answer)


def read_rating(reply: str) -> float | None:
    """0, 0.5 or 1, the nearest to what the judge wrote in brackets; None if it wrote no number from 0 to 1."""
    found = next((match for mark in _MARKS if (match := mark.search(reply))), None)
    if found is None or float(found.group(1)) > RATINGS[-1]:
        return None
    return min(RATINGS, key=lambda rating: abs(rating - float(found.group(1))))
