"""Who a certificate is: rules by its URI and DNS names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rowcall_gateway.edge.credentials.certificates import Holder, Rules, read_rules


def rules(directory: Path, *given: dict[str, Any]) -> Rules:
    file = directory / "certificates.json"
    file.write_text(json.dumps({"certificate": given}))
    return read_rules(file)


def held(found: Rules, *, uri: str = "", dns: str = "", **others: str) -> Holder | None:
    names = {"peer_uri": uri, "peer_dns": dns, **others}
    return found.find({key: [name.encode()] for key, name in names.items() if name})


SPIFFE = {"uri": "spiffe://prod.example/ns/{tenant}/sa/{actor}", "roles": ["caller"], "scopes": ["jobs.write"]}


def test_a_spiffe_id_says_tenant_and_actor(tmp_path: Path) -> None:
    found = held(rules(tmp_path, SPIFFE), uri="spiffe://prod.example/ns/acme/sa/billing")
    assert found is not None
    assert (found.tenant, found.actor) == ("acme", "billing")
    assert (set(found.roles), set(found.scopes)) == ({"caller"}, {"jobs.write"})
    assert (found.may_act_for("acme"), found.may_act_for("bolt"), found.may_act_for_all) == (True, False, False)


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://prod.example/ns/acme/sa/billing/more",
        "spiffe://prod.example/ns/acme/x/sa/billing",
        "spiffe://prod.example.eve.net/ns/acme/sa/billing",
        "xspiffe://prod.example/ns/acme/sa/billing",
        "spiffe://prodXexample/ns/acme/sa/billing",
        "spiffe://prod.example/ns//sa/billing",
        "spiffe://prod.example/ns/Acme/sa/billing",
        "spiffe://prod.example/ns/acme/sa/bill\ning",
        "spiffe://prod.example/ns/acme/sa/" + "x" * 256,
        "SPIFFE://prod.example/ns/acme/sa/billing",
    ],
)
def test_a_name_that_is_not_quite_it_is_nobody(tmp_path: Path, uri: str) -> None:
    assert held(rules(tmp_path, SPIFFE), uri=uri) is None


def test_dns_names_are_alike_in_either_case_and_a_star_is_one_label(tmp_path: Path) -> None:
    found = rules(tmp_path, {"dns": "*.Callers.example.com", "tenant": "acme"})
    holder = held(found, dns="Billing.callers.EXAMPLE.com")
    assert holder is not None
    assert (holder.tenant, holder.actor) == ("acme", "billing.callers.example.com")
    assert held(found, dns="a.b.callers.example.com") is None
    assert held(found, dns="callers.example.com") is None


def test_names_of_other_kinds_are_not_looked_at(tmp_path: Path) -> None:
    found = rules(tmp_path, {"dns": "billing.example.com", "tenant": "acme"}, SPIFFE)
    name = "spiffe://prod.example/ns/acme/sa/billing"
    assert held(found, dns=name) is None, "a DNS name that reads like a URI"
    assert held(found, uri="billing.example.com") is None
    for kind in ("x509_common_name", "x509_subject_alternative_name", "peer_email", "peer_ip"):
        assert held(found, **{kind: "billing.example.com"}) is None
        assert held(found, **{kind: name}) is None


def test_the_first_rule_that_fits_counts(tmp_path: Path) -> None:
    found = rules(
        tmp_path,
        {"dns": "root.example.com", "roles": ["admin"], "actor": "root"},
        {"dns": "*.example.com", "tenant": "acme"},
    )
    root, other = held(found, dns="root.example.com"), held(found, dns="x.example.com")
    assert root is not None
    assert other is not None
    assert (root.tenant, root.actor, root.may_act_for_all) == ("", "root", True)
    assert (other.tenant, other.roles) == ("acme", frozenset())


def test_with_tokens_a_rule_may_leave_the_tenant_to_them_within_bounds(tmp_path: Path) -> None:
    found = rules(tmp_path, {"dns": "edge.example.com", "tenants": ["acme", "b-*"]})
    holder = held(found, dns="edge.example.com")
    assert holder is not None
    assert [holder.may_act_for(name) for name in ("acme", "b-1", "bolt", "acme2")] == [True, True, False, False]
    assert list(found.without_tenant) == [0]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"tenant": "acme"}, "name one"),
        ({"uri": "spiffe://a", "dns": "a", "tenant": "acme"}, "name one"),
        ({"dns": "a"}, "does not say its tenant"),
        ({"dns": "{tenant}.example.com", "tenant": "acme"}, "more than one way"),
        ({"dns": "{tenant}.{tenant}"}, "twice"),
        ({"dns": "{user}.example.com", "tenant": "acme"}, "braces around something else"),
        ({"uri": "prod.example/ns/{tenant}"}, "without a scheme"),
        ({"dns": "a.{actor}", "tenant": "acme", "actor": "ada"}, "says its actor twice"),
        ({"dns": "a", "tenant": "acme", "roles": ["Caller"]}, "which is none of Rowcall's: write 'caller'"),
        ({"dns": "a", "tenant": "acme", "role": ["caller"]}, "certificate.0.role: is no setting of ours"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, rule: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        rules(tmp_path, rule)
    assert told in str(refused.value)
