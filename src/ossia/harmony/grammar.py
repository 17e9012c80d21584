"""The mask that keeps a sampled turn well-formed: headers, recipients, arguments, answers, and how long to think.

In: the tools declared, a choice among them, a form for the answer, a budget of thinking. Out: before each token, a bit
for every id that may come. It does not know logits, models or how a tool is run.

Headers are walked byte by byte, so any tokenization of them is allowed; JSON is llguidance's; free text has one
constant mask, which bans control tokens. docs/constrain.md gives the reasons and the costs.
"""

import codecs
import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeAlias, TypeVar

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.tiktoken import lltokenizer_from_encoding

from ossia.harmony.dialect import canonical, object_schema
from ossia.harmony.enforce import Language, SchemaError, grammar_of, refused, string_terminal, text_grammar
from ossia.harmony.messages import AnswerForm, JsonObject, TextGrammar, ToolNamespace, ToolSpec
from ossia.tokenizer.tokenizer import Tokenizer

BUILT_IN = frozenset({"browser", "python"})  # trained to be called in the middle of thinking, on the analysis channel
NO_ARGUMENTS: JsonObject = {"type": "object", "properties": {}, "additionalProperties": False}
JSON_TYPES = (" <|constrain|>json", "<|constrain|>json", " json", "")
NAME = re.compile(r"[\w./:-]*\w")
CONTROL = re.compile(r"<\|\w+\|>")
FIRST_PART = re.compile("[\0-\xff]+|.")  # of a spelling: its text up to a control token, or that token
# Between JSON tokens: enough for a pretty-printer, too little for a model to run on in.
WHITE_SPACE = r"[ \t\n\r]{0,16}"
MULTIPLES_LIMITS = LLParserLimits(step_lexer_fuel=1_000_000)  # five times the default; a step takes 10 ms at most
NOTHING_FITS = "no value fits it"
COMPILED_SCHEMAS = 256  # kept for later turns

Result = TypeVar("Result")
# What may come is given, what came is sent back. After None, which allows everything, nothing is sent any more.
Steps: TypeAlias = Generator[bytes | None, int, Result]


class GrammarCache:
    """What is costly to make for a tokenizer and shared by all turns: its tokens' bytes, text masks, compiled schemas.

    vocab: the model's number of ids, where it is larger than the tokenizer's; the ids beyond are never allowed.
    """

    def __init__(self, tokenizer: Tokenizer, vocab: int | None = None) -> None:
        self.tokenizer = tokenizer
        self._vocab = max(tokenizer.size, vocab or 0)
        special = tokenizer.special
        self.start, self.end, self.ret, self.call = (special[f"<|{n}|>"] for n in ("start", "end", "return", "call"))
        texts = list(tokenizer.text_tokens())
        self._ids = {data.decode("latin-1"): token for data, token in reversed(texts)}
        every = [token for _, token in texts]
        self.text_masks = {stop: self.mask_of([*every, stop]) for stop in (self.end, self.ret, self.call)}
        self._compiled = lru_cache(COMPILED_SCHEMAS)(self._compile)
        self._texts = lru_cache(COMPILED_SCHEMAS)(self._compile_text)

    def mask_of(self, tokens: Iterable[int]) -> bytes:
        mask = bytearray(-(-self._vocab // 32) * 4)
        for token in tokens:
            mask[token >> 3] |= 1 << (token & 7)
        return bytes(mask)

    def spelling(self, header: str) -> str:
        """A header as a string to walk: each byte is the character of its number, each control token one above 255."""
        special = self.tokenizer.special
        return CONTROL.sub(lambda name: chr(256 + special[name[0]]), header.encode().decode("latin-1"))

    def spelling_of(self, token: int) -> str:
        if self.tokenizer.is_special(token):
            return chr(256 + token)
        return self.tokenizer.token_bytes(token).decode("latin-1")

    def beginnings(self, spellings: Iterable[str]) -> Iterator[int]:
        """Every token that a walk of one of these spellings may begin with."""
        for head in {next(FIRST_PART.finditer(spelling))[0] for spelling in spellings}:
            if head > "\xff":
                yield ord(head) - 256
            else:
                parts = (head[:end] for end in range(1, len(head) + 1))
                yield from (self._ids[part] for part in parts if part in self._ids)

    def rest_of_character(self, cut: bytes) -> list[int]:
        """Every token that goes on with the UTF-8 character that `cut` begins, and not past its end.

        There is none where no character begins with `cut`, as with half a surrogate.
        """
        return [token for data, token in self._continuations.items() if _decodes(cut + data)]

    @cached_property
    def _continuations(self) -> dict[bytes, int]:
        within = {spelling: token for spelling, token in self._ids.items() if len(spelling) <= 3}
        return {s.encode("latin-1"): token for s, token in within.items() if all("\x80" <= c < "\xc0" for c in s)}

    def matcher(self, schema: AnswerForm) -> LLMatcher:
        """A fresh matcher of what fits the schema or grammar. Raises SchemaError with what of it cannot be enforced."""
        if isinstance(schema, TextGrammar):
            return self._texts(schema).deep_copy()
        return self._compiled(_as_text(schema))[0].deep_copy()

    def dropped(self, schema: AnswerForm) -> tuple[str, ...]:
        """What of a lenient schema is not enforced."""
        if isinstance(schema, TextGrammar):
            return ()
        return self._compiled(_as_text(schema))[1]

    def allows(self, schema: JsonObject, text: str) -> bool:
        """Whether the text can be sampled under the schema, as a whole. Raises SchemaError as `matcher` does."""
        try:
            tokens = self.tokenizer.encode(text)
        except UnicodeEncodeError:  # half a surrogate pair: no token says that
            return False
        matcher = self.matcher(schema)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def _compile(self, text: str) -> tuple[LLMatcher, tuple[str, ...]]:
        found: list[LLMatcher] = []

        def refusal(grammar: str) -> str | None:
            matcher = self._started(LLMatcher.grammar_from_lark(grammar))
            found[:] = [] if isinstance(matcher, str) else [matcher]
            return matcher if isinstance(matcher, str) else None

        written = grammar_of(canonical(json.loads(text)), WHITE_SPACE, self._is_empty, refusal)
        return found[0], written.dropped

    def _is_empty(self, language: Language) -> bool:
        """Whether no JSON string is of the language. Raises ValueError where that takes too long to find out."""
        matcher = self._started(LLMatcher.grammar_from_lark(f"start: WORD\nWORD: {string_terminal(language)}"))
        if isinstance(matcher, LLMatcher):
            return False
        if matcher != NOTHING_FITS:
            raise ValueError(f"whether any string fits it cannot be told: {matcher}")
        return True

    def _compile_text(self, form: TextGrammar) -> LLMatcher:
        matcher = self._started(text_grammar(form))
        if isinstance(matcher, str):
            raise refused(form, matcher)
        return matcher

    def _started(self, grammar: str) -> LLMatcher | str:
        """A matcher before its first token, or why there is none."""
        limits = MULTIPLES_LIMITS if "MULTIPLE_" in grammar else None
        matcher = LLMatcher(self._json_tokenizer, grammar, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()
        error = matcher.get_error()
        if matcher.is_stopped() and (not error or error.startswith("NoExtension")):  # no text would come
            return NOTHING_FITS
        return reason_of(matcher) if error else matcher

    @cached_property
    def _json_tokenizer(self) -> LLTokenizer:
        return lltokenizer_from_encoding(self.tokenizer.encoding, n_vocab=self._vocab, eos_token=self.ret)


def _as_text(schema: JsonObject) -> str:
    try:
        return json.dumps(schema, default=dict)
    except RecursionError:
        raise SchemaError("", "#", "the schema is nested too deep") from None


def reason_of(matcher: LLMatcher) -> str:
    """Why llguidance gave up, in one line, without its state and our grammar."""
    said = " ".join(matcher.get_error().partition("<state>")[0].split())
    return f"llguidance says: {said[:300]}" if said else "llguidance gave up on it"


def _decodes(data: bytes) -> bool:
    """Whether data is UTF-8, its last character possibly cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


class MessageForm(NamedTuple):
    """A message that may be said. `headers`, from behind the role to <|message|>: every form, the usual one first."""

    name: str
    headers: Sequence[str]
    stop: int
    schema: AnswerForm | None = None  # None: free text
    thought: bool = False


class PrefillError(ValueError):
    """A beginning of the answer that cannot be continued under the rules of the turn."""


@dataclass(frozen=True)
class TurnGrammar:
    """What a turn may be: thoughts and preambles, then a final answer or a call.

    tools: all that may be called; arguments always fit their schema. tool_choice: "auto", "none", "required", or a
    tool's name ("f", "functions.f", "python"). response_format: the JSON schema, or grammar, of the final answer.
    analysis_budget: tokens of analysis in the turn, after which only the answer or a call may follow. most_calls: after a
    call the turn may go on with another, up to so many.
    Raises ValueError for a choice or a name that cannot be, and SchemaError for a schema that cannot be enforced.
    """

    grammars: GrammarCache
    tools: Sequence[ToolNamespace] = ()
    tool_choice: str = "auto"
    response_format: AnswerForm | None = None
    analysis_budget: int | None = None
    most_calls: int = 1

    def __post_init__(self) -> None:
        if self.analysis_budget is not None and self.analysis_budget < 0:
            raise ValueError(f"analysis_budget {self.analysis_budget}: give 0 tokens or more, or None for no limit")
        for way in self.endings:
            if way.schema is not None:
                try:
                    self.grammars.matcher(way.schema)
                except SchemaError as error:
                    if isinstance(way.schema, TextGrammar):
                        raise
                    raise error.of(f"the JSON schema of {way.name} cannot be enforced") from error

    @cached_property
    def dropped(self) -> dict[str, tuple[str, ...]]:
        """What is not enforced of the schemas of tools that are not strict, by their recipients."""
        found = {way.name: self.grammars.dropped(way.schema) for way in self.endings if way.schema is not None}
        return {name: dropped for name, dropped in found.items() if dropped}

    def start(self, room: int | None = None, prefill: Sequence[int] | None = None) -> "Constraint":
        """The mask of one turn, from just behind `<|start|>assistant`.

        room: after so many tokens, headers and all, thoughts and preambles are closed, and what ends the turn has to come.
        prefill: tokens of the final answer that the prompt ends in; the turn continues them.
        Raises PrefillError for a prefill that no answer under these rules begins with.
        """
        return Constraint(self, room, prefill)

    @property
    def final(self) -> MessageForm:
        """The final answer. Raises PrefillError where only a call may come."""
        for way in self.endings:
            if way.name == "final":
                return way
        raise PrefillError(f"tool_choice {self.tool_choice!r} asks for a call, so no answer can be continued")

    @cached_property
    def thoughts(self) -> tuple[MessageForm, ...]:
        """What may come any number of times: thinking, and a word to the user before a call."""
        end = self.grammars.end
        return (
            MessageForm("analysis", ("<|channel|>analysis<|message|>",), end, thought=True),
            MessageForm("preamble", ("<|channel|>commentary<|message|>",), end),
        )

    @cached_property
    def endings(self) -> tuple[MessageForm, ...]:
        """What ends the turn."""
        final = MessageForm("final", ("<|channel|>final<|message|>",), self.grammars.ret, self.response_format)
        if self.tool_choice == "none":
            return (final,)
        declared = recipients(self.tools)
        calls = {
            to: MessageForm(to, _call_headers(to, schema), self.grammars.call, schema)
            for to, schema in declared.items()
        }
        match self.tool_choice:
            case "auto":
                return (final, *calls.values())
            case "required":
                chosen = tuple(calls.values())
            case name:
                chosen = tuple(call for to, call in calls.items() if name in (to, to.removeprefix("functions.")))
        if not chosen:
            names = ", ".join(declared) or "none"
            raise ValueError(f"tool_choice {self.tool_choice!r} fits no declared tool (declared: {names})")
        return chosen


def recipients(spaces: Iterable[ToolNamespace]) -> dict[str, JsonObject | None]:
    """Each recipient with the schema of its arguments; a namespace without tools is itself called, with free text.

    Of two declarations of a name the later one holds.
    """
    found: dict[str, JsonObject | None] = {}
    for space in spaces:
        if not space.tools and space.name != "functions":
            found[space.name] = None
        for tool in space.tools:
            found[f"{space.name}.{tool.name}"] = _arguments(tool)
    for name in found:
        if not NAME.fullmatch(name):
            raise ValueError(f"tool name {name!r} cannot stand in a header: use letters, digits and any of _ - . / :")
    return found


def _arguments(tool: ToolSpec) -> JsonObject:
    if tool.parameters is None:
        return NO_ARGUMENTS
    if tool.strict:
        return object_schema(tool.parameters)
    return {**tool.parameters, "type": "object", "nullable": False, "x-guidance": {"lenient": True}}


def _call_headers(recipient: str, schema: JsonObject | None) -> list[str]:
    built_in = recipient.partition(".")[0] in BUILT_IN
    channel = f"<|channel|>{'analysis' if built_in else 'commentary'}"
    code = (" code",) if built_in or schema is None else ()
    types = (*code, "") if schema is None else (*code, *JSON_TYPES)
    places = (f"{channel} to={recipient}", f" to={recipient}{channel}")
    return [f"{place}{kind}<|message|>" for place in places for kind in types]


class Constraint:
    """The state of one turn; a `TokenMask`.

    `strayed` is set, and from then on all is allowed, when a token came that the mask did not allow, or when llguidance
    gave up on a schema that is too costly to follow: then `gave_up` has the reason, and no later token counts.
    """

    def __init__(self, rules: TurnGrammar, room: int | None = None, prefill: Sequence[int] | None = None) -> None:
        self._rules, self._grammars, self._room, self._prefill = rules, rules.grammars, room, prefill
        self._thought = self._said = 0
        self.strayed = False
        self._fault: tuple[int, str] | None = None
        self._steps = self._turn()
        self._mask = next(self._steps)

    def mask(self) -> bytes | None:
        return self._mask

    def accept(self, token: int) -> None:
        if self._mask is None:
            return
        self._said += 1
        if has(self._mask, token):
            self._mask = self._steps.send(token)
        else:
            self.strayed, self._mask = True, None

    def gave_up(self, tokens: int) -> str | None:
        """Why nothing after so many tokens of the turn is held to its form; None where it still is."""
        return self._fault[1] if self._fault and tokens >= self._fault[0] else None

    def _give_up(self, way: MessageForm, reason: str) -> None:
        what = f"the JSON schema of {way.name}"
        if isinstance(way.schema, TextGrammar):
            what = f"the answer's {way.schema.kind}"
        self._fault = self._said, f"{what} is too complex to be enforced after {self._said} tokens: {reason}"
        self.strayed = True

    def _turn(self) -> Steps[None]:
        opening = (self._grammars.start, *self._grammars.tokenizer.encode("assistant"))
        way, calls = None if self._prefill is None else self._rules.final, 0
        while True:
            way = way or (yield from self._header(only_calls=calls > 0))
            yield from self._text(way) if way.schema is None else self._grammar(way, way.schema)
            if way.stop == self._grammars.end:
                yield from self._exactly(opening)
            else:
                calls += way.stop == self._grammars.call
                if not 0 < calls < self._rules.most_calls or not (yield from self._calls_again()):
                    break
            way = None
        yield None

    def _calls_again(self) -> Steps[bool]:
        """Behind a call: whether the assistant opens another message, or the tool that was called does."""
        yield from self._exactly([self._grammars.start])
        encode = self._grammars.tokenizer.encode
        assistant, *rest = encode("assistant")
        tools = [encode(way.name)[0] for way in self._calls()]
        if (yield self._grammars.mask_of([assistant, *tools])) != assistant:
            return False
        yield from self._exactly(rest)
        return True

    def _calls(self) -> list[MessageForm]:
        return [way for way in self._rules.endings if way.stop == self._grammars.call]

    def _header(self, only_calls: bool) -> Steps[MessageForm]:
        ways = self._rules.endings if self._spent() else (*self._rules.thoughts, *self._rules.endings)
        ways = self._calls() if only_calls else ways
        if len(ways) == 1:
            yield from self._exactly(self._grammars.tokenizer.encode_with_special(ways[0].headers[0]))
            return ways[0]
        left: Mapping[str, MessageForm] = {
            self._grammars.spelling(header): way for way in ways for header in way.headers
        }
        while "" not in left:
            token = yield self._grammars.mask_of(self._grammars.beginnings(left))
            said = self._grammars.spelling_of(token)
            left = {rest.removeprefix(said): way for rest, way in left.items() if rest.startswith(said)}
        return left[""]

    def _text(self, way: MessageForm) -> Steps[None]:
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        while not self._is_over(way):
            token = yield self._grammars.text_masks[way.stop]
            if token == way.stop:
                return
            self._thought += way.thought
            utf8.decode(self._grammars.tokenizer.token_bytes(token))
        while rest := self._grammars.rest_of_character(utf8.getstate()[0]):
            token = yield self._grammars.mask_of(rest)
            utf8.decode(self._grammars.tokenizer.token_bytes(token))
        yield from self._exactly([way.stop])

    def _grammar(self, way: MessageForm, schema: AnswerForm) -> Steps[None]:
        matcher, ret, stop = self._grammars.matcher(schema), self._grammars.ret, way.stop
        begun, self._prefill = self._prefill or (), None
        if (taken := matcher.try_consume_tokens(list(begun))) < len(begun):
            text = self._grammars.tokenizer.decode(begun[:taken])
            raise PrefillError(f"the prefill does not fit the form of the answer after {text[-40:]!r}")
        while True:
            mask = bytearray(matcher.compute_bitmask())
            if matcher.is_error():
                self._give_up(way, reason_of(matcher))
                yield None
            # llguidance ends every text with <|return|>; a call's ends with <|call|>
            if stop != ret and has(mask, ret):
                mask[ret >> 3] ^= 1 << (ret & 7)
                mask[stop >> 3] |= 1 << (stop & 7)
            if isinstance(schema, TextGrammar):  # which could name control tokens
                mask = both(mask, self._grammars.text_masks[stop])
            token = yield bytes(mask)
            if token == stop:
                return
            matcher.consume_token(token)

    def _exactly(self, tokens: Iterable[int]) -> Steps[None]:
        for token in tokens:
            yield self._grammars.mask_of([token])

    def _spent(self) -> bool:
        """Whether the turn has to come to its end now."""
        budget = self._rules.analysis_budget
        return self._is_full() or (budget is not None and self._thought >= budget)

    def _is_over(self, way: MessageForm) -> bool:
        """Whether this message has to end; never one that ends the turn."""
        return self._spent() if way.thought else way.stop == self._grammars.end and self._is_full()

    def _is_full(self) -> bool:
        return self._room is not None and self._said >= self._room


def both(one: bytes | bytearray, other: bytes) -> bytes:
    """The tokens that both masks allow."""
    length = min(len(one), len(other))
    return (int.from_bytes(one[:length]) & int.from_bytes(other[:length])).to_bytes(length)


def has(mask: bytes | bytearray, token: int) -> bool:
    return token >> 3 < len(mask) and bool(mask[token >> 3] >> (token & 7) & 1)
