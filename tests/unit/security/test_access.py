"""Access rules as settings write them, and who they let call."""

from __future__ import annotations

import pytest

from rowcall.security.access import CLOSED, AccessRule, parse_rule

SHOP = AccessRule(frozenset({"caller", "clerk"}), frozenset({"shop.read", "shop.buy"}))


@pytest.mark.parametrize(
    "text",
    ["public", "roles:caller", "roles:caller,shop-clerk", "scopes:shop.read", "roles:caller scopes:shop.buy,shop.read"],
)
def test_a_rule_is_read_as_it_is_written(text: str) -> None:
    assert str(parse_rule(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no access rule"),
        ("caller", "is no access rule"),
        ("role:caller", "is no access rule"),
        ("roles:caller roles:operator", "is no access rule"),
        ("public roles:caller", "is no access rule"),
        ("roles:", "has roles: without a name"),
        ("roles:,", "has roles: without a name"),
        ("roles:Caller", "write 'caller'"),
        ("roles:payload_viewer", "write 'payload-viewer'"),
        ("scopes:é", "which no credential can give"),
        ("roles:" + "x" * 256, "255 characters at most"),
    ],
)
def test_what_is_no_rule_is_refused_with_how_it_is_written(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_rule(text)


@pytest.mark.parametrize(
    ("roles", "scopes", "lets"),
    [
        ({"caller"}, {"shop.read", "shop.buy", "more"}, True),
        ({"clerk", "viewer"}, {"shop.read", "shop.buy"}, True),
        ({"caller"}, {"shop.read"}, False),
        ({"viewer"}, {"shop.read", "shop.buy"}, False),
        (set(), {"shop.read", "shop.buy"}, False),
        # None of the roles stands for another.
        ({"admin", "operator"}, {"shop.read", "shop.buy"}, False),
    ],
)
def test_any_of_the_roles_and_all_of_the_scopes(roles: set[str], scopes: set[str], lets: bool) -> None:
    assert SHOP.lets(roles, scopes) is lets


def test_a_rule_that_says_nothing_lets_nobody_call_and_a_public_one_everybody() -> None:
    assert not CLOSED.lets({"caller", "admin"}, {"shop.read"})
    assert str(CLOSED) == "nobody"
    assert AccessRule(public=True).lets(set(), set())
    assert AccessRule(scopes=frozenset({"a"})).lets(set(), {"a"})
