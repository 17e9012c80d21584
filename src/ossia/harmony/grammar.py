"""The token mask of a turn: headers, recipients, arguments, answer forms, and the thinking budget.

In: the declared tools, the tool choice, the form of the answer, the thinking budget. Out: before each token, one bit
per id that is allowed.

Headers are matched byte by byte, so any tokenization of them is allowed. JSON is matched by llguidance. Free text has
one constant mask, which excludes control tokens. docs/constrain.md has the reasons and the costs.
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

from ossia.harmony.calls import call_headers, recipients
from ossia.harmony.dialect import canonical
from ossia.harmony.enforce import Language, SchemaError, grammar_of, refused, string_terminal, text_grammar
from ossia.harmony.errors import InputError
from ossia.harmony.messages import AnswerForm, JsonObject, TextGrammar, ToolNamespace
from ossia.tokenizer.tokenizer import Tokenizer

CONTROL = re.compile(r"<\|\w+\|>")
FIRST_PART = re.compile("[\0-\xff]+|.")  # the text of a spelling up to a control token, or that token
# Between JSON tokens: enough for pretty-printing, but limits endless white space.
WHITE_SPACE = r"[ \t\n\r]{0,16}"
MULTIPLES_LIMITS = LLParserLimits(step_lexer_fuel=1_000_000)  # five times the default: at most 10 ms per step
NOTHING_FITS = "no value fits it"
COMPILED_SCHEMAS = 256  # size of the cache of compiled schemas

Result = TypeVar("Result")
# A generator yields masks and receives the sampled tokens. After None, which allows everything, it receives none.
Steps: TypeAlias = Generator[bytes | None, int, Result]


class GrammarCache:
    """What all turns share for a tokenizer: the bytes of its tokens, text masks, and compiled schemas.

    vocab: the model's number of ids, if larger than the tokenizer's. Ids beyond the tokenizer's are never allowed.
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
        """A header as a string for matching: each byte is a character 0..255, each control token one above 255."""
        special = self.tokenizer.special
        return CONTROL.sub(lambda name: chr(256 + special[name[0]]), header.encode().decode("latin-1"))

    def spelling_of(self, token: int) -> str:
        if self.tokenizer.is_special(token):
            return chr(256 + token)
        return self.tokenizer.token_bytes(token).decode("latin-1")

    def beginnings(self, spellings: Iterable[str]) -> Iterator[int]:
        """All tokens that one of these spellings may begin with."""
        for head in {next(FIRST_PART.finditer(spelling))[0] for spelling in spellings}:
            if head > "\xff":
                yield ord(head) - 256
            else:
                parts = (head[:end] for end in range(1, len(head) + 1))
                yield from (self._ids[part] for part in parts if part in self._ids)

    def rest_of_character(self, cut: bytes) -> list[int]:
        """All tokens that continue the UTF-8 character begun by `cut`, and do not exceed it.

        There is none if no character begins with `cut`, as with half a surrogate.
        """
        return [token for data, token in self._continuations.items() if _decodes(cut + data)]

    @cached_property
    def _continuations(self) -> dict[bytes, int]:
        within = {spelling: token for spelling, token in self._ids.items() if len(spelling) <= 3}
        return {s.encode("latin-1"): token for s, token in within.items() if all("\x80" <= c < "\xc0" for c in s)}

    def matcher(self, schema: AnswerForm) -> LLMatcher:
        """A new matcher for the schema or grammar. Raises SchemaError for a part that cannot be enforced."""
        if isinstance(schema, TextGrammar):
            return self._texts(schema).deep_copy()
        return self._compiled(_as_text(schema))[0].deep_copy()

    def dropped(self, schema: AnswerForm) -> tuple[str, ...]:
        """The parts of a lenient schema that are not enforced."""
        if isinstance(schema, TextGrammar):
            return ()
        return self._compiled(_as_text(schema))[1]

    def allows(self, schema: JsonObject, text: str) -> bool:
        """Whether the whole text matches the schema. Raises SchemaError like `matcher`."""
        try:
            tokens = self.tokenizer.encode(text)
        except UnicodeEncodeError:  # half a surrogate pair has no token
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
        """Whether the language contains no JSON string. Raises ValueError if that takes too long to compute."""
        matcher = self._started(LLMatcher.grammar_from_lark(f"start: WORD\nWORD: {string_terminal(language)}"))
        if isinstance(matcher, LLMatcher):
            return False
        if matcher != NOTHING_FITS:
            raise ValueError(f"it takes too long to find a string that fits it: {matcher}")
        return True

    def _compile_text(self, form: TextGrammar) -> LLMatcher:
        matcher = self._started(text_grammar(form))
        if isinstance(matcher, str):
            raise refused(form, matcher)
        return matcher

    def _started(self, grammar: str) -> LLMatcher | str:
        """A matcher before its first token, or the reason why there is none."""
        limits = MULTIPLES_LIMITS if "MULTIPLE_" in grammar else None
        matcher = LLMatcher(self._json_tokenizer, grammar, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()
        error = matcher.get_error()
        # no text would come; llguidance tells it by its message alone
        if matcher.is_stopped() and (not error or error.startswith("NoExtension")):
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
    """llguidance's error in one line, without its state and our grammar."""
    text = " ".join(matcher.get_error().partition("<state>")[0].split())
    return f"llguidance says: {text[:300]}" if text else "llguidance gave up on it"


def _decodes(data: bytes) -> bool:
    """Whether data is UTF-8, with the last character possibly incomplete."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


class MessageForm(NamedTuple):
    """A message that the turn may contain. headers: all forms after the role up to <|message|>, the usual one first."""

    name: str
    headers: Sequence[str]
    stop: int
    schema: AnswerForm | None = None  # None: free text
    is_analysis: bool = False

    @property
    def param(self) -> str:
        """The field of a request that gives its schema."""
        return "response_format" if self.name == "final" else "tools"


class PrefillError(InputError):
    """A prefill that no answer in this turn may begin with."""

    def __init__(self, message: str) -> None:
        super().__init__("messages", message, "invalid_prefill")


@dataclass(frozen=True)
class TurnGrammar:
    """The allowed form of a turn: analysis and preambles, then a final answer or a call.

    - tools: the tools of the developer message that may be called. Arguments always fit their schema.
    - system_tools: those of the system message; they are called on the analysis channel.
    - tool_choice: "auto", "none", "required", a tool's name ("f", "functions.f", "browser.search", "python"), or a
      namespace ("browser").
    - response_format: the JSON schema or grammar of the final answer.
    - analysis_budget: tokens of analysis in the turn; then only the answer or a call may follow.
    - max_calls: calls in one turn.

    Raises InputError for an invalid choice or name, and SchemaError for a schema that cannot be enforced.
    """

    grammars: GrammarCache
    tools: Sequence[ToolNamespace] = ()
    system_tools: Sequence[ToolNamespace] = ()
    tool_choice: str = "auto"
    response_format: AnswerForm | None = None
    analysis_budget: int | None = None
    max_calls: int = 1

    def __post_init__(self) -> None:
        if self.analysis_budget is not None and self.analysis_budget < 0:
            message = f"analysis_budget {self.analysis_budget}: give 0 tokens or more, or None for no limit"
            raise InputError("thinking_budget", message)
        for form in self.endings:
            if form.schema is not None:
                try:
                    self.grammars.matcher(form.schema)
                except SchemaError as error:
                    if isinstance(form.schema, TextGrammar):
                        raise
                    raise error.of(f"the JSON schema of {form.name} cannot be enforced", form.param) from error

    @cached_property
    def dropped(self) -> dict[str, tuple[str, ...]]:
        """By recipient: the parts of lenient tools' schemas that are not enforced."""
        found = {form.name: self.grammars.dropped(form.schema) for form in self.endings if form.schema is not None}
        return {name: dropped for name, dropped in found.items() if dropped}

    def start(self, room: int | None = None, prefill: Sequence[int] | None = None) -> "Constraint":
        """The mask of one turn, starting after `<|start|>assistant`.

        room: after this many tokens, headers included, analysis and preambles are closed, and the turn must end.
        prefill: tokens of the final answer at the end of the prompt; the turn continues them. Raises PrefillError if
        no answer may begin with the prefill.
        """
        return Constraint(self, room, prefill)

    @property
    def final(self) -> MessageForm:
        """The form of the final answer. Raises PrefillError if a call is required."""
        for form in self.endings:
            if form.name == "final":
                return form
        raise PrefillError(f"tool_choice {self.tool_choice!r} asks for a call, so no answer can be continued")

    @cached_property
    def thoughts(self) -> tuple[MessageForm, ...]:
        """Messages that may occur any number of times: analysis, and a preamble to the user before a call."""
        end = self.grammars.end
        return (
            MessageForm("analysis", ("<|channel|>analysis<|message|>",), end, is_analysis=True),
            MessageForm("preamble", ("<|channel|>commentary<|message|>",), end),
        )

    @cached_property
    def endings(self) -> tuple[MessageForm, ...]:
        """Messages that end the turn."""
        final = MessageForm("final", ("<|channel|>final<|message|>",), self.grammars.ret, self.response_format)
        if self.tool_choice == "none":
            return (final,)
        calls = {form.name: form for in_system in (False, True) for form in self._call_forms(in_system)}
        match self.tool_choice:
            case "auto":
                return (final, *calls.values())
            case "required":
                chosen = tuple(calls.values())
            case name:
                chosen = tuple(call for to, call in calls.items() if name in (to, to.removeprefix("functions.")))
                spaces = {space.name for space in self.system_tools}
                if not chosen and name in spaces:
                    chosen = tuple(call for to, call in calls.items() if to.startswith(f"{name}."))
        if not chosen:
            names = ", ".join(calls) or "none"
            message = f"tool_choice {self.tool_choice!r} fits no declared tool (declared: {names})"
            raise InputError("tool_choice", message)
        return chosen

    def _call_forms(self, in_system: bool) -> Iterator[MessageForm]:
        spaces = self.system_tools if in_system else self.tools
        for to, schema in recipients(spaces, in_system).items():
            yield MessageForm(to, call_headers(to, schema is not None, in_system), self.grammars.call, schema)


class Constraint:
    """The state of one turn; a `TokenMask`.

    strayed: set when a token came that the mask did not allow, or when llguidance gave up on a schema that is too
    complex. From then on, everything is allowed. In the second case `failure` has the reason.
    """

    def __init__(self, rules: TurnGrammar, room: int | None = None, prefill: Sequence[int] | None = None) -> None:
        self._rules, self._grammars, self._room, self._prefill = rules, rules.grammars, room, prefill
        self._analysis_tokens = self._tokens = 0
        self.strayed = False
        self._fault: tuple[int, SchemaError] | None = None
        self._steps = self._turn()
        self._mask = next(self._steps)

    def mask(self) -> bytes | None:
        return self._mask

    def accept(self, token: int) -> None:
        if self._mask is None:
            return
        self._tokens += 1
        if has(self._mask, token):
            self._mask = self._steps.send(token)
        else:
            self.strayed, self._mask = True, None

    def failure(self, tokens: int) -> SchemaError | None:
        """Why tokens after this many are not constrained any more; None if they are."""
        return self._fault[1] if self._fault and tokens >= self._fault[0] else None

    def _fail(self, form: MessageForm, reason: str) -> None:
        what, code = f"the JSON schema of {form.name}", "invalid_json_schema"
        if isinstance(form.schema, TextGrammar):
            what, code = f"the answer's {form.schema.kind}", "invalid_grammar"
        whose = f"{what} is too complex to be enforced after {self._tokens} tokens"
        self._fault = self._tokens, SchemaError("", "", reason, whose, param=form.param, code=code)
        self.strayed = True

    def _turn(self) -> Steps[None]:
        opening = (self._grammars.start, *self._grammars.tokenizer.encode("assistant"))
        form, calls = None if self._prefill is None else self._rules.final, 0
        while True:
            form = form or (yield from self._header(only_calls=calls > 0))
            yield from self._text(form) if form.schema is None else self._grammar(form, form.schema)
            if form.stop == self._grammars.end:
                yield from self._exactly(opening)
            else:
                calls += form.stop == self._grammars.call
                if not 0 < calls < self._rules.max_calls or not (yield from self._calls_again()):
                    break
            form = None
        yield None

    def _calls_again(self) -> Steps[bool]:
        """After a call: whether the assistant starts another message (True), or the called tool does (False)."""
        yield from self._exactly([self._grammars.start])
        encode = self._grammars.tokenizer.encode
        assistant, *rest = encode("assistant")
        tools = [encode(form.name)[0] for form in self._calls()]
        if (yield self._grammars.mask_of([assistant, *tools])) != assistant:
            return False
        yield from self._exactly(rest)
        return True

    def _calls(self) -> list[MessageForm]:
        return [form for form in self._rules.endings if form.stop == self._grammars.call]

    def _header(self, only_calls: bool) -> Steps[MessageForm]:
        forms = self._rules.endings if self._spent() else (*self._rules.thoughts, *self._rules.endings)
        forms = self._calls() if only_calls else forms
        if len(forms) == 1:
            yield from self._exactly(self._grammars.tokenizer.encode_with_special(forms[0].headers[0]))
            return forms[0]
        left: Mapping[str, MessageForm] = {
            self._grammars.spelling(header): form for form in forms for header in form.headers
        }
        while "" not in left:
            token = yield self._grammars.mask_of(self._grammars.beginnings(left))
            text = self._grammars.spelling_of(token)
            left = {rest.removeprefix(text): form for rest, form in left.items() if rest.startswith(text)}
        return left[""]

    def _text(self, form: MessageForm) -> Steps[None]:
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        while not self._is_over(form):
            token = yield self._grammars.text_masks[form.stop]
            if token == form.stop:
                return
            self._analysis_tokens += form.is_analysis
            utf8.decode(self._grammars.tokenizer.token_bytes(token))
        while rest := self._grammars.rest_of_character(utf8.getstate()[0]):
            token = yield self._grammars.mask_of(rest)
            utf8.decode(self._grammars.tokenizer.token_bytes(token))
        yield from self._exactly([form.stop])

    def _grammar(self, form: MessageForm, schema: AnswerForm) -> Steps[None]:
        matcher, ret, stop = self._grammars.matcher(schema), self._grammars.ret, form.stop
        begun, self._prefill = self._prefill or (), None
        if (taken := matcher.try_consume_tokens(list(begun))) < len(begun):
            text = self._grammars.tokenizer.decode(begun[:taken])
            raise PrefillError(f"the prefill does not fit the form of the answer after {text[-40:]!r}")
        while True:
            mask = bytearray(matcher.compute_bitmask())
            if matcher.is_error():
                self._fail(form, reason_of(matcher))
                yield None
            # llguidance ends every text with <|return|>, but a call ends with <|call|>
            if stop != ret and has(mask, ret):
                mask[ret >> 3] ^= 1 << (ret & 7)
                mask[stop >> 3] |= 1 << (stop & 7)
            if isinstance(schema, TextGrammar):  # the grammar might allow control tokens
                mask = both(mask, self._grammars.text_masks[stop])
            token = yield bytes(mask)
            if token == stop:
                return
            matcher.consume_token(token)

    def _exactly(self, tokens: Iterable[int]) -> Steps[None]:
        for token in tokens:
            yield self._grammars.mask_of([token])

    def _spent(self) -> bool:
        """Whether the turn must come to its end now."""
        budget = self._rules.analysis_budget
        return self._is_full() or (budget is not None and self._analysis_tokens >= budget)

    def _is_over(self, form: MessageForm) -> bool:
        """Whether this message must end. Never true for a message that ends the turn."""
        return self._spent() if form.is_analysis else form.stop == self._grammars.end and self._is_full()

    def _is_full(self) -> bool:
        return self._room is not None and self._tokens >= self._room


def both(one: bytes | bytearray, other: bytes) -> bytes:
    """The tokens that both masks allow."""
    length = min(len(one), len(other))
    return (int.from_bytes(one[:length]) & int.from_bytes(other[:length])).to_bytes(length)


def has(mask: bytes | bytearray, token: int) -> bool:
    return token >> 3 < len(mask) and bool(mask[token >> 3] >> (token & 7) & 1)
