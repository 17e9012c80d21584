"""The error for a schema that cannot be enforced: the keyword, its place, and the reason."""


class SchemaError(ValueError):
    """A part of a schema cannot be enforced: a keyword ("" for the whole) and its JSON pointer."""

    def __init__(self, keyword: str, path: str, why: str, whose: str = "") -> None:
        super().__init__(
            ": ".join(part for part in (whose, f"{keyword} at {path or '#'}" if keyword else path, why) if part)
        )
        self.keyword, self.path, self.why, self.whose = keyword, path or "#", why, whose

    def of(self, whose: str) -> "SchemaError":
        """The same error, with the owner of the schema at the start of its message."""
        return SchemaError(self.keyword, self.path, self.why, whose)
