"""Holding a message to the rules of its own proto, before anything is written.

The rules are protovalidate's (buf.validate options), enforced by its native engine. The engine finds them through the
message's own descriptor, so a message of an image's pool needs no generated code; predefined rules work too.
Used by the gateway, which compiles an image's rules when it is loaded (`rowcall.catalogue.images`), and by the worker for what
handlers submit. The engine is imported with the first type that has rules: it takes a tenth of a service's start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, cast

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest

from buf.validate import validate_pb2
from rowcall.errors import MORE_VIOLATIONS, RowcallError
from rowcall.v1.error_reason_pb2 import ErrorReason

if TYPE_CHECKING:
    import protovalidate

MAX_VIOLATIONS: Final = 100
"""How many violations are told apart. A request can break rules a hundred thousand times; no error can carry that."""

_MAX_TEXT: Final = 512
# What the engine says before a rule's id; only the id is ours to tell, the rest may quote the request.
_RULE_ID = re.compile(r"(?:failed to compile expression|error evaluating) ([^\s:]+):")


class RulesError(ValueError):
    """The rules of a message type cannot be compiled; the message names the type and quotes the compiler."""


class Validator:
    """Checks messages against the rules of their types. One instance serves a process; it may be shared by threads.

    A type's rules are compiled once. The engine knows types by name alone, and two pools may hold different rules
    under one name; hence an engine for each pool, kept as long as this instance.
    """

    def __init__(self) -> None:
        self._engines: dict[DescriptorPool, protovalidate.Validator] = {}
        # None where neither the type nor one within it has a rule. Walking such a message for nothing costs
        # 1.2 µs for each message within it, 12 ms of a busy event loop for ten thousand.
        self._by_class: dict[type[Message], protovalidate.Validator | None] = {}

    def check(self, message: Message, *, prefix: str = "") -> None:
        """Refuses a message that breaks rules.

        Args:
            message: Of any generated or dynamic class.
            prefix: Where the message is in the call's request, before each field path: "requests[3].request".

        Raises:
            RowcallError: INVALID_REQUEST with all violations in BadRequest; INTERNAL if a rule cannot be evaluated,
                which is the rule's fault, not the caller's.
        """
        engine = self._engine_of(type(message))
        if engine is None:
            return
        try:
            found = engine.collect_violations(message)
        except _engine_errors() as error:
            raise RowcallError(
                ErrorReason.ERROR_REASON_INTERNAL,
                f"{_rule_of(error)} of {message.DESCRIPTOR.full_name} could not be evaluated for this request; mend the rule "
                "in its proto, so that it holds for every value, and load the image again.",
                metadata={"type": message.DESCRIPTOR.full_name},
            ) from error
        if found:
            raise _refusal(message.DESCRIPTOR.full_name, found, prefix)

    def prepare(self, message_class: type[Message]) -> None:
        """Compiles the rules of a type and of all types within it, which the engine else does at their first use.

        Raises:
            RulesError: A rule cannot be compiled.
        """
        engine = self._engine_of(message_class)
        if engine is None:
            return
        for part in _types_within(_descriptor(message_class)):
            empty = message_factory.GetMessageClass(part)()
            compilation_error, evaluation_error = _engine_errors()
            try:
                engine.collect_violations(empty)
            except compilation_error as error:
                # The lines after the first draw an arrow below the expression.
                what = str(error).partition("\n")[0]
                raise RulesError(f"the rules of message {part.full_name}: {what}") from error
            except evaluation_error:
                # It compiles. Whether it holds for values is for the calls that carry some.
                continue

    def _engine_of(self, message_class: type[Message]) -> protovalidate.Validator | None:
        try:
            return self._by_class[message_class]
        except KeyError:
            descriptor = _descriptor(message_class)
            engine = None
            if any(_has_rules(part) for part in _types_within(descriptor)):
                engine = self._engines.get(descriptor.file.pool)
                if engine is None:
                    engine = self._engines[descriptor.file.pool] = _make_engine()
            self._by_class[message_class] = engine
            return engine


def _make_engine() -> protovalidate.Validator:
    import protovalidate

    return protovalidate.Validator()


def _engine_errors() -> tuple[type[Exception], type[Exception]]:
    """What an engine raises for rules that cannot be compiled, and for those that cannot be evaluated."""
    import protovalidate

    return protovalidate.CompilationError, protovalidate.EvaluationError


def violations(found: Sequence[protovalidate.Violation], *, prefix: str = "") -> BadRequest:
    """What protovalidate found, as callers are told it: field path, the rule's id as the reason, and what is wrong.

    A violation of a rule of the whole message, or of a oneof, has the path of that message or oneof.
    """
    request = BadRequest()
    for violation in found[:MAX_VIOLATIONS]:
        proto = violation.proto
        message = proto.message or f"breaks the rule {proto.rule_id}"
        request.field_violations.add(
            field=_short(_path(proto, prefix, keys=True)),
            description=_short(f"the map's key: {message}" if proto.for_key else message),
            reason=_short(proto.rule_id),
        )
    if len(found) > MAX_VIOLATIONS:
        request.field_violations.add(description=MORE_VIOLATIONS)
    return request


def _refusal(type_name: str, found: Sequence[protovalidate.Violation], prefix: str) -> RowcallError:
    first = found[0].proto
    # A map's key is the caller's data, and the message, unlike the details, may be logged.
    place = _path(first, prefix, keys=False) or "the message itself"
    more = "" if len(found) == 1 else f", and {len(found) - 1} more"
    return RowcallError(
        ErrorReason.ERROR_REASON_INVALID_REQUEST,
        f"The {type_name} breaks rules of its proto: {_short(place)} ({first.rule_id}){more}; mend what "
        "BadRequest lists and call again.",
        details=[violations(found, prefix=prefix)],
    )


def _rule_of(error: Exception) -> str:
    match = _RULE_ID.search(str(error))
    return "A rule" if match is None else f"The rule {match[1]}"


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _path(violation: protovalidate.ViolationPb, prefix: str, *, keys: bool) -> str:
    """A field path as google.rpc writes it: `items[0].name`, `by_name["key"].size`; keys in it only if asked for."""
    parts = [prefix] if prefix else []
    for element in violation.field.elements if violation.field is not None else ():
        part = element.field_name
        if element.subscript is not None:
            value = element.subscript.value
            if element.subscript.field == "index":
                part += f"[{value}]"
            else:
                part += f"[{json.dumps(value, ensure_ascii=False)}]" if keys else "[…]"
        parts.append(part)
    return ".".join(parts)


def _descriptor(message_class: type[Message]) -> Descriptor:
    # The stubs have two names for the one class.
    return cast("Descriptor", message_class.DESCRIPTOR)


def _types_within(descriptor: Descriptor) -> Iterator[Descriptor]:
    """A message type and those of its fields, down to the last, each once."""
    seen = {descriptor}
    waiting = [descriptor]
    while waiting:
        part = waiting.pop()
        yield part
        for field in part.fields:
            if field.message_type is not None and field.message_type not in seen:
                seen.add(field.message_type)
                waiting.append(field.message_type)


def _has_rules(descriptor: Descriptor) -> bool:
    """Whether a type has rules of its own. Rules on extensions of a message are not among them: the engine has none."""
    return (
        descriptor.GetOptions().HasExtension(validate_pb2.message)
        or any(oneof.GetOptions().HasExtension(validate_pb2.oneof) for oneof in descriptor.oneofs)
        or any(field.GetOptions().HasExtension(validate_pb2.field) for field in descriptor.fields)
    )
