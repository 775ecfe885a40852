"""Which files the demo takes, and what it asks about them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rowcall_standalone.demo.corpus import Corpus, Document, collect
from rowcall_standalone.demo.questions import COUNT, questions_for
from rowcall_standalone.errors import StandaloneError
from tests.support.places import ROOT


def write(root: Path, *paths: str, text: str = "some text\n") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def paths(corpus: Corpus) -> list[str]:
    return [document.path for document in corpus.documents]


def corpus_of(**texts: str) -> Corpus:
    return Corpus(Path("/corpus"), [Document(path, text.encode()) for path, text in texts.items()], {})


def test_prose_comes_first_then_source_then_data(tmp_path: Path) -> None:
    write(tmp_path, "uv.lock", "b/deep.md", "a.py", "README.md", "c/data.json", "c/x.proto")

    assert paths(collect(tmp_path, 10)) == ["README.md", "b/deep.md", "a.py", "c/x.proto", "uv.lock", "c/data.json"]


def test_the_limit_is_kept_and_what_is_beyond_it_counted(tmp_path: Path) -> None:
    write(tmp_path, *(f"{number}.md" for number in range(7)))

    corpus = collect(tmp_path, 5)

    assert len(corpus.documents) == 5
    assert corpus.left_out == {"beyond the first 5": 2}


def test_a_work_tree_is_listed_as_git_has_it(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    write(tmp_path, ".gitignore", text="ignored.md\nout/\n")
    write(tmp_path, "kept.md", "ignored.md", "out/made.md", ".ci/run", "gone.md")
    subprocess.run(["git", "-C", tmp_path, "add", "gone.md"], check=True)
    (tmp_path / "gone.md").unlink()

    corpus = collect(tmp_path, 10)

    assert paths(corpus) == ["kept.md", ".gitignore", ".ci/run"]
    assert corpus.left_out == {"not plain files": 1}


def test_links_are_not_followed_out_of_the_directory(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/secret.txt", "docs/mine.txt")
    (tmp_path / "docs" / "link.txt").symlink_to(tmp_path / "elsewhere" / "secret.txt")
    (tmp_path / "docs" / "folder").symlink_to(tmp_path / "elsewhere")

    assert paths(collect(tmp_path / "docs", 10)) == ["mine.txt"]


def test_two_directories_are_two_tenants(tmp_path: Path) -> None:
    write(tmp_path, "one/a.md", "two/a.md")

    one, two = collect(tmp_path / "one", 10), collect(tmp_path / "two", 10)

    assert one.tenant != two.tenant
    assert one.tenant == collect(tmp_path / "one", 10).tenant


def test_a_limit_that_leaves_nothing_is_refused_with_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\0\0")
    (tmp_path / "b.txt").write_text(" \n")

    with pytest.raises(StandaloneError, match=r"no text files to work on \(1 binary, 1 empty\)"):
        collect(tmp_path, 10)


def test_questions_are_made_of_headings_that_one_document_alone_has() -> None:
    corpus = corpus_of(
        a="# The same heading everywhere here\n\n# How the lighthouse keeper counts ships\n",
        b="# The same heading everywhere here\n\nThe lamp burns whale oil in winter.\n",
    )

    asked = questions_for(corpus)

    assert [(question.text, question.expected) for question in asked[:2]] == [
        ("What is said about: How the lighthouse keeper counts ships?", "a"),
        ("What is said about: The lamp burns whale oil in winter?", "b"),
    ]


def test_a_heading_is_asked_about_once() -> None:
    corpus = corpus_of(a="# Boilers\n\nServiced every 14 months.\n")

    assert [question.text for question in questions_for(corpus)] == [
        "What is said about: Boilers?",
        "What is said about: Serviced every 14 months?",
    ]


def test_every_document_is_asked_about_before_one_is_asked_about_twice() -> None:
    corpus = corpus_of(
        **{f"d{number}": f"Paragraph {word} one two three\n\nAnother {word} four five six\n" for number, word in
           enumerate(("red", "green", "blue"))}
    )  # fmt: skip

    assert [question.expected for question in questions_for(corpus)] == ["d0", "d1", "d2", "d0", "d1"]


def test_a_tiny_corpus_is_asked_about_what_it_has() -> None:
    assert [question.text for question in questions_for(corpus_of(a="hello\n"))] == ["What is said about: hello?"]
    assert questions_for(corpus_of(a="42\n")) == []


def test_this_repository_has_questions_of_its_own() -> None:
    asked = questions_for(collect(ROOT, 200))

    assert len(asked) == COUNT
    assert not any(question.made for question in asked)
    assert all((ROOT / question.expected).is_file() for question in asked)
