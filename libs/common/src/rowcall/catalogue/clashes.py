"""What two images define differently of a method that both have, so that only one of them could be served.

Used by `rowcall.catalogue.images` alone. Two images may have whatever files and types of one name they like; what must be the
same is a method that both would serve: what it takes and answers, down to the last type within, its policy and who may call it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto

from rowcall.catalogue.access import Declared
from rowcall.catalogue.model import JobMethod

_TOLD: Final = 5
"""As many types are named."""


def differences(one: JobMethod, other: JobMethod, one_rule: Declared, other_rule: Declared) -> list[str]:
    """What is not the same of one method in two images, in words: "the message acme.v1.Order"; empty: nothing.

    Args:
        one: The method in one image.
        other: In the other.
        one_rule: Who may call it by the one.
        other_rule: By the other.
    """
    found = []
    if one.policy != other.policy:
        found.append("the policy")
    if one_rule.rule != other_rule.rule:
        found.append("the access rule")
    kinds = [(each.request_type, each.response_type, each.returns_operation) for each in (one, other)]
    if kinds[0] != kinds[1]:
        return [*found, "the types of request and response"]
    types = [_types(each) for each in (one, other)]
    names = sorted(name for name in types[0].keys() | types[1].keys() if types[0].get(name) != types[1].get(name))
    found += [f"the type {name}" for name in names[:_TOLD]]
    if len(names) > _TOLD:
        found.append(f"{len(names) - _TOLD} more types")
    return found


def _types(method: JobMethod) -> Mapping[str, bytes]:
    """What is said of each type that the method's messages are made of, by full name."""
    found: dict[str, bytes] = {}
    waiting: list[Descriptor | EnumDescriptor] = [
        cast("Descriptor", each.DESCRIPTOR) for each in (method.request_class, method.response_class)
    ]
    while waiting:
        part = waiting.pop()
        if part.full_name in found:
            continue
        said: DescriptorProto | EnumDescriptorProto
        if isinstance(part, Descriptor):
            said = DescriptorProto()
            part.CopyToProto(said)
            # Those that fields are of are found by the fields; others are nothing of the message's.
            said.ClearField("nested_type")
            said.ClearField("enum_type")
            waiting += [
                each for field in part.fields for each in (field.message_type, field.enum_type) if each is not None
            ]
        else:
            said = EnumDescriptorProto()
            part.CopyToProto(said)
        # Options that we have no descriptor of are read by nobody here.
        said.DiscardUnknownFields()
        found[part.full_name] = said.SerializeToString(deterministic=True)
    return found
