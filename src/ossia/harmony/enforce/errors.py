"""The error of a JSON schema or grammar that cannot be enforced: which keyword, where it stands, and why."""

from typing import Literal

from ossia.harmony.errors import InputError

SchemaCode = Literal["invalid_json_schema", "invalid_grammar"]


class SchemaError(InputError):
    """A schema or grammar that cannot be enforced.

    keyword: the JSON Schema keyword at fault, or "" for the whole schema. path: its JSON pointer. why: the reason.
    whose: what the message begins with. param: "response_format", "tools", or None where only a schema was given.
    """

    def __init__(
        self,
        keyword: str,
        path: str,
        why: str,
        whose: str = "",
        *,
        param: str | None = None,
        code: SchemaCode = "invalid_json_schema",
    ) -> None:
        place = f"{keyword} at {path or '#'}" if keyword else path
        super().__init__(param, ": ".join(part for part in (whose, place, why) if part), code)
        self.keyword, self.path, self.why, self.whose = keyword, path or "#", why, whose

    def of(self, whose: str, param: str) -> "SchemaError":
        """The same error for one schema of a request."""
        return SchemaError(self.keyword, self.path, self.why, whose, param=param)
