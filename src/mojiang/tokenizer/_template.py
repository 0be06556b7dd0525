"""A chat template: the Jinja program of a model folder that writes a conversation as one text.

Templates are code from strangers. They run in Jinja's immutable sandbox and see plain JSON values only, with the same
functions, filters and block options as in `transformers`, so that they write the same text.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, NoReturn

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.utils
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mojiang.core.errors import BadInput

FIXED_DATE: Final = datetime.datetime(2024, 7, 26)
"""What a template that writes today's date gets when labels are made: the same data must give the same tokens."""

_GENERATION: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")

Spans = list[tuple[int, int]]
_HINT: Final = "the template or the conversation does not follow the other; try another model's template"


class ChatTemplate:
    """A compiled template and the special tokens it may write by name (`bos_token`, …)."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self.source = source
        self._tokens = {f"{role}_token": text for role, text in tokens.items()}

    @cached_property
    def marks_answers(self) -> bool:
        """Whether it says itself what the model writes, by `{% generation %}` blocks."""
        return _GENERATION.search(self.source) is not None

    @cached_property
    def reads(self) -> frozenset[str]:
        """Names of the variables (`tools`) and fields (`tool_calls`) it looks at."""
        fields = {node.attr for node in self._tree.find_all(jinja2.nodes.Getattr)}
        keys = {node.value for node in self._tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str)}
        return frozenset(jinja2.meta.find_undeclared_variables(self._tree) | fields | keys)

    @cached_property
    def literals(self) -> str:
        """All text it can write by itself, the pieces separated."""
        data = [node.data for node in self._tree.find_all(jinja2.nodes.TemplateData)]
        constants = [node.value for node in self._tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str)]
        return "\0".join([*data, *constants])

    @cached_property
    def _tree(self) -> jinja2.nodes.Template:
        with _explained():
            return _environment().parse(self.source)

    def render(self, messages: Any, now: datetime.datetime | None = None, **variables: Any) -> tuple[str, Spans]:
        """The conversation as text, and which characters lie in `{% generation %}` blocks.

        Args:
            messages: plain JSON values.
            now: the date that `strftime_now` shows; by default today's.
            variables: `tools`, `add_generation_prompt` and whatever else the template reads.

        Raises:
            BadInput: the template is no Jinja, refuses the conversation, or tries what the sandbox forbids.
        """
        moment = now or datetime.datetime.now()
        with _explained():
            compiled, tracker = _compiled(self.source), _Tracker()
            shown = {**self._tokens, "strftime_now": lambda form: moment.strftime(form), **variables}
            token = _tracker.set(tracker)
            try:
                for piece in compiled.generate(messages=messages, **shown):
                    tracker.written += piece
            finally:
                _tracker.reset(token)
        if any(tracker.written[start : start + len(text)] != text for start, text in tracker.blocks):
            raise BadInput(
                "the chat template has a {% generation %} block inside a macro or a captured block",
                hint="move it to where the text is written, or take it out",
            )
        return tracker.written, [(start, start + len(text)) for start, text in tracker.blocks]


@dataclass
class _Tracker:
    """What was written so far in one rendering, and its generation blocks: where each began, and its text."""

    written: str = ""
    blocks: list[tuple[int, str]] = field(default_factory=list)


_tracker: ContextVar[_Tracker] = ContextVar("tracker")


class _Generation(jinja2.ext.Extension):
    """`{% generation %} … {% endgeneration %}` around what the model writes (as in `transformers`)."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The block as a call of `_mark` with what is inside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Macro) -> str:
        text, tracker = str(caller()), _tracker.get()
        tracker.blocks.append((len(tracker.written), text))
        return text


@contextmanager
def _explained() -> Iterator[None]:
    """Turns whatever a template does wrong into a `BadInput`."""
    try:
        yield
    except BadInput:
        raise
    except jinja2.TemplateError as error:
        raise BadInput(f"the chat template refuses this: {error}", hint=_HINT) from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"the chat template fails on this conversation: {reason}", hint=_HINT) from error


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own filter escapes what means something in HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Dict:
    """`dict(...)` without the type behind it."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)


class _Namespace(jinja2.utils.Namespace):
    """`namespace(...)` that takes no underscored names, which reach into Python."""

    def __init__(*args: Any, **named: Any) -> None:
        if any(name.startswith("_") for name in named):
            raise jinja2.exceptions.SecurityError("a template may not set names that begin with an underscore")
        jinja2.utils.Namespace.__init__(*args, **named)

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a template may not set {name!r}")
        super().__setitem__(name, value)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    environment.globals["raise_exception"] = _raise
    return environment


@lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    return _environment().from_string(source)


def plain(value: Any) -> Any:
    """A value of JSON types only: a template must see no method of ours.

    Raises:
        BadInput: something else is inside.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    raise BadInput(f"a conversation holds a {type(value).__name__}", hint="use strings, numbers, lists and objects")
