"""Finding the part of a text that a question is about. Called by the servicer and by the extractive model."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from documents_example.terms import terms

_COMMENT = re.compile(r"\s*(?://+!?|\#+!?|--+|/\*+!?|\*+/|\*(?=\s)|\"{3}|'{3}|;;+|>(?=\s))\s?")
_COMMENT_END = re.compile(r"\s*(?:\"{3}|'{3}|\*+/)\s*$")
_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,3}[.)])\s+(?=\S)")
_CODE = re.compile(
    r"""
      [{};(\[=\\|]\s*$                                        # ends as no sentence does
    | ^\s*[)\]}@]                                            # or begins so
    | ^\s*["'\w.]+\s?[:=].*,\s*$ | ^\s*["'].*,\s*$             # an argument or an item
    | ^\s*(?:await\s|return\s|yield\s|raise\s)?[\w.]+[(\[]   # a call
    | ^\s*[\w.]+(?:\[.*\])?\s*(?::=|[-+*/|&:]?=)\s           # an assignment
    | ^\s*[a-z_]\w*:\s[\w.]+(?:\[.*\])?(?:\s\|\s\w+)*(?:\s=\s.*)?$   # a field with its type
    | ^\s*(?:(?:async|def|class|if|elif|else|while|try|except|match|case)\b.*|for\s\w+\sin\s.*|with\s.*\(.*):\s*$
    | ^\s*(?:import\s\w|from\s[\w.]+\simport\s|select\s|insert\sinto\s|delete\sfrom\s|create\s\w+\s\w+\.)
    """,
    re.VERBOSE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]`*_]*\s+(?=[\"'(\[`*_]*[A-Z0-9])")

_CODE_WORTH = 0.5
"""What a term in a line of code counts beside one in a sentence."""
_LENGTH_COST = 0.2
"""What part of its score a run of full length loses: of two with the same terms the shorter one is better."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of prose or of a comment, or a line of code."""

    text: str
    """Without comment marks and line breaks."""
    is_code: bool
    """Whether it is a line of code."""
    first_line: int
    """Where it begins, counted from the text's first line, which is 0."""
    last_line: int
    """Where it ends."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A run of sentences of a text."""

    text: str
    """The sentences, on one line."""
    score: float
    """How much of the question it has; 0 if nothing."""
    first_line: int
    """Where it begins, counted from the text's first line, which is 0."""
    last_line: int
    """Where it ends."""


def weigh(question: str, texts: Iterable[str]) -> dict[str, float]:
    """How much each term of the question says: the fewer of the sentences have it, the more."""
    asked = set(terms(question))
    found = dict.fromkeys(sorted(asked), 0)
    total = 0
    for text in texts:
        for sentence in sentences(text):
            total += 1
            for term in asked.intersection(terms(sentence.text)):
                found[term] += 1
    return {term: math.log(1 + (total + 1) / (count + 1)) for term, count in found.items()}


def best(text: str, weights: Mapping[str, float], *, longest: int) -> Excerpt:
    """The run of neighbouring sentences, `longest` characters at most, that has most of the question's terms.

    A comment takes the line of code along that it stands above, if there is room.
    """
    split = list(sentences(text))
    worth = [
        {
            term: weights[term] * (_CODE_WORTH if sentence.is_code else 1)
            for term in terms(sentence.text)
            if term in weights
        }
        for sentence in split
    ]
    chosen: tuple[float, int, int] = (0.0, 0, 0)
    for first in range(len(split)):
        length = -1
        covered: dict[str, float] = {}
        for last in range(first, len(split)):
            length += len(split[last].text) + 1
            if length > longest and last > first:
                break
            for term, value in worth[last].items():
                covered[term] = max(covered.get(term, 0.0), value)
            score = sum(covered.values()) * (1 - _LENGTH_COST * min(length / longest, 1))
            if score > chosen[0]:
                chosen = (score, first, last)
    score, first, last = chosen
    run = _rounded(split, first, last, longest) if score else []
    if not run:
        return Excerpt("", 0.0, 0, 0)
    text = " ".join(sentence.text for sentence in run)
    return Excerpt(_clip(text, longest), score, run[0].first_line, run[-1].last_line)


def _rounded(split: Sequence[Sentence], first: int, last: int, longest: int) -> list[Sentence]:
    """The run without the end of the declaration before it, and with the end of its own."""
    run = list(split[first : last + 1])
    while len(run) > 1 and run[0].is_code and run[0].text.endswith((";", ",")) and not run[1].is_code:
        del run[0]
    rest: list[Sentence] = []
    for sentence in split[last + 1 :] if not run[-1].is_code else ():
        if sentence.first_line - (rest or run)[-1].last_line > 1:
            break
        rest.append(sentence)
        if sentence.is_code:
            fits = sum(len(part.text) + 1 for part in [*run, *rest]) <= longest
            return run + rest if fits else run
    return run


def sentences(text: str) -> Iterator[Sentence]:
    """The sentences of prose and comments, and the lines of code, in order."""
    flowing: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n")):
        comment = _COMMENT.match(line)
        bare = _COMMENT_END.sub("", line[comment.end() if comment is not None else 0 :])
        item = _ITEM.match(bare)
        is_code = comment is None and _CODE.search(line) is not None
        if item is not None or is_code or not bare.strip():
            yield from _split(flowing)
            flowing = []
        if is_code:
            yield Sentence(" ".join(line.split()), is_code=True, first_line=number, last_line=number)
        elif bare.strip():
            flowing.append((number, " ".join(bare[item.end() if item is not None else 0 :].split())))
    yield from _split(flowing)


def _split(lines: Sequence[tuple[int, str]]) -> Iterator[Sentence]:
    """Joins lines of prose and cuts them into sentences."""
    ends: list[tuple[int, int]] = []
    at = 0
    for number, line in lines:
        at += len(line) + 1
        ends.append((at, number))
    joined = " ".join(line for _, line in lines)
    begins = [0, *(match.end() for match in _SENTENCE_END.finditer(joined))]
    for begin, end in zip(begins, [*begins[1:], len(joined)], strict=True):
        sentence = joined[begin:end].strip()
        if sentence:
            first = next(number for stop, number in ends if begin < stop)
            last = next(number for stop, number in ends if begin + len(sentence) <= stop)
            yield Sentence(sentence, is_code=False, first_line=first, last_line=last)


def _clip(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return text[: longest - 1].rsplit(" ", 1)[0] + "\u2026"
