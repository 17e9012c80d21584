"""JSON schemas as a grammar can keep them: what is enforced exactly, and which keyword cannot be and why.

In: a JSON schema. Out: one in the keywords that llguidance enforces exactly. It does not know tokens or turns.
"""

from ossia.harmony.enforce.culprit import culprit
from ossia.harmony.enforce.reader import Enforceable, SchemaError, enforceable, is_lenient
from ossia.harmony.enforce.text_grammar import refused, text_grammar

__all__ = ["Enforceable", "SchemaError", "culprit", "enforceable", "is_lenient", "refused", "text_grammar"]
