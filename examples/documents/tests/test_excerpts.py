"""The part of a text that a question is about, and the answer made of such parts."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from documents_example.chunker import Chunk
from documents_example.excerpts import best, sentences, weigh
from documents_example.extractive import NO_ANSWER, ExtractiveModel
from documents_example.fusion import fuse
from documents_example.generated import weight_of
from documents_example.index import Passage
from documents_example.sources import Found, locate
from documents_example.terms import stem, terms, words

pytestmark = pytest.mark.unit

PROTO = """\
  // Never sent.
  REASON_UNSPECIFIED = 0;

  // The call's time is up and the pump goes on. Call again with
  // the same key.
  REASON_STILL_RUNNING = 1;
  // No such pump.
  REASON_NOT_FOUND = 2;
"""


def test_identifiers_are_taken_apart() -> None:
    assert words("IngestDocument max_attempts HTTPServer2 it's a-b") == (
        ["ingest", "document", "max", "attempts", "http", "server2", "its", "a", "b"]
    )


def test_terms_are_stems_without_the_words_that_say_nothing() -> None:
    assert terms("Where are the documents that were indexed?") == terms("document indexing")


def test_stems_are_right_in_many_threads_at_once() -> None:
    nouns = [f"{letter}{other}ation" for letter in "bcdfghjklmnpqrstvwxyz" for other in "aeioubcdfghjklmnp"]
    expected = [stem(noun) for noun in nouns]
    stem.cache_clear()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            rounds = list(threads.map(lambda _: [stem.__wrapped__(noun) for noun in nouns], range(8)))
    finally:
        sys.setswitchinterval(interval)

    assert rounds == [expected] * 8


def test_sentences_know_their_lines() -> None:
    assert [(s.text, s.is_code, s.first_line, s.last_line) for s in sentences(PROTO)] == [
        ("Never sent.", False, 0, 0),
        ("REASON_UNSPECIFIED = 0;", True, 1, 1),
        ("The call's time is up and the pump goes on.", False, 3, 3),
        ("Call again with the same key.", False, 3, 4),
        ("REASON_STILL_RUNNING = 1;", True, 5, 5),
        ("No such pump.", False, 6, 6),
        ("REASON_NOT_FOUND = 2;", True, 7, 7),
    ]


def test_items_of_a_list_are_sentences() -> None:
    assert [s.text for s in sentences("Methods:\n- by hand,\n  slowly\n- by machine\n")] == (
        ["Methods:", "by hand, slowly", "by machine"]
    )


def test_prose_is_not_taken_for_code() -> None:
    text = "Fans stop,\nfor the coil is hot (see below),\nwith the valve open:\nfrom then on call `reset()`.\n"

    assert [s.text for s in sentences(text)] == [" ".join(text.split())]


@pytest.mark.parametrize(
    "line",
    [
        "REASON = 1;",
        "return open_valve(seconds)",
        "    timeout: timedelta | None = None",
        "for pump in pumps:",
        "from plant import Pump",
        '    "pump": 1,',
        "select path from plant.pump",
        "}",
    ],
)
def test_code_is_taken_for_code(line: str) -> None:
    assert [s.is_code for s in sentences(line)] == [True]


def test_marks_within_a_line_are_kept() -> None:
    assert [s.text for s in sentences("Use a -- b, or **both** of them # here.")] == (
        ["Use a -- b, or **both** of them # here."]
    )


def test_an_excerpt_takes_the_declaration_along() -> None:
    found = best(PROTO, weigh("What if the time of a call is up?", [PROTO]), longest=200)

    assert found.text == (
        "The call's time is up and the pump goes on. Call again with the same key. REASON_STILL_RUNNING = 1;"
    )
    assert (found.first_line, found.last_line) == (3, 5)


def test_an_excerpt_is_no_longer_than_asked() -> None:
    text = "The pump " + "turns and " * 100 + "stops."

    found = best(text, weigh("pump", [text]), longest=50)

    assert found.text.startswith("The pump turns")
    assert found.text.endswith("\u2026")
    assert len(found.text) <= 50


def test_a_text_about_something_else_has_no_excerpt() -> None:
    assert best(PROTO, weigh("How is tea made?", [PROTO]), longest=200).score == 0
    assert best("", {}, longest=200).text == ""


def passage(path: str, text: str, score: float, *, first_line: int = 1) -> Passage:
    return Passage(path, Chunk(text, "", first_line, first_line + text.count("\n")), score)


def test_each_document_is_a_source_once_with_its_best_place() -> None:
    found = locate(
        "When is the boiler cleaned?",
        [
            passage("a.md", "The boiler stands in the cellar.", 0.03),
            passage("b.md", "Filters are cleaned weekly.", 0.02),
            passage("a.md", "Every year\nthe boiler is cleaned in May.", 0.029, first_line=40),
        ],
        limit=5,
        longest=100,
    )

    assert [(source.path, source.score, source.first_line, source.last_line) for source in found] == [
        ("a.md", 0.03, 40, 41),
        ("b.md", 0.02, 1, 1),
    ]
    assert found[0].quote == "Every year the boiler is cleaned in May."


def found_source(path: str, quote: str, worth: float) -> Found:
    return Found(path, quote, worth, 0.01, 1, 1)


async def test_an_answer_quotes_what_adds_something() -> None:
    answer = await ExtractiveModel().answer(
        "When is the boiler cleaned?",
        [
            found_source("a.md", "Boilers are cleaned by the northern crew of the plant.", 4.0),
            found_source("b.md", "The boiler is cleaned in May.", 5.0),
            found_source("c.md", "The boiler is cleaned in May!", 5.0),
            found_source("d.md", "Cleaning the boiler takes a day of the northern crew.", 5.0),
        ],
    )

    assert answer == "The boiler is cleaned in May. [2] Boilers are cleaned by the northern crew of the plant. [1]"


async def test_sources_without_a_word_of_the_question_are_no_answer() -> None:
    assert await ExtractiveModel().answer("Tea?", [found_source("a.md", "", 0.0)]) == NO_ANSWER
    assert await ExtractiveModel().answer("Tea?", []) == NO_ANSWER


def test_what_two_rankings_agree_on_comes_first() -> None:
    fused = fuse([(["a", "b", "c"], 1.0), (["b", "d"], 1.0)])

    assert [key for key, _ in fused] == ["b", "a", "d", "c"]
    assert fused[0][1] == pytest.approx((1 / 62 + 1 / 61) / (2 / 61))


def test_the_first_of_every_ranking_has_the_score_one() -> None:
    (key, score), *_ = fuse([(["a", "b"], 1.0), (["a", "c"], 0.3)])

    assert key == "a"
    assert score == pytest.approx(1)


def test_a_ranking_of_little_weight_decides_little() -> None:
    assert [key for key, _ in fuse([(["a", "b"], 1.0), (["b"], 0.01)])] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("# Generated by the protocol buffer compiler.  DO NOT EDIT!\n", 0.5),
        ('"""\n@generated by mypy-protobuf.\n', 0.5),
        ("// This file was automatically generated.\n", 0.5),
        ("How code is generated from a schema.\n", 1.0),
        ("\n" * 3000 + "do not edit", 1.0),
    ],
)
def test_generated_files_count_half(text: str, weight: float) -> None:
    assert weight_of(text) == weight
