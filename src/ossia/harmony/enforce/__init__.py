"""JSON schemas to grammars: what can be enforced exactly, and which keyword cannot be, with the reason.

In: a JSON schema. Out: the text of a grammar (`grammar_of`).
"""

from ossia.harmony.enforce.errors import SchemaError
from ossia.harmony.enforce.grammar import SchemaGrammar, grammar_of
from ossia.harmony.enforce.language import Language, string_terminal
from ossia.harmony.enforce.reader import EnforceableSchema, enforceable_schema, is_lenient, leniently
from ossia.harmony.enforce.text_grammar import refused, text_grammar

__all__ = [
    "EnforceableSchema",
    "Language",
    "SchemaError",
    "SchemaGrammar",
    "enforceable_schema",
    "grammar_of",
    "is_lenient",
    "leniently",
    "refused",
    "string_terminal",
    "text_grammar",
]
