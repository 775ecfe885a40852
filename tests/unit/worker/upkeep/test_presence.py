"""What is said of methods and queues that nobody submits to."""

from __future__ import annotations

import pytest

from rowcall_worker.upkeep.presence import Missing

PRINT, FOLD, MAIL = "acme.v1.PrintService/Print", "acme.v1.PrintService/Fold", "acme.v1.MailService/Send"
PUBLISHED = {PRINT: "quotes", MAIL: "mail"}


@pytest.mark.parametrize(
    ("methods", "queues", "causes"),
    [
        ([PRINT, MAIL], [], []),
        ([PRINT], ["quotes"], []),
        ([PRINT], ["qoutes"], ["queue qoutes: no method is submitted to it; did you mean quotes?"]),
        ([PRINT], ["quotes", "documents"], ["queue documents: no method is submitted to it"]),
        ([PRINT], ["mail"], ["queue mail: the methods that are submitted to it are not served here"]),
        (
            ["acme.v1.PrintService/Prnt", MAIL],
            [],
            [f"method acme.v1.PrintService/Prnt: no gateway has published it here; did you mean {PRINT}?"],
        ),
        (["other.v2.Unlike/Any"], [], ["method other.v2.Unlike/Any: no gateway has published it here"]),
    ],
)
def test_each_is_named_with_what_is_known_of_it(methods: list[str], queues: list[str], causes: list[str]) -> None:
    missing = Missing(methods, queues, PUBLISHED)
    assert missing.causes == causes
    assert bool(missing) is bool(causes)


def test_where_nothing_is_published_that_alone_is_said() -> None:
    missing = Missing([PRINT, FOLD], ["quotes"], {})
    assert (missing.methods, missing.queues) == ([FOLD, PRINT], ["quotes"])
    assert missing.causes == ["no gateway has published a method on this shard yet"]
