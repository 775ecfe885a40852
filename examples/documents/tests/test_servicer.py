"""The servicer behind a plain gRPC server, on a real Postgres: what a caller of the two methods sees."""

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from documents_example.extractive import NO_ANSWER

if TYPE_CHECKING:
    from examples.documents.tests.conftest import Client

pytestmark = pytest.mark.integration

CORPUS = Path(__file__).parent / "corpus"

QUESTIONS = [
    ("heat-pump-defrost.md", "How does a heat pump get rid of the ice on its outdoor coil?"),
    ("heat-pump-defrost.md", "When should a controller start defrosting?"),
    ("heat-pump-defrost.md", "why do the fins freeze and what ends the defrost"),
    ("battery-thermal-runaway.md", "What makes a lithium-ion cell go into thermal runaway?"),
    ("battery-thermal-runaway.md", "How is a burning battery pack extinguished?"),
    ("battery-thermal-runaway.md", "Which sensors notice early that a cell is venting?"),
    ("water-hammer.md", "How slowly must a valve be closed to avoid a pressure surge in a long main?"),
    ("water-hammer.md", "What happens in the pipe when the pump loses power?"),
    ("water-hammer.md", "Why does a swing check valve slam?"),
    ("ship-ballast-water.txt", "Which organisms may ballast water contain when it is discharged?"),
    ("ship-ballast-water.txt", "How is sea water treated aboard before it is pumped out?"),
    ("ship-ballast-water.txt", "What is done about mud in the tanks of a bulk carrier?"),
    ("rail-welding.md", "At which temperature is continuous rail free of stress?"),
    ("rail-welding.md", "What is a thermite weld made of?"),
    ("rail-welding.md", "How straight must a welded joint be?"),
]
"""Five subjects, each asked about in three ways, and the file that has the answer."""


async def ingest_corpus(client: "Client") -> None:
    files = sorted(CORPUS.iterdir())
    assert len(files) == 12
    await asyncio.gather(*(client.ingest(file.name, file.read_bytes()) for file in files))


async def test_questions_find_the_right_file_among_the_first_three_sources(client: "Client") -> None:
    await ingest_corpus(client)

    answers = [(expected, question, await client.ask(question)) for expected, question in QUESTIONS]

    missed = {
        question: paths
        for expected, question, answer in answers
        if expected not in (paths := [source.path for source in answer.sources[:3]])
    }
    assert missed == {}
    assert all(answer.answer != NO_ANSWER for _, _, answer in answers)


async def test_an_answer_quotes_its_sources_and_says_where(client: "Client") -> None:
    await ingest_corpus(client)

    answer = await client.ask("How much grease belongs into a bearing housing?")

    assert "a third to a half" in answer.answer.lower()
    assert "[1]" in answer.answer
    (first, *_) = answer.sources
    assert first.path == "grease-lubrication.md"
    lines = (CORPUS / first.path).read_text("utf-8").split("\n")[first.first_line - 1 : first.last_line]
    assert " ".join(" ".join(lines).split()).find(first.snippet) >= 0
    assert [source.score for source in answer.sources] == sorted(
        (source.score for source in answer.sources), reverse=True
    )


async def test_sources_are_as_many_as_asked_for_each_document_once(client: "Client") -> None:
    await ingest_corpus(client)

    default = await client.ask("water")
    two = await client.ask("water", max_sources=2)

    assert len(default.sources) == 5
    assert len({source.path for source in default.sources}) == 5
    assert list(two.sources) == list(default.sources[:2])


async def test_identifiers_are_found_by_plain_words(client: "Client") -> None:
    await client.ingest("a.py", b"def resetFlowMeter(max_attempts):\n    return None\n")
    await client.ingest("b.py", b"def open_valve(seconds):\n    return None\n")

    answer = await client.ask("how is the flow meter reset")

    assert answer.sources[0].path == "a.py"


async def test_the_same_document_again_changes_nothing(client: "Client") -> None:
    content = (CORPUS / "water-hammer.md").read_bytes()

    first = await client.ingest("water-hammer.md", content)
    again = await client.ingest("water-hammer.md", content)

    assert first.changed
    assert not again.changed
    assert first.chunks > 1
    assert (again.document_id, again.digest, again.chunks) == (first.document_id, first.digest, first.chunks)
    assert first.digest == hashlib.sha256(content).hexdigest()


async def test_of_many_ingests_of_one_document_at_once_one_changes_the_index(client: "Client") -> None:
    content = (CORPUS / "wing-flutter.md").read_bytes()

    answers = await asyncio.gather(*(client.ingest("wing-flutter.md", content) for _ in range(8)))

    assert sorted(answer.changed for answer in answers) == [False] * 7 + [True]
    assert len({(answer.document_id, answer.chunks) for answer in answers}) == 1
    assert len((await client.ask("flutter")).sources) == 1


async def test_changed_content_replaces_what_was_there(client: "Client") -> None:
    before = await client.ingest("plan.md", b"# Plan\n\nThe turbine is inspected in March by the northern crew.\n")
    after = await client.ingest("plan.md", b"# Plan\n\nThe boiler is cleaned in May.\n")

    assert after.changed
    assert after.document_id == before.document_id
    assert after.digest != before.digest
    answer = await client.ask("When is the boiler cleaned?")
    assert "The boiler is cleaned in May." in answer.answer
    gone = await client.ask("Which crew inspects the turbine?")
    assert gone.answer == NO_ANSWER
    assert "turbine" not in "".join(source.snippet for source in gone.sources)


async def test_an_emptied_document_is_no_longer_found(client: "Client") -> None:
    await client.ingest("note.txt", b"The spare key hangs behind the switchboard.")
    emptied = await client.ingest("note.txt", b"\n")

    assert (emptied.changed, emptied.chunks) == (True, 0)
    assert not (await client.ask("Where is the spare key?")).sources


async def test_another_tenant_sees_nothing_and_changes_nothing(client: "Client") -> None:
    other = client.of("other")
    mine = await client.ingest("secret.md", b"The vault opens with the word heliotrope.")

    answer = await other.ask("Which word opens the vault?")
    assert answer.answer == NO_ANSWER
    assert not answer.sources

    theirs = await other.ingest("secret.md", b"The vault opens with the word heliotrope.")
    assert theirs.changed
    assert theirs.document_id != mine.document_id
    assert (await other.ingest("secret.md", b"Nothing is kept in this vault.")).changed
    assert "heliotrope" in (await client.ask("Which word opens the vault?")).answer
    assert not (await client.ingest("secret.md", b"The vault opens with the word heliotrope.")).changed


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"ELF\x00", "U+0000"),
        (b"\x89PNG\r\n\x1a\n", "byte 0 is not UTF-8"),
        ("gr\u00fcn".encode("latin-1"), "byte 2 is not UTF-8"),
    ],
)
async def test_what_is_not_text_is_refused(client: "Client", content: bytes, what: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.ingest("picture.png", content)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = refused.value.details() or ""
    assert "the content is not text" in details
    assert what in details
    assert "Send" in details
    assert not (await client.ask("picture")).sources


async def test_a_question_without_words_has_no_answer(client: "Client") -> None:
    await client.ingest("note.txt", b"The spare key hangs behind the switchboard.")

    for question in ("???", "what is it and how"):
        answer = await client.ask(question)
        assert answer.answer == NO_ANSWER
        assert not answer.sources


async def test_a_document_of_one_very_long_line_is_indexed(client: "Client") -> None:
    line = " ".join(f"word{number}" for number in range(20_000))

    ingested = await client.ingest("long.txt", line.encode())

    assert ingested.chunks > 100
    answer = await client.ask("word12345")
    assert (answer.sources[0].first_line, answer.sources[0].last_line) == (1, 1)
    assert "word12345" in answer.sources[0].snippet
