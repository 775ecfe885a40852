"""What a handler says of its calls of models and providers: `rowcall_worker.telemetry`, whose names these are.

A call that is being made is a `with` block; what it cost is recorded when the block is left, also by an exception. Which attempt it
belongs to is the context's (`rowcall.context`), so that it is known in child tasks and in threads of `asyncio.to_thread` as
well; in threads of another pool where the call was made in the handler, or with `contextvars.copy_context().run`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import structlog

from rowcall.context import bearer, bind
from rowcall.forks import in_child
from rowcall.queue.spend import COST_DIGITS, MAX_CHARS, Spend, SpendKind
from rowcall.telemetry import conventions, metrics
from rowcall_worker.serving.attempt import AttemptState, RecordedCall
from rowcall_worker.serving.direct import is_direct
from rowcall_worker.serving.prices import Usage

FLUSH_SECONDS: Final = 5.0
"""How long a flush waits, where nothing else is said."""

_SLACK: Final = 1.0
"""Seconds beyond that in which a thread's flush is answered, while there is a loop to answer it."""
_DIGITS: Final = Decimal(1).scaleb(-COST_DIGITS)

_COUNTING: Final = threading.Lock()
"""Held for an instant as a call is counted: in whatever thread it ends. A child that a handler forks counts none."""

_log = structlog.get_logger(__name__)


def model_call(provider: str, model: str) -> ModelCall:
    """A call of a model, to be used as `with` or `async with` around it.

        async with telemetry.model_call("openai", "gpt-7") as call:
            answer = await client.responses.create(model="gpt-7", input=question)
            call.tokens(input=answer.usage.input_tokens, output=answer.usage.output_tokens)

    Args:
        provider: Who serves the model, as `gen_ai.provider.name` has it ("openai", "aws.bedrock").
        model: Which was asked for, as `gen_ai.request.model` has it.

    Raises:
        RuntimeError: It is not made within a handler of a job, or in a child that one forked.
        TypeError, ValueError: A name is none that could be kept.
    """
    state = _attempt()
    if not _name("model", model):
        raise ValueError("model is empty; say which model is called")
    return ModelCall(state, SpendKind.MODEL, _name("provider", provider), model)


def provider_call(provider: str) -> ProviderCall:
    """A call of another service that charges, to be used as `with` or `async with` around it.

        with telemetry.provider_call("maps.example.com") as call:
            place = maps.find(address)
            call.cost("0.005", "USD")

    Args:
        provider: Who is called.

    Raises:
        RuntimeError: It is not made within a handler of a job.
        TypeError, ValueError: The name is none that could be kept.
    """
    state = _attempt()
    return ProviderCall(state, SpendKind.PROVIDER, _name("provider", provider), "")


async def flush(seconds: float = FLUSH_SECONDS) -> bool:
    """Has what the attempt has spent so far written now: before a long gap, for a worker that is killed loses its last second.

    Args:
        seconds: How long to wait at most.

    Returns:
        Whether it is written. Where it is not, it is tried again, once a second.

    Raises:
        RuntimeError: It is not asked for within a handler of a job.
    """
    state = _attempt()
    if state is None:
        return True
    board = state.board()
    if board.loop is not asyncio.get_running_loop():
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(board.flush(state.job, seconds), board.loop))
    return await board.flush(state.job, seconds)


def flush_in_thread(seconds: float = FLUSH_SECONDS) -> bool:
    """`flush`, for a handler written as plain `def`, and for threads. It waits.

    Raises:
        RuntimeError: It is not asked for within a handler of a job, or in the worker's event loop.
    """
    state = _attempt()
    if state is None:
        return True
    board = state.board()
    if board.in_loop():
        raise RuntimeError("flush_in_thread would have the event loop wait for itself; say: await telemetry.flush()")
    flushing = board.flush(state.job, seconds)
    try:
        asked = asyncio.run_coroutine_threadsafe(flushing, board.loop)
    except RuntimeError:
        # The loop is closed: the worker has ended, and left this thread behind.
        flushing.close()
        return False
    try:
        return asked.result(seconds + _SLACK)
    except (TimeoutError, CancelledError):
        # It ends, or stands still.
        asked.cancel()
        return False


class MeteredCall:
    """One call that costs something. What is said of it again takes the place of what was said before."""

    __slots__ = ("_cache", "_error", "_spend", "_started", "_state")

    def __init__(self, state: AttemptState | None, kind: SpendKind, provider: str, model: str) -> None:
        """Args:
        state: The attempt that makes it; None: a servicer that is served directly, whose calls are recorded nowhere.
        kind: What is called.
        provider: Who is called.
        model: Which model; empty: none.

        Raises:
            ValueError: A name is none that could be kept.
        """
        self._state = state
        self._spend = Spend(1, kind, 0 if state is None else state.job.method_id, provider, model)
        self._cache = (0, 0)
        self._started: float | None = None
        self._error: str | None = None

    def cost(self, amount: Decimal | float | str, currency: str) -> None:
        """What the call cost, where its provider tells; otherwise it is what the price table makes of it.

        Args:
            amount: From 0 to below 1E+12, rounded to 12 digits behind the point. What is a float is taken as it is written.
            currency: ISO 4217, as "EUR".

        Raises:
            TypeError, ValueError: It is none that could be kept; the message says why.
        """
        if isinstance(amount, bool) or not isinstance(amount, (Decimal, int, float, str)):
            raise TypeError(f"a cost is a Decimal, a number or a text of one, not a {type(amount).__name__}")
        try:
            exact = Decimal(repr(amount) if isinstance(amount, float) else amount)
        except InvalidOperation:
            raise ValueError(f"a cost is a number, not {str(amount)!r:.40}") from None
        if exact.is_finite() and exact.adjusted() < COST_DIGITS:
            exact = exact.quantize(_DIGITS, ROUND_HALF_EVEN)
        self._spend = replace(self._spend, cost=exact, currency=currency)

    def verdict(self, verdict: str) -> None:
        """What came of the call, in a word: "ok", "refused", "content_filter". Where nothing is said and the block raises, it is
        the exception's type.

        Raises:
            TypeError, ValueError: It is none that could be kept; the message says why.
        """
        self._spend = replace(self._spend, verdict=_name("verdict", verdict))

    @property
    def attributes(self) -> Mapping[str, str | int | float]:
        """What is known of the call so far, by the names that OpenTelemetry has for it: for a span of the handler's own."""
        spend = self._spend
        known = {
            conventions.GEN_AI_PROVIDER: spend.provider,
            conventions.GEN_AI_MODEL: spend.model or None,
            conventions.GEN_AI_INPUT_TOKENS: spend.input_tokens,
            conventions.GEN_AI_OUTPUT_TOKENS: spend.output_tokens,
            conventions.GEN_AI_CACHE_READ_TOKENS: self._cache[0] or None,
            conventions.GEN_AI_CACHE_WRITE_TOKENS: self._cache[1] or None,
            conventions.COST: None if spend.cost is None else float(spend.cost),
            conventions.COST_CURRENCY: spend.currency,
            conventions.LATENCY: None if spend.latency is None else spend.latency.total_seconds(),
            conventions.VERDICT: spend.verdict,
            conventions.ERROR_TYPE: self._error,
        }
        return {name: value for name, value in known.items() if value is not None}

    def __enter__(self) -> Self:
        if self._started is not None:
            raise RuntimeError("this call was made already; make another with model_call or provider_call")
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._record(kind)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _record(self, raised: type[BaseException] | None) -> None:
        latency, ended = timedelta(seconds=time.perf_counter() - (self._started or 0.0)), time.monotonic()
        if raised is not None:
            self._error = raised.__name__
        verdict = self._spend.verdict or (None if raised is None else raised.__name__[:MAX_CHARS])
        self._spend = replace(self._spend, latency=latency, verdict=verdict)
        state = self._state
        if state is None or in_child():
            # In a child that was forked within the block: the worker's own block ends in the worker.
            return
        with _COUNTING:
            metrics.EXTERNAL_CALLS.add(
                1, self._spend.kind.name.lower(), self._spend.provider, "ok" if raised is None else "failed"
            )
        if self._spend.cost is None and (raised is None or self._spend.input_tokens is not None):
            self._spend = self._priced(state, self._spend)
        self._spend = replace(self._spend, call=state.count_call(), trace_id=UUID(state.call.trace.trace_id))
        state.board().spent(state.job, self._spend)
        if state.recorded is not None:
            state.record(RecordedCall(self._spend.call, ended - latency.total_seconds(), ended, self.attributes))

    def _priced(self, state: AttemptState, spend: Spend) -> Spend:
        """With what the price table says, where it says something."""
        read, write = self._cache
        usage = Usage(spend.input_tokens or 0, spend.output_tokens or 0, read, write)
        price = state.board().prices.find(spend.provider, spend.model, datetime.now(UTC).date())
        if price is None:
            return spend
        try:
            return replace(spend, cost=price.of(usage), currency=price.currency)
        except (ArithmeticError, ValueError) as error:
            # The call is made, and its handler can do nothing about the table.
            with bind(state.call):
                _log.error("a call's cost cannot be told by the price table", wrong=str(error), name=spend.model)
            return spend


class ModelCall(MeteredCall):
    """A call of a model."""

    __slots__ = ()

    def tokens(
        self,
        *,
        input: int | None = None,  # noqa: A002  the conventions name it
        output: int | None = None,
        cache_read: int = 0,
        cache_write: int = 0,
    ) -> None:
        """How many tokens were used, as the provider tells.

        Args:
            input: All of the input, that of the provider's cache among it (as `gen_ai.usage.input_tokens` has it); None: not known.
            output: All of the output, reasoning among it; None: not known.
            cache_read: How much of the input came from the provider's cache: it may have a price of its own.
            cache_write: How much of the input was put into it.

        Raises:
            TypeError, ValueError: They are none that could be kept; the message says why.
        """
        for name, count in (
            ("input", input),
            ("output", output),
            ("cache_read", cache_read),
            ("cache_write", cache_write),
        ):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int)):
                raise TypeError(f"{name} tokens are a whole number, not {count!r:.40}")
        spend = replace(self._spend, input_tokens=input, output_tokens=output)
        if min(cache_read, cache_write) < 0 or cache_read + cache_write > (input or 0):
            raise ValueError(
                f"cache_read is {cache_read} and cache_write {cache_write}; together they are 0 to all of the input, {input or 0}"
            )
        self._spend = spend
        self._cache = (cache_read, cache_write)


class ProviderCall(MeteredCall):
    """A call of another service that charges."""

    __slots__ = ()


def _attempt() -> AttemptState | None:
    """The attempt that makes the call; None: it is a handler that is served directly. Raises RuntimeError: it is neither, or forked."""
    found = bearer()
    if isinstance(found, AttemptState):
        found.board()
        return found
    if is_direct():
        return None
    raise RuntimeError(
        "what calls cost is recorded within a handler of a job, and here is none: a thread has its handler's context by "
        "asyncio.to_thread or contextvars.copy_context().run; a servicer that is served directly needs AsyncOutcomeInterceptor "
        "or OutcomeInterceptor"
    )


def _name(what: str, text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{what} is a str, not a {type(text).__name__}")
    return text
