"""The settings of what is served and to whom: images, access rules, their bounds. The gateway's, and those of `rowcall access`."""

from __future__ import annotations

from typing import Final

from pydantic import Field, ValidationInfo, field_validator

from rowcall.names import is_tenant
from rowcall.security.access import AccessRule, parse_rule, wrong_names
from rowcall.security.roles import ADMIN, CALLER, OPERATOR, PAYLOAD_VIEWER, VIEWER
from rowcall.settings import ReadableFiles, Settings

ANY: Final = "*"
"""In `image_roles`, any role of the deployment's own; in `image_scopes`, behind the beginning of a scope or alone, any."""


class ServedSettings(Settings):
    """What a gateway serves, and who may call it."""

    images: ReadableFiles = Field(
        default=(),
        description="Descriptor images of the methods to serve, as `buf build -o` writes them.",
        examples=["documents.binpb"],
        json_schema_extra={"flag": "image", "metavar": "FILE"},
    )
    probe: bool = Field(
        default=True, description="Serve the built-in ProbeService, for canaries and benchmarks.", examples=["true"]
    )
    reflection: bool = Field(
        default=True, description="Tell callers the served services and types over reflection.", examples=["true"]
    )
    public_tenant: str = Field(
        default="",
        description="Whose calls are those that bring no credential, of methods that are public. Without it no method may be.",
        examples=["public"],
        json_schema_extra={"metavar": "NAME"},
    )
    access_default: str = Field(
        default="",
        description="The access rule of methods whose images give them none. Without it a gateway that knows its callers by "
        "credentials does not start with such a method.",
        examples=["roles:caller"],
        json_schema_extra={"metavar": "RULE"},
    )
    reflection_access: str = Field(
        default=f"roles:{CALLER},{OPERATOR},{VIEWER},{PAYLOAD_VIEWER},{ADMIN}",
        description="Who is answered over reflection, where callers are known by credentials.",
        examples=["public"],
        json_schema_extra={"metavar": "RULE"},
    )
    image_roles: tuple[str, ...] = Field(
        default_factory=lambda: (CALLER, OPERATOR, ADMIN, ANY),
        description=f"The roles that access rules of images may name; {ANY} is any that is not Rowcall's. "
        f"Default: {CALLER}, {OPERATOR}, {ADMIN}, {ANY}.",
        examples=["caller,shop-clerk"],
        json_schema_extra={"flag": "image-role", "metavar": "ROLE"},
    )
    image_scopes: tuple[str, ...] = Field(
        default_factory=lambda: (ANY,),
        description=f"The scopes that access rules of images may name; {ANY} at the end is any that begins so. Default: any.",
        examples=["shop.*"],
        json_schema_extra={"flag": "image-scope", "metavar": "SCOPE"},
    )

    @property
    def default_rule(self) -> AccessRule | None:
        """The rule of methods whose images give them none; None: they have none."""
        return parse_rule(self.access_default) if self.access_default else None

    @property
    def reflection_rule(self) -> AccessRule:
        """Who is answered over reflection."""
        return parse_rule(self.reflection_access)

    @field_validator("public_tenant")
    @classmethod
    def _check_public_tenant(cls, tenant: str) -> str:
        if tenant and not is_tenant(tenant):
            raise ValueError("is no tenant: lower-case letters, digits and inner '-', 63 characters at most")
        return tenant

    @field_validator("access_default")
    @classmethod
    def _check_default(cls, text: str, info: ValidationInfo) -> str:
        if text and parse_rule(text).public and not info.data.get("public_tenant"):
            raise ValueError(
                "is public, and ROWCALL_PUBLIC_TENANT does not say whose calls those without a credential are"
            )
        return text

    @field_validator("reflection_access")
    @classmethod
    def _check_reflection(cls, text: str) -> str:
        parse_rule(text)
        return text

    @field_validator("image_roles", "image_scopes")
    @classmethod
    def _check_names(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        of_roles = info.field_name == "image_roles"
        for problem in wrong_names(names if of_roles else (), () if of_roles else names):
            raise ValueError(f"has {problem}")
        return names
