"""The error of a schema that cannot be enforced: which keyword, where it stands, and why."""


class SchemaError(ValueError):
    """What of a schema cannot be kept to: a keyword, or "" for the whole, and the JSON pointer of where it stands."""

    def __init__(self, keyword: str, path: str, why: str, whose: str = "") -> None:
        super().__init__(
            ": ".join(part for part in (whose, f"{keyword} at {path or '#'}" if keyword else path, why) if part)
        )
        self.keyword, self.path, self.why, self.whose = keyword, path or "#", why, whose

    def of(self, whose: str) -> "SchemaError":
        """The same, its message begun with whose schema it is."""
        return SchemaError(self.keyword, self.path, self.why, whose)
