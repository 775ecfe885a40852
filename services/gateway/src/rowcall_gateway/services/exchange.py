"""What a gateway serves, exchanged while it serves: handlers, rules, access, descriptions, health, and what shards know.

Made by the server; called by `publishing`. All of it is made first, and then put in its place between two calls, so that no call
meets half of it. Calls that run go on with what they began with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from rowcall.apart import in_thread
from rowcall.catalogue.described import DescribedFiles
from rowcall.catalogue.grants import AccessTable
from rowcall.catalogue.images import Catalogue, LoadedImage
from rowcall_gateway.calls.generic import job_method_handlers
from rowcall_gateway.calls.job_calls import JobCalls
from rowcall_gateway.edge.access import Rights
from rowcall_gateway.edge.handlers import ByPath, Handler
from rowcall_gateway.edge.interceptor import CallInterceptor, MethodRules
from rowcall_gateway.edge.offered import Offered
from rowcall_gateway.edge.rules import Rules
from rowcall_gateway.shards.links import Links

TableOf = Callable[[Catalogue], AccessTable]
"""Who may call what of a catalogue. Raises ImageError."""


class Health(Protocol):
    """Says which services are served."""

    def __call__(self, services: Sequence[str], gone: Sequence[str], /) -> Awaitable[None]:
        """Says it of these, and of those that are gone."""


class Exchange:
    """What is served, of one gateway."""

    def __init__(
        self,
        offered: Offered,
        *,
        rights: Rights,
        rules: Callable[[Catalogue], Rules],
        table_of: TableOf,
        calls: JobCalls,
        links: Links,
        health: Health,
    ) -> None:
        """
        Args:
            offered: What is served now; this object exchanges it.
            rights: Who may call what of it.
            rules: Makes the interceptor's rules of a catalogue.
            table_of: Says who may call what of a catalogue.
            calls: Answers calls of job methods.
            links: The shards.
            health: Told of services.
        """
        self._offered = offered
        self._own = offered.catalogue.images
        self._rights = rights
        self._make_rules = rules
        self._rules = rules(offered.catalogue)
        self._table_of = table_of
        self._calls = calls
        self._links = links
        self._health = health
        self._described = DescribedFiles(offered.catalogue)
        self._handlers: ByPath | None = None
        self._interceptor: CallInterceptor | None = None
        self._ours: Mapping[str, Handler] = {}

    @property
    def described(self) -> DescribedFiles:
        """What is served, as reflection describes it."""
        return self._described

    def rules_of(self, path: str) -> MethodRules:
        """The rules of a method by its path, served or not."""
        return self._rules.of(path)

    def handlers(self, interceptor: CallInterceptor, ours: Mapping[str, Handler]) -> ByPath:
        """What finds the handlers of calls, now and after each exchange.

        Args:
            interceptor: Guards them.
            ours: The handlers of our own services, by path. Where an image has a service of ours, ours is served.
        """
        self._interceptor = interceptor
        job_methods = job_method_handlers(self._offered.catalogue, self._calls)
        self._handlers = interceptor.guard({**job_methods, **ours})
        self._ours = interceptor.guarded(ours)
        return self._handlers

    def check(self, published: Sequence[LoadedImage]) -> None:
        """Raises ImageError where these could not be served beside the gateway's own."""
        self._table_of(Catalogue.of([*self._own, *published]))

    async def serve(self, published: Sequence[LoadedImage]) -> None:
        """Serves these beside the gateway's own.

        Args:
            published: All of them.

        Raises:
            ImageError: They do not go together; nothing has changed.
        """
        if self._interceptor is None or self._handlers is None:
            raise RuntimeError("nothing is exchanged before there are handlers")
        before = self._offered.catalogue
        catalogue = Catalogue.of([*self._own, *published])
        table = self._table_of(catalogue)
        described = await in_thread(DescribedFiles, catalogue)
        shapes = await in_thread(catalogue.shapes)
        # What guards a handler asks for its method's rules when it is made, and never again.
        self._rules, rules = self._make_rules(catalogue), self._rules
        self._rights.replace(table)
        try:
            guarded = self._interceptor.guarded(job_method_handlers(catalogue, self._calls))
        except BaseException:
            self._rules = rules
            self._rights.replace(self._offered.table)
            raise
        self._handlers.replace({**guarded, **self._ours})
        self._offered.replace(catalogue, table)
        self._described = described
        self._links.offer(list(catalogue.methods.values()), shapes)
        gone = [service for service in before.service_names if service not in catalogue.services]
        await self._health(catalogue.service_names, gone)
