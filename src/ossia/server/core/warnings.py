"""Non-fatal warnings about a request, and the header that carries them.

Input: schemas' unenforced parts, and other warnings. Output: warning texts and a header.
"""

from collections.abc import Sequence

from ossia.chat import TurnOptions, turn_grammar
from ossia.harmony.client_tools import Toolbox
from ossia.harmony.messages import Message
from ossia.server.core.service import Service
from ossia.server.errors import input_errors

HEADER = "x-ossia-warnings"
MAX_HEADER = 1000  # proxies refuse long ones


def unenforced(
    service: Service, messages: Sequence[Message], options: TurnOptions, toolbox: Toolbox, form: str = "response_format"
) -> list[str]:
    """Parts of the schemas of answer and tools that will not be enforced. form: the field with the answer's schema.

    Raises ApiError (400) for rules that cannot be. For any thread but the event loop's: it compiles schemas.
    """
    with input_errors():
        dropped = turn_grammar(service.grammars, messages, options).dropped
    names = {"final": form, **{to: tool.name for to, tool in toolbox.called.items()}}
    return [f"{names[to]}: not enforced: {', '.join(parts)}" for to, parts in dropped.items() if to in names]


def header(warnings: Sequence[str]) -> dict[str, str]:
    """No header where there are none. Names of tools may hold anything; a header only printable ASCII: the rest is escaped."""
    text = "; ".join(warnings).encode("unicode_escape").decode("ascii")
    return {HEADER: text[:MAX_HEADER]} if text else {}
