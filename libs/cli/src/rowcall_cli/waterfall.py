"""An action as a waterfall: a line a node, indented as the tree is, with a bar where in time it lies. Used by `trace`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from rowcall.telemetry import conventions as names
from rowcall.v1.action_service_pb2 import ActionCost, ActionGroup, ActionNode, ActionNodeKind, GetActionResponse
from rowcall.v1.job_pb2 import JobState
from rowcall_cli.answers import second_text, span_text

NARROWEST: Final = 72
"""Columns that a waterfall has at least, whatever the terminal has."""
_BARS: Final = 0.35
"""Of the width, as much is for the bars."""
_LABELS: Final = 0.45
"""And as much for what they are of, at most."""
_DURATION: Final = 8

_JOB: Final = ActionNodeKind.ACTION_NODE_KIND_JOB
_WAIT: Final = ActionNodeKind.ACTION_NODE_KIND_WAIT
_ATTEMPT: Final = ActionNodeKind.ACTION_NODE_KIND_ATTEMPT
_CALLS: Final = (ActionNodeKind.ACTION_NODE_KIND_MODEL_CALL, ActionNodeKind.ACTION_NODE_KIND_PROVIDER_CALL)
_MARKED: Final = (ActionNodeKind.ACTION_NODE_KIND_OPERATOR, ActionNodeKind.ACTION_NODE_KIND_INCIDENT)
_GOOD: Final = ("SUCCEEDED", "OK", "UNSET", "DONE", "")


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What lines are drawn with."""

    run: str
    wait: str
    mark: str
    many: str
    branch: str
    last: str
    pipe: str


DRAWN: Final = Glyphs("█", "░", "◆", "▒", "├─ ", "└─ ", "│  ")
PLAIN: Final = Glyphs("#", "-", "*", "=", "|- ", "`- ", "|  ")
"""For terminals that have ASCII alone."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line, before it is known how wide the columns are."""

    label: str
    start: datetime
    end: datetime | None
    """None: it goes on."""
    runs: Sequence[tuple[datetime, datetime | None]]
    """When something worked on it; between them it waited."""
    glyph: str
    style: str
    said: str


@dataclass(frozen=True, slots=True)
class _Frame:
    """What lines are drawn into."""

    start: datetime
    end: datetime
    now: datetime
    label: int
    """Columns of the labels; likewise the others."""
    bars: int
    said: int

    def place(self, at: datetime) -> int:
        """The column of a moment among those of the bars."""
        share = (at - self.start) / (self.end - self.start) if self.end > self.start else 0.0
        return min(max(int(share * self.bars), 0), self.bars - 1)


def waterfall(
    action: GetActionResponse, width: int, *, glyphs: Glyphs = DRAWN, now: datetime | None = None
) -> list[Text]:
    """An action's lines.

    Args:
        action: It.
        width: How wide they may be; `NARROWEST` at least. Labels and what is said behind the bars are cut.
        glyphs: What they are drawn with.
        now: Until when what goes on is drawn; None: by this machine's clock.
    """
    lines = list(_lines(action, glyphs))
    if not lines:
        return []
    now = now or datetime.now(UTC)
    start = min(line.start for line in lines)
    ends = [line.end for line in lines if line.end is not None]
    if len(ends) < len(lines):
        ends.append(now)
    end = max(*ends, start) if ends else start
    width = max(width, NARROWEST)
    label = min(max(cell_len(line.label) for line in lines), int(width * _LABELS))
    bars = int(width * _BARS)
    said = max(width - label - bars - _DURATION - 4, 0)
    frame = _Frame(start, end, now, label, bars, said)
    return [_drawn(line, frame, glyphs) for line in lines]


def headline(action: GetActionResponse) -> list[tuple[str, str]]:
    """What is known of all of an action, as names and values."""
    goes_on = not action.HasField("duration")
    return [
        ("tenant", action.tenant.removeprefix("tenants/")),
        ("trace", action.trace_id),
        ("began", second_text(action.start_time)),
        ("took", "it goes on" if goes_on else took_text(action.duration.ToTimedelta().total_seconds())),
        ("jobs", str(action.jobs) if action.jobs else "none that are still there"),
        ("cost", "; ".join(map(cost_text, action.costs))),
    ]


def cost_text(cost: ActionCost) -> str:
    """What was spent in a currency, in words."""
    amount = f"{cost.cost} {cost.currency}" if cost.currency else "not known"
    calls = f"{cost.calls} call{'' if cost.calls == 1 else 's'}"
    tokens = (
        f", {cost.input_tokens} tokens in, {cost.output_tokens} out" if cost.input_tokens or cost.output_tokens else ""
    )
    return f"{amount} ({calls}{tokens})"


def took_text(seconds: float) -> str:
    """A span of time, also a short one: "0.4 ms", "25 ms", "2.5 s"."""
    if seconds >= 1:
        return span_text(seconds)
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def _lines(action: GetActionResponse, glyphs: Glyphs) -> Iterable[_Line]:
    below: defaultdict[str, list[ActionNode | ActionGroup]] = defaultdict(list)
    for node in action.nodes:
        below[node.parent_id].append(node)
    for group in action.groups:
        below[group.parent_id].append(group)
    stack = [(each, "", "") for each in reversed(_shown(below.get("", ())))]
    while stack:
        each, indent, joint = stack.pop()
        children = [] if isinstance(each, ActionGroup) else below.get(each.id, [])
        yield _line(each, indent + joint, children, glyphs)
        deeper = indent + {"": "", glyphs.branch: glyphs.pipe, glyphs.last: " " * len(glyphs.last)}[joint]
        shown = _shown(children)
        joints = [glyphs.branch] * (len(shown) - 1) + [glyphs.last]
        stack += reversed([(child, deeper, mark) for child, mark in zip(shown, joints, strict=False)])


def _shown(nodes: Sequence[ActionNode | ActionGroup]) -> list[ActionNode | ActionGroup]:
    """Those that have lines of their own: waits that are over are in their jobs' bars."""
    return [
        each for each in nodes if isinstance(each, ActionGroup) or each.kind != _WAIT or not each.HasField("duration")
    ]


def _line(
    each: ActionNode | ActionGroup, indent: str, children: Sequence[ActionNode | ActionGroup], glyphs: Glyphs
) -> _Line:
    start = _time(each.start_time)
    if isinstance(each, ActionGroup):
        state = JobState.Name(each.state).removeprefix("JOB_STATE_")
        more = f", {each.descendants} below them" if each.descendants else ""
        longest = (
            f", longest {took_text(each.longest.ToTimedelta().total_seconds())}" if each.HasField("longest") else ""
        )
        end = _time(each.end_time) if each.HasField("end_time") else None
        label = f"{indent}{each.jobs} more {_short(each.method)} {state}"
        return _Line(
            label, start, end, [(start, end)], glyphs.many, _style(state), f"{more}{longest}".removeprefix(", ")
        )
    end = start + each.duration.ToTimedelta() if each.HasField("duration") else None
    runs = [(start, end)]
    if each.kind == _JOB:
        runs = [_span(child) for child in children if isinstance(child, ActionNode) and child.kind == _ATTEMPT]
    glyph = glyphs.mark if each.kind in _MARKED else glyphs.wait if each.kind == _WAIT else glyphs.run
    return _Line(f"{indent}{_label(each)}", start, end, runs, glyph, _style(each.status, each.code), _said(each))


def _label(node: ActionNode) -> str:
    if node.kind == _JOB:
        return f"{_short(node.name)} {node.status}"
    if node.kind == _WAIT:
        return f"waits: {node.status}"
    if node.kind == _ATTEMPT:
        return f"attempt {node.attributes[names.ATTEMPT]} {node.status}"
    return node.name


def _said(node: ActionNode) -> str:
    """What there is to say behind a bar."""
    said = []
    if node.kind in _CALLS:
        given = node.attributes.get(names.GEN_AI_INPUT_TOKENS), node.attributes.get(names.GEN_AI_OUTPUT_TOKENS)
        if any(given):
            said.append(f"{given[0] or 0} tokens in, {given[1] or 0} out")
        if names.COST in node.attributes:
            said.append(f"{node.attributes[names.COST]} {node.attributes.get(names.COST_CURRENCY, '')}")
        if node.status:
            said.append(node.status)
    elif node.kind in _MARKED:
        said.append(node.attributes.get(names.ACTOR, ""))
    elif node.code:
        said.append(Code.Name(node.code))
    if node.message and node.kind != _JOB:
        said.append(node.message)
    return ", ".join(filter(None, said))


def _drawn(line: _Line, frame: _Frame, glyphs: Glyphs) -> Text:
    took = "" if line.glyph == glyphs.mark else took_text(((line.end or frame.now) - line.start).total_seconds())
    if line.end is None:
        took = f"{took}+"
    bar = [" "] * frame.bars
    for start, end, glyph in (
        (line.start, line.end, glyphs.wait),
        *((start, end, line.glyph) for start, end in line.runs),
    ):
        first, last = frame.place(start), frame.place(end or frame.now)
        bar[first : last + 1] = glyph * (last + 1 - first)
    return Text.assemble(
        _cut(line.label, frame.label),
        " ",
        ("".join(bar), line.style),
        " ",
        (f"{took:>{_DURATION}}", "dim"),
        f"  {_cut(line.said, frame.said, pad=False)}".rstrip(),
        no_wrap=True,
    )


def _span(node: ActionNode) -> tuple[datetime, datetime | None]:
    start = _time(node.start_time)
    return start, start + node.duration.ToTimedelta() if node.HasField("duration") else None


def _style(status: str, code: int = 0) -> str:
    if code or status in ("FAILED", "LOST", "ERROR"):
        return "red" if status not in ("RETRIED", "CANCELLED") else "yellow"
    return "green" if status in _GOOD else "cyan"


def _short(method: str) -> str:
    """A method without its package: "ProbeService/Echo"."""
    service, slash, name = method.rpartition("/")
    return f"{service.rpartition('.')[2]}{slash}{name}"


def _cut(text: str, width: int, *, pad: bool = True) -> str:
    # A line each, whatever a handler says.
    text = " ".join(text.split()) if not pad else text
    if cell_len(text) > width:
        return set_cell_size(text, max(width - 1, 0)) + ("~" if width else "")
    return set_cell_size(text, width) if pad else text


def _time(time: Timestamp) -> datetime:
    return time.ToDatetime(tzinfo=UTC)
