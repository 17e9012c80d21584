"""The mask that keeps a sampled turn well-formed: headers, recipients, arguments, answers, and how long to think.

In: the tools that are declared, a choice among them, a form for the answer, a budget of thinking. Out: before each token
a bit for every id that may come. It does not know logits, models or how a tool is run.

A turn is any number of analysis and preamble messages, then a final answer or a call. Headers are walked byte by byte, so
any tokenization of them is allowed; JSON is llguidance's; free text has one constant mask, which bans control tokens.
"""

import codecs
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from llguidance import LLMatcher, LLTokenizer
from llguidance.tiktoken import lltokenizer_from_encoding

from ossia.harmony.messages import JsonObject, ToolNamespace
from ossia.tokenizer import Tokenizer

JSON_OBJECT: JsonObject = {"type": "object"}
# White space between JSON tokens: enough for any pretty-printer, too little to run on for ever.
WHITE_SPACE = r"[ \t\n\r]{0,16}"

Body = Literal["analysis", "preamble", "final", "call"]
Element: TypeAlias = bytes | int


class Grammars:
    """What is costly to make for a tokenizer and is shared by every turn: token tables, text masks, compiled schemas."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        special = tokenizer.special
        self.start, self.end, self.message = special["<|start|>"], special["<|end|>"], special["<|message|>"]
        self.ret, self.call = special["<|return|>"], special["<|call|>"]
        self.ids = {tokenizer.token_bytes(token): token for token in range(tokenizer.size) if not tokenizer.is_special(token)}
        self._text = self.mask_of(list(self.ids.values()))
        self.continuations = [self.ids[bytes([byte])] for byte in range(0x80, 0xC0)]
        self._json: LLTokenizer | None = None
        self._compiled: dict[str, str] = {}

    def mask_of(self, tokens: Sequence[int]) -> bytes:
        mask = bytearray(-(-self.tokenizer.size // 32) * 4)
        for token in tokens:
            mask[token >> 3] |= 1 << (token & 7)
        return bytes(mask)

    def text_mask(self, stop: int) -> bytes:
        """Every ordinary token, and the one control token that ends this text."""
        mask = bytearray(self._text)
        mask[stop >> 3] |= 1 << (stop & 7)
        return bytes(mask)

    def matcher(self, schema: JsonObject) -> LLMatcher:
        """A fresh matcher of JSON that fits the schema; it allows <|return|> where the text is complete.

        Raises ValueError naming what of the schema cannot be compiled.
        """
        if self._json is None:
            self._json = lltokenizer_from_encoding(self.tokenizer.encoding, eos_token=self.ret)
        key = json.dumps(schema)
        if key not in self._compiled:
            options = {"whitespace_flexible": True, "whitespace_pattern": WHITE_SPACE}
            grammar = LLMatcher.grammar_from_json_schema(key, defaults=options)
            if reason := LLMatcher.validate_grammar(grammar, self._json):
                raise ValueError(f"this JSON schema cannot be enforced: {reason.splitlines()[0]}")
            self._compiled[key] = grammar
        return LLMatcher(self._json, self._compiled[key])


class Way(NamedTuple):
    """One header that may be said, from the role to <|message|>, and what follows it. schema None: free text."""

    header: tuple[Element, ...]
    body: Body
    schema: JsonObject | None = None


@dataclass(frozen=True)
class Rules:
    """What a turn may be. tool_choice: "auto", "none", "required", or a function's name; analysis_budget in tokens.

    Raises ValueError for a choice that names no declared function, and for a schema that cannot be compiled.
    """

    grammars: Grammars
    tools: tuple[ToolNamespace, ...] = ()
    tool_choice: str = "auto"
    response_format: JsonObject | None = None
    analysis_budget: int | None = None
    ways: tuple[Way, ...] = field(init=False)

    def __post_init__(self) -> None:
        calls = self._calls()
        if self.tool_choice not in ("auto", "none") and not calls:
            declared = ", ".join(tool.name for space in self.tools for tool in space.tools) or "none"
            raise ValueError(f"tool_choice {self.tool_choice!r} fits no declared tool (declared: {declared})")
        for way in (*calls, *self._finals()):
            if way.schema is not None:
                self.grammars.matcher(way.schema)
        object.__setattr__(self, "ways", (*self._thoughts(), *self._finals(), *calls))

    def start(self) -> "Constraint":
        """The mask of one turn, from just behind `<|start|>assistant`."""
        return Constraint(self)

    def _thoughts(self) -> tuple[Way, ...]:
        return self._plain("analysis", "analysis"), self._plain("commentary", "preamble")

    def _finals(self) -> tuple[Way, ...]:
        if self.tool_choice not in ("auto", "none"):
            return ()
        if self.response_format is None:
            return (self._plain("final", "final"),)
        return tuple(way._replace(schema=self.response_format) for way in self._typed((b"final",), "final", (b"", b"json")))

    def _plain(self, channel: str, body: Body) -> Way:
        marker = self.grammars.tokenizer.special["<|channel|>"]
        return Way((marker, channel.encode(), self.grammars.message), body)

    def _calls(self) -> tuple[Way, ...]:
        ways: list[Way] = []
        for space in () if self.tool_choice == "none" else self.tools:
            own = space.name == "functions"
            channels, types = ((b"commentary",), (b"json", b"")) if own else ((b"analysis", b"commentary"), (b"code", b""))
            for name, schema in _callable(space):
                if self.tool_choice in ("auto", "required", name):
                    to = b" to=" + (f"{space.name}.{name}" if name else space.name).encode()
                    for channel in channels:
                        said = self._typed((to, None, channel), "call", types) + self._typed((channel + to,), "call", types)
                        ways += [way._replace(schema=schema) for way in said]
        return tuple(ways)

    def _typed(self, parts: tuple[bytes | None, ...], body: Body, types: tuple[bytes, ...]) -> tuple[Way, ...]:
        """Headers that end in a content type: ` <|constrain|>json`, ` json` or none. None in `parts` is the channel marker."""
        special = self.grammars.tokenizer.special
        marker, constrain = special["<|channel|>"], special["<|constrain|>"]
        opening: tuple[Element, ...] = tuple(marker if part is None else part for part in parts)
        opening = opening if None in parts else (marker, *opening)
        ways = []
        for name in types:
            if not name:
                ways.append((*opening, self.grammars.message))
                continue
            ways.append((*opening[:-1], _text(opening[-1]) + b" " + name, self.grammars.message))
            if name == b"json":
                ways.append((*opening[:-1], _text(opening[-1]) + b" ", constrain, name, self.grammars.message))
        return tuple(Way(header, body) for header in ways)


def _text(element: Element) -> bytes:
    assert isinstance(element, bytes), "a header's channel stands before its type"
    return element


def _callable(space: ToolNamespace) -> list[tuple[str, JsonObject | None]]:
    """Names with their argument schemas; a namespace without tools is itself called, with free text (python)."""
    return [(tool.name, tool.parameters or JSON_OBJECT) for tool in space.tools] or [("", None)]


class Constraint:
    """The state of one turn; a `TokenMask`. `strayed` once a token came that the mask did not allow: then all may come."""

    def __init__(self, rules: Rules) -> None:
        self._rules, self._g = rules, rules.grammars
        self.strayed = False
        self._thought = 0
        self._state: _State = self._headers()

    def mask(self) -> bytes | None:
        return None if self.strayed else self._state.mask()

    def accept(self, token: int) -> None:
        if not self.strayed:
            following = self._state.accept(token)
            if following is None:
                self.strayed = True
            else:
                self._state = following

    @property
    def budget_left(self) -> int | None:
        budget = self._rules.analysis_budget
        return None if budget is None else max(0, budget - self._thought)

    def think(self) -> None:
        self._thought += 1

    def after_header(self, way: Way) -> "_State":
        """The text that a header opens."""
        stop = {"analysis": self._g.end, "preamble": self._g.end, "final": self._g.ret, "call": self._g.call}[way.body]
        if way.schema is not None:
            return _Json(self, self._g.matcher(way.schema), stop)
        return _Text(self, stop, counted=way.body == "analysis")

    def after_stop(self, stop: int) -> "_State":
        return self.next_message(()) if stop == self._g.end else _Over()

    def next_message(self, first: Sequence[int]) -> "_State":
        """`first`, then the opening of another message of the assistant's, a token at a time."""
        role = self._g.tokenizer.encode("assistant")
        return _Forced(self, (*first, self._g.start, *role), self._headers())

    def _headers(self) -> "_Header":
        spent = self.budget_left == 0
        ways = [way for way in self._rules.ways if not (spent and way.body == "analysis")]
        return _Header(self, [(way, 0, 0) for way in ways])

    @property
    def grammars(self) -> Grammars:
        return self._g


class _State:
    """Where a turn stands: what may come, and where each token leads (None: nowhere, it was not allowed)."""

    def mask(self) -> bytes | None:
        raise NotImplementedError

    def accept(self, token: int) -> "_State | None":
        raise NotImplementedError


class _Header(_State):
    """In a header: the ways that are still open, each with its element and the byte in it."""

    def __init__(self, turn: Constraint, open_ways: list[tuple[Way, int, int]]) -> None:
        self._turn, self._open = turn, open_ways

    def mask(self) -> bytes:
        allowed: set[int] = set()
        texts: set[bytes] = set()
        for way, element, byte in self._open:
            expected = way.header[element]
            if isinstance(expected, int):
                allowed.add(expected)
            else:
                texts.add(expected[byte:])
        ids = self._turn.grammars.ids
        for text in texts:
            allowed.update(ids[text[:n]] for n in range(1, len(text) + 1) if text[:n] in ids)
        return self._turn.grammars.mask_of(list(allowed))

    def accept(self, token: int) -> _State | None:
        tokenizer = self._turn.grammars.tokenizer
        piece: Element = token if tokenizer.is_special(token) else tokenizer.token_bytes(token)
        left = [moved for each in self._open if (moved := _advance(*each, piece))]
        done = [way for way, element, _ in left if element == len(way.header)]
        if done:
            return self._turn.after_header(done[0])
        return _Header(self._turn, left) if left else None


def _advance(way: Way, element: int, byte: int, piece: Element) -> tuple[Way, int, int] | None:
    expected = way.header[element]
    if isinstance(expected, int) or isinstance(piece, int):
        return (way, element + 1, 0) if expected == piece else None
    if not expected.startswith(piece, byte):
        return None
    byte += len(piece)
    return (way, element + 1, 0) if byte == len(expected) else (way, element, byte)


class _Text(_State):
    """Free text up to its stop; counted text ends when the budget is spent, after the character under way."""

    def __init__(self, turn: Constraint, stop: int, counted: bool) -> None:
        self._turn, self._stop, self._counted = turn, stop, counted
        self._mask = turn.grammars.text_mask(stop)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def mask(self) -> bytes:
        if self._counted and self._turn.budget_left == 0:
            return self._turn.grammars.mask_of(self._turn.grammars.continuations)
        return self._mask

    def accept(self, token: int) -> _State | None:
        g = self._turn.grammars
        if token == self._stop:
            return self._turn.after_stop(token)
        if g.tokenizer.is_special(token):
            return None
        if not self._counted:
            return self
        self._turn.think()
        self._utf8.decode(g.tokenizer.token_bytes(token))
        cut = bool(self._utf8.getstate()[0])
        spent = self._turn.budget_left == 0
        return self._turn.next_message([g.end]) if spent and not cut else self


class _Json(_State):
    """JSON by a schema; its stop is allowed where it is complete."""

    def __init__(self, turn: Constraint, matcher: LLMatcher, stop: int) -> None:
        self._turn, self._matcher, self._stop = turn, matcher, stop

    def mask(self) -> bytes:
        mask = self._matcher.compute_bitmask()
        ret = self._turn.grammars.ret
        if self._stop == ret or not mask[ret >> 3] & (1 << (ret & 7)):
            return mask
        moved = bytearray(mask)
        moved[ret >> 3] &= ~(1 << (ret & 7))
        moved[self._stop >> 3] |= 1 << (self._stop & 7)
        return bytes(moved)

    def accept(self, token: int) -> _State | None:
        if token == self._stop:
            return _Over() if self._matcher.is_accepting() else None
        return self if self._matcher.try_consume_tokens([token]) == 1 else None


class _Forced(_State):
    """These tokens and no others, then another state."""

    def __init__(self, turn: Constraint, tokens: Sequence[int], following: _State) -> None:
        self._turn, self._tokens, self._following = turn, tokens, following

    def mask(self) -> bytes:
        return self._turn.grammars.mask_of(self._tokens[:1])

    def accept(self, token: int) -> _State | None:
        if token != self._tokens[0]:
            return None
        rest = self._tokens[1:]
        return _Forced(self._turn, rest, self._following) if rest else self._following


class _Over(_State):
    """Behind the turn's stop: nothing is to be kept in form any more."""

    def mask(self) -> None:
        return None

    def accept(self, token: int) -> _State:
        return self
