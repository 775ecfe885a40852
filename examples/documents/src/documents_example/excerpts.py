"""Finding the part of a text that a question is about. Called by the extractive model, and for the sources' snippets."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from documents_example.terms import terms

_COMMENT = re.compile(r"\s*(?://+!?|\#+!?|--+|/\*+!?|\*+/|\*(?=\s)|\"{3}|'{3}|;;+|>(?=\s))\s?")
_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,3}[.)])\s+(?=\S)")
_CODE_END = re.compile(r"[{};,(\[=:\\|]\s*$|^\s*[)\]}]")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[`*_]*[A-Z0-9])")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A run of sentences of a text."""

    text: str
    """The sentences, on one line."""
    score: float
    """The weights of the question's terms that occur in it; 0 if none does."""


def weigh(question: str, texts: Iterable[str]) -> dict[str, float]:
    """How much each term of the question says: the fewer of the sentences have it, the more."""
    asked = set(terms(question))
    found = dict.fromkeys(asked, 0)
    total = 0
    for text in texts:
        for sentence in sentences(text):
            total += 1
            for term in asked.intersection(terms(sentence)):
                found[term] += 1
    return {term: math.log(1 + (total + 1) / (count + 1)) for term, count in found.items()}


def best(text: str, weights: Mapping[str, float], *, longest: int) -> Excerpt:
    """The run of neighbouring sentences, `longest` characters at most, that has most of the terms; short before long."""
    split = list(sentences(text))
    known = [frozenset(term for term in terms(sentence) if term in weights) for sentence in split]
    chosen: tuple[float, int, int] = (0.0, 0, 0)
    for first in range(len(split)):
        length = 0
        covered: frozenset[str] = frozenset()
        for last in range(first, len(split)):
            length += len(split[last]) + 1
            if length > longest and last > first:
                break
            covered |= known[last]
            # A tenth off for each full length: of two runs with the same terms the shorter one is better.
            score = sum(weights[term] for term in covered) * (1 - 0.1 * min(length / longest, 1))
            if score > chosen[0]:
                chosen = (score, first, last)
    score, first, last = chosen
    return Excerpt(_clip(" ".join(split[first : last + 1]), longest), score)


def sentences(text: str) -> Iterator[str]:
    """The sentences of prose and comments, and the lines of code, without comment marks and line breaks."""
    flowing: list[str] = []
    for line in text.split("\n"):
        bare = _COMMENT.sub("", line, count=1) if _COMMENT.match(line) else line
        is_comment = bare is not line
        item = _ITEM.match(bare)
        is_code = not is_comment and _CODE_END.search(bare) is not None
        if flowing and (not bare.strip() or item is not None or is_code):
            yield from _split(flowing)
            flowing = []
        if bare.strip():
            flowing.append(bare[item.end() :] if item is not None else bare)
            if is_code:
                yield from _split(flowing)
                flowing = []
    yield from _split(flowing)


def _split(lines: Sequence[str]) -> Iterator[str]:
    joined = _SPACES.sub(" ", " ".join(lines)).strip()
    yield from (sentence for sentence in _SENTENCE_END.split(joined) if sentence)


def _clip(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return text[: longest - 1].rsplit(" ", 1)[0] + "\u2026"
