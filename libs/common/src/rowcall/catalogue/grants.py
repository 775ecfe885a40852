"""Who may call each method that a gateway serves: the whole table, its bounds, and what it lacks.

Used by the gateway at its start and by `rowcall access`, with the same settings. Rules of our own services, of operations,
health and reflection are the release's own: an image that brings a larger copy of their files changes none of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from rowcall.catalogue.access import ACCESS, SERVICE_ACCESS, Declared, Source, rule_of
from rowcall.catalogue.images import COMMON, Catalogue
from rowcall.catalogue.served import ANY, ServedSettings
from rowcall.options.v1 import access_pb2
from rowcall.probe.v1 import probe_pb2
from rowcall.security.access import CLOSED, AccessRule
from rowcall.security.roles import ADMIN, CALLER, OPERATOR, PAYLOAD_VIEWER, ROLES, VIEWER

OPERATIONS: Final = "google.longrunning.Operations"
HEALTH: Final = "grpc.health.v1.Health"
REFLECTION: Final = "grpc.reflection.v1alpha.ServerReflection"

EVERY: Final = "*"
"""In place of a method's name: every method of the service that has no rule of its own."""

HOW_TO_GRANT: Final = (
    "A method's rule is two lines, one in its file and one in the method (or, as service_access, in its service):",
    '    import "rowcall/options/v1/access.proto";',
    '    option (rowcall.options.v1.access) = {roles: "caller"};',
    "For images whose authors know nothing of it, set ROWCALL_ACCESS_DEFAULT=roles:caller (--access-default).",
)
"""What is said behind the methods that have no rule."""

_OUR_PACKAGES: Final = "rowcall."
_READERS: Final = AccessRule(frozenset({CALLER, OPERATOR, VIEWER, PAYLOAD_VIEWER, ADMIN}))

_IN_CODE: Final[Mapping[str, AccessRule]] = MappingProxyType(
    {
        f"{OPERATIONS}/ListOperations": _READERS,
        f"{OPERATIONS}/GetOperation": _READERS,
        f"{OPERATIONS}/WaitOperation": _READERS,
        f"{OPERATIONS}/CancelOperation": AccessRule(frozenset({CALLER, OPERATOR, ADMIN})),
        # What is erased is the caller's own, and nobody looks after it any more.
        f"{OPERATIONS}/DeleteOperation": AccessRule(frozenset({CALLER, ADMIN})),
        f"{HEALTH}/{EVERY}": AccessRule(public=True),
    }
)
"""Of services that are ours to serve and not ours to write options into."""


class MethodAccess(NamedTuple):
    """Who may call a method."""

    rule: AccessRule
    """Closed, where it has none."""
    source: Source
    """Where that is from."""


@dataclass(frozen=True, slots=True)
class AccessTable:
    """Who may call each method."""

    methods: Mapping[str, MethodAccess]
    """By name, "package.Service/Method", in order; of health and reflection "package.Service/*"."""
    default: AccessRule | None
    """Of methods whose images give them none."""
    violations: Sequence[str]
    """A line for each rule that grants more than the settings let an image grant: no gateway starts with one."""
    lacking: Sequence[str]
    """A line for each method without a rule, and what to do: no gateway that knows its callers by credentials starts with
    one. Empty where each has one."""

    @property
    def ruleless(self) -> Sequence[str]:
        """The names of the methods without a rule."""
        return [name for name, access in self.methods.items() if access.source is Source.NONE]

    def of(self, method: str) -> AccessRule | None:
        """The rule of a method by its name; None where no such method is served."""
        found = self.methods.get(method) or self.methods.get(f"{method.partition('/')[0]}/{EVERY}")
        return None if found is None else found.rule


def built_in_rules() -> dict[str, AccessRule]:
    """The rules of every method that comes with this release, reflection's apart, by name; closed where one was forgotten."""
    rules = dict(_IN_CODE)
    for file in (*COMMON, probe_pb2.DESCRIPTOR):
        if not file.package.startswith(_OUR_PACKAGES):
            continue
        for service in file.services_by_name.values():
            options = service.GetOptions()
            shared = (
                rule_of(options.Extensions[access_pb2.service_access])
                if options.HasExtension(access_pb2.service_access)
                else CLOSED
            )
            for method in service.methods:
                own = method.GetOptions()
                rules[f"{service.full_name}/{method.name}"] = (
                    rule_of(own.Extensions[access_pb2.access]) if own.HasExtension(access_pb2.access) else shared
                )
    return rules


def access_table(catalogue: Catalogue, settings: ServedSettings) -> AccessTable:
    """Who may call what of a catalogue, by its images and the settings."""
    ours = built_in_rules()
    served = {
        name: MethodAccess(rule, Source.BUILT_IN)
        for name, rule in ours.items()
        if name in catalogue.methods or not name.startswith(f"{probe_pb2.DESCRIPTOR.package}.")
    }
    if settings.reflection:
        served[f"{REFLECTION}/{EVERY}"] = MethodAccess(settings.reflection_rule, Source.BUILT_IN)
    violations: list[str] = []
    lacking: list[str] = []
    for name, declared in catalogue.access.items():
        if name in ours:
            continue
        served[name] = _of_image(declared, settings.default_rule)
        violations += _beyond(declared, settings)
        if served[name].source is Source.NONE:
            lacking.append(f"{declared.place}: has no access rule, so nobody may call it")
    return AccessTable(
        methods=MappingProxyType(dict(sorted(served.items()))),
        default=settings.default_rule,
        violations=tuple(violations),
        lacking=(*sorted(lacking), *HOW_TO_GRANT) if lacking else (),
    )


def _of_image(declared: Declared, default: AccessRule | None) -> MethodAccess:
    if declared.rule is not None:
        return MethodAccess(declared.rule, declared.source)
    return MethodAccess(CLOSED, Source.NONE) if default is None else MethodAccess(default, Source.DEFAULT)


def _beyond(declared: Declared, settings: ServedSettings) -> Iterator[str]:
    """A line for each thing that a rule of an image grants and may not."""
    rule = declared.rule
    if rule is None:
        return
    where = f"{declared.place}: {ACCESS if declared.source is Source.OWN else SERVICE_ACCESS}"
    for role in sorted(rule.roles):
        if role not in settings.image_roles and (role in ROLES or ANY not in settings.image_roles):
            yield (
                f"{where} names the role {role!r}; images may name {_listed(settings.image_roles)}: leave it out, or allow "
                "it by ROWCALL_IMAGE_ROLES (--image-role)"
            )
    for scope in sorted(rule.scopes):
        if not _within(scope, settings.image_scopes):
            yield (
                f"{where} names the scope {scope!r}; images may name {_listed(settings.image_scopes)}: leave it out, or allow "
                "it by ROWCALL_IMAGE_SCOPES (--image-scope)"
            )
    if rule.public and not settings.public_tenant:
        yield (
            f"{where} is public, and whose calls those without a credential are is not said: leave it out, or name their "
            "tenant by ROWCALL_PUBLIC_TENANT (--public-tenant)"
        )


def _within(scope: str, allowed: Collection[str]) -> bool:
    return any(scope.startswith(each[:-1]) if each.endswith(ANY) else scope == each for each in allowed)


def _listed(names: Collection[str]) -> str:
    return ", ".join(names) or "none"
