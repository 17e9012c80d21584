"""The first lines of a system message: identity, knowledge cutoff, date.

In: the user's or client's values. Out: the content of the system message, or an InputError that names the field.
Values are encoded as text, so they cannot contain control tokens.
"""

import re
from dataclasses import replace
from datetime import date

from ossia.harmony.errors import InputError
from ossia.harmony.messages import System

TODAY = "today"
NONE = "none"  # omits a line
LONGEST_IDENTITY = 2000
OPENING = System(current_date=TODAY)
MONTH = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])(?:-\d\d)?")


def opening(
    base: System,
    identity: str | None = None,
    knowledge_cutoff: str | None = None,
    current_date: str | None = None,
    under: str = "",
) -> System:
    """`base` with the given values. None keeps a line, "none" omits it. under: the prefix of field names in errors.

    knowledge_cutoff: YYYY-MM. current_date: YYYY-MM-DD or "today", which `dated` resolves.
    """
    if identity is not None:
        if len(identity) > LONGEST_IDENTITY:
            raise _refused(under, "identity", f"has more than {LONGEST_IDENTITY} characters")
        base = replace(base, identity=None if identity.strip() in ("", NONE) else identity)
    if knowledge_cutoff is not None:
        if knowledge_cutoff != NONE and not MONTH.fullmatch(knowledge_cutoff):
            raise _refused(under, "knowledge_cutoff", "must be YYYY-MM, or none")
        base = replace(base, knowledge_cutoff=None if knowledge_cutoff == NONE else knowledge_cutoff)
    if current_date is not None:
        base = replace(base, current_date=None if current_date == NONE else _day(current_date, under))
    return base


def dated(content: System) -> System:
    """The content with today's date in place of "today"."""
    return replace(content, current_date=date.today().isoformat()) if content.current_date == TODAY else content


def _day(text: str, under: str) -> str:
    try:
        return text if text == TODAY else date.fromisoformat(text).isoformat()
    except ValueError:
        raise _refused(under, "date", "must be YYYY-MM-DD, today or none") from None


def _refused(under: str, field: str, why: str) -> InputError:
    name = under + (field.replace("_", "-") if under == "--" else field)
    return InputError(name, f"{name} {why}")
