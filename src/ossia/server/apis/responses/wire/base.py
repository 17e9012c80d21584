"""What all events of a stream have in common."""

from msgspec import Struct


class Event(Struct, kw_only=True, tag_field="type"):
    sequence_number: int = 0


class ItemEvent(Event):
    """Something about one item."""

    item_id: str
    output_index: int
