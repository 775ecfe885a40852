"""The settings that gateway, worker, standalone and commands share, and the class that their own build on.

Constructed directly, a class of settings reads no environment: only `load` does, for a program that starts.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from rowcall.settings.dsn import DsnText, same_database, unverified_hosts
from rowcall.settings.flags import environment_name
from rowcall.settings.names import PREFIX, declare
from rowcall.settings.values import Duration, ReadableFile, parse_container

_SHARD_NAME: Final = re.compile(r"[a-z0-9-]{1,63}")


def _check_shard_name(name: str) -> str:
    if not _SHARD_NAME.fullmatch(name):
        raise ValueError("is no name for a shard; a name is 1 to 63 lower-case letters, digits and -")
    return name


ShardName = Annotated[str, AfterValidator(_check_shard_name)]
"""The type of a shard's name."""

PoolSize = Annotated[int, Field(ge=1, le=1000)]
"""The type of a setting that says how many connections a pool may open."""

DeployedVersion = Annotated[str, Field(pattern=r"^[!-~]{1,100}$")]
"""The type of a setting that says the version of what is deployed: a word of printable ASCII."""

ProcessCount = Annotated[int, Field(ge=1, le=64)]
"""The type of a setting that says how many processes one command starts (`rowcall.processes`)."""


class Settings(BaseSettings):
    """What every program's settings have in common. Frozen; an unknown field is refused.

    A field is the environment variable ROWCALL_<FIELD> and the flag --<field>; its description is its help, its
    first example is shown when it is wrong. A list or mapping is one variable and a repeated flag, whose name in the
    singular and whose metavar stand in `json_schema_extra={"flag": "shard", "metavar": "NAME=DSN"}`.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        enable_decoding=False,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    program: ClassVar[str] = "rowcall"
    """The program's name, for help and errors."""
    usage_example: ClassVar[str] = ""
    """A command line that works, shown under --help."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        declare(f"{cls.__module__}.{cls.__qualname__}", map(environment_name, cls.model_fields))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings' own
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings' own
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings' own
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings' own
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the constructor is given: tests and standalone must not pick up a variable by chance."""
        return (init_settings,)

    @field_validator("*", mode="before")
    @classmethod
    def _read_containers(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and info.field_name is not None:
            return parse_container(value, cls.model_fields[info.field_name].annotation)
        return value


class LogSettings(Settings):
    """How a program logs. To stderr."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe lines that are written.", examples=["info"]
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="A JSON object a line, or lines for people.", examples=["json"]
    )


class TraceSettings(Settings):
    """Which traces a service records. The rest is OpenTelemetry's own variables' to say (docs/tracing.md)."""

    traces_asked: float = Field(
        default=50,
        ge=0,
        le=100_000,
        description="How many traces a second each process records because their callers ask for it, by the flag in traceparent, beside "
        "those that it samples anyway. What fails or is tried again is recorded all the same.",
        examples=["50"],
        json_schema_extra={"metavar": "NUMBER"},
    )


class ClusterSettings(LogSettings):
    """Where the catalogue and the shards are, and how many connections to open to them."""

    catalogue: DsnText = Field(
        description="The database that says which tenant lives on which shard. Keep passwords in the environment or in a "
        "pgpass file: flags are seen by every account of the machine.",
        examples=["postgresql://rowcall@db.example:5432/rowcall_catalogue"],
        json_schema_extra={"metavar": "DSN"},
    )
    shards: Mapping[ShardName, DsnText] = Field(
        description="The databases that hold the jobs: a JSON object of names and connection strings, or the flag once "
        "a shard. A name is lower-case letters, digits and -, and stays with its database for ever.",
        examples=['{"a": "postgresql://rowcall@db.example:5432/rowcall_a"}'],
        json_schema_extra={"flag": "shard", "metavar": "NAME=DSN"},
    )
    deployed_version: DeployedVersion | None = Field(
        default=None,
        description="What whoever deploys this program calls the version of what it runs: shown of each gateway and worker, and of "
        "attempts that did not succeed, so that people see what changed with a deployment.",
        examples=["2031-05-04.3f2a9c1"],
        json_schema_extra={"metavar": "TEXT"},
    )
    password_file: ReadableFile | None = Field(
        default=None,
        description="A file with the password of the connection strings that say none, and nothing else: looked at by each new "
        "connection, so that it may be exchanged while the program runs.",
        examples=["/run/secrets/rowcall_password"],
        json_schema_extra={"metavar": "FILE"},
    )
    audit_key_file: ReadableFile | None = Field(
        default=None,
        description="A file with the secret, 32 bytes or more, that signs where old entries of the audit were cut off: the same for "
        "gateways, which verify it, and workers, which cut. Without it nothing is cut.",
        examples=["/run/secrets/rowcall_audit_key"],
        json_schema_extra={"metavar": "FILE"},
    )
    activity: bool = Field(
        default=False,
        description="Whether spans are kept on the shards for a week, for rowcall trace: those of calls, attempts and handlers that are "
        "sampled, failed or were tried again. One more connection a shard.",
        examples=["true"],
    )
    require_database_tls: bool = Field(
        default=False,
        description="Refuse connection strings that lead over a network without verifying the server: all but those that say "
        "sslmode=verify-full, or lead to a Unix socket or a loopback address.",
        examples=["true"],
    )
    placement: Mapping[str, float] = Field(
        default_factory=dict,
        description="Weights by which new tenants are spread over the shards; 1 where nothing is said, 0 closes a shard "
        "for new tenants. Give every program the same.",
        examples=['{"a": 1, "b": 0}'],
        json_schema_extra={"flag": "place", "metavar": "NAME=WEIGHT"},
    )
    pool_submit: PoolSize = Field(
        default=4, description="Connections a shard for submits, which share commits.", examples=["4"]
    )
    pool_read: PoolSize = Field(default=4, description="Connections a shard for reads and waiting.", examples=["4"])
    pool_claim: PoolSize = Field(default=2, description="Connections a shard for claims.", examples=["2"])
    pool_settle: PoolSize = Field(default=2, description="Connections a shard for settles.", examples=["2"])
    pool_maintenance: PoolSize = Field(
        default=1, description="Connections a shard for rescue, due jobs and housekeeping.", examples=["1"]
    )
    pool_transaction: PoolSize = Field(
        default=4,
        description="Connections a shard for handlers that write in their job's own transaction: so many at once.",
        examples=["4"],
    )
    pool_catalogue: PoolSize = Field(default=2, description="Connections to the catalogue.", examples=["2"])
    pool_timeout: Duration = Field(
        default=timedelta(seconds=5),
        description="How long work waits for a free connection before it is refused.",
        examples=["5s"],
    )
    connect_timeout: Duration = Field(
        default=timedelta(seconds=3),
        description="How long one attempt to connect may take, 2s or more.",
        examples=["3s"],
    )
    prepare_threshold: int = Field(
        default=5,
        ge=-1,
        description="After how many uses a connection prepares a statement; -1: never. Through a pooler in transaction "
        "mode never, unless this is set: it must then carry prepared statements (PgBouncer's max_prepared_statements).",
        examples=["5"],
    )
    transaction_pooler: bool = Field(
        default=False,
        description="The connection strings lead to a pooler in transaction mode (PgBouncer): no startup options, which "
        "it refuses, no hints, which it cannot carry, and no check against max_connections; set timeouts for the login "
        "role instead.",
        examples=["true"],
    )
    relaxed_durability: bool = Field(
        default=False,
        description="Serve although Postgres is told to acknowledge what a crash can lose (synchronous_commit below on). "
        "Said at each start. Without, it is refused.",
        examples=["true"],
    )
    route_ttl: Duration = Field(
        default=timedelta(seconds=30),
        description="After how long a tenant's route is looked up again, in the background.",
        examples=["30s"],
    )
    route_cache: int = Field(
        default=100_000, ge=1, description="How many tenants' routes are remembered.", examples=["100000"]
    )
    hints: bool = Field(
        default=True,
        description="Use NOTIFY to wake workers and waiting calls. Without, they poll: slower, and nothing is lost.",
        examples=["true"],
    )

    @property
    def prepare_after(self) -> int | None:
        """Psycopg's prepare_threshold: after how many uses a connection prepares a statement; None: never. A session
        of a pooler is another server's at each transaction, which knows nothing of what was prepared elsewhere."""
        unsupported = self.transaction_pooler and "prepare_threshold" not in self.model_fields_set
        return None if unsupported or self.prepare_threshold < 0 else self.prepare_threshold

    @property
    def uses_hints(self) -> bool:
        """Whether to send and hear hints: a pooler in transaction mode cannot carry them."""
        return self.hints and not self.transaction_pooler

    @field_validator("shards")
    @classmethod
    def _check_shards(cls, shards: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
        if not shards:
            raise ValueError("names no shard; at least one is needed")
        catalogue = info.data.get("catalogue")
        for name, shard in shards.items():
            if catalogue is not None and same_database(shard, catalogue):
                raise ValueError(
                    f"gives {name!r} the catalogue's database; a shard is a database of its own, on the same server or another"
                )
        names = sorted(shards)
        for index, one in enumerate(names):
            for other in names[index + 1 :]:
                if same_database(shards[one], shards[other]):
                    raise ValueError(f"gives {one!r} and {other!r} the same database; a shard is a database of its own")
        return shards

    @field_validator("require_database_tls")
    @classmethod
    def _check_database_tls(cls, required: bool, info: ValidationInfo) -> bool:
        if required:
            named = {"the catalogue": info.data.get("catalogue")}
            named |= {f"shard {name!r}": dsn for name, dsn in (info.data.get("shards") or {}).items()}
            open_ones = [name for name, dsn in named.items() if dsn and unverified_hosts(dsn, os.environ)]
            if open_ones:
                raise ValueError(
                    f"is set, and the connection string of {', '.join(open_ones)} does not verify the server; add "
                    "sslmode=verify-full and sslrootcert=FILE to it, the certificate of who signed the server's"
                )
        return required

    @field_validator("placement")
    @classmethod
    def _check_placement(cls, placement: Mapping[str, float], info: ValidationInfo) -> Mapping[str, float]:
        for name, weight in placement.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"has the weight {weight} for {name!r}; a weight is a number from 0 up")
        shards = info.data.get("shards")
        if shards is not None:
            unknown = sorted(set(placement) - set(shards))
            if unknown:
                raise ValueError(f"names {', '.join(map(repr, unknown))}, which {PREFIX}SHARDS does not")
            if not any(placement.get(name, 1) > 0 for name in shards):
                raise ValueError("closes every shard for new tenants; give one of them a weight above 0")
        return placement

    @field_validator("connect_timeout")
    @classmethod
    def _check_connect_timeout(cls, timeout: timedelta) -> timedelta:
        if timeout < timedelta(seconds=2):
            raise ValueError("is below 2s, the least that libpq heeds")
        return timeout
