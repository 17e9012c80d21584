"""The queue before the engine: who may run, by room in the cache, in turn by client.

In: the tokens each is likely to need. Out: leave to run, now or later, or a refusal.
It does not know what is run, and keeps to the event loop's thread.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

RESERVE = 8  # one in eight running places is reserved for clients other than the one that has the most
MIN_OUTPUT_TOKENS = 64  # tokens that an answer of unknown length is at least thought to need
MEMORY = 0.05  # weight of the newest answer in what answers usually take


class FullError(Exception):
    """The queue is full; `seconds` until it is worth another try."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many requests wait: try again in {seconds} s")
        self.seconds = seconds


@dataclass(eq=False, slots=True)
class Ticket:
    """A place in the line, and in the cache once it is `let`."""

    client: str
    need: int
    let: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    running: bool = False


class AdmissionQueue:
    """At most `most_running` run and `most_waiting` wait. Clients take turns, each client's own come in order.

    No client can fill the queue: it may have at most as many waiting as places are still free, and it may run at most
    `share` at a time. So a newcomer always finds a place.
    room: tokens that the cache holds. An answer of unknown length counts as twice the usual; where that was too little the
    engine's scheduler lets the youngest give way, so it is never wrong, only slower.
    """

    def __init__(self, room: int, most_running: int, most_waiting: int) -> None:
        self.room, self.most_running, self.most_waiting = room, most_running, most_waiting
        self.used = self.running = self.waiting = 0
        self.share = most_running - most_running // RESERVE
        self.clients: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._running_of: Counter[str] = Counter()
        self._usual_output, self._usual_seconds = 256.0, 1.0

    def need(self, prompt: int, most_output: int | None, context: int) -> int:
        """Tokens of the cache that an answer is likely to hold."""
        likely = max(MIN_OUTPUT_TOKENS, round(2 * self._usual_output))
        return min(prompt + min(likely, most_output or likely), context)

    async def enter(self, client: str, need: int, seconds: float) -> Ticket:
        """Wait until the request may run. Raises FullError at once, or TimeoutError after `seconds`."""
        place = Ticket(client, need)
        if self._next() is None and self._may_run(client, need):
            self._let(place)
            return place
        self.refuse_when_full(client, need)
        self.clients.setdefault(client, deque()).append(place)
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await place.let
        except BaseException:
            self._forget(place)
            raise
        return place

    def refuse_when_full(self, client: str, need: int) -> None:
        """Raises FullError when this client's answer that needs so much could neither run nor wait."""
        own, free = len(self.clients.get(client, ())), self.most_waiting - self.waiting
        if (free <= 0 or own > free) and (self._next() is not None or not self._may_run(client, need)):
            raise FullError(self.seconds_to_wait())

    def leave(self, place: Ticket, output: int, seconds: float) -> None:
        """The request ended with `output` tokens after `seconds`. Admits the next ones."""
        self._usual_output += MEMORY * (output - self._usual_output)
        self._usual_seconds += MEMORY * (seconds - self._usual_seconds)
        self._free(place)

    def seconds_to_wait(self) -> int:
        """A guess at how long the queue takes to move by as many as run now."""
        turns = 1 + self.waiting / max(1, self.running)
        return max(1, min(60, round(turns * self._usual_seconds)))

    def _next(self) -> str | None:
        """The first client that waits and does not run its share."""
        return next((client for client in self.clients if self._running_of[client] < self.share), None)

    def _may_run(self, client: str, need: int) -> bool:
        return self._running_of[client] < self.share and self._fits(need)

    def _fits(self, need: int) -> bool:
        return self.running < self.most_running and (not self.running or self.used + need <= self.room)

    def _let(self, place: Ticket) -> None:
        place.running = True
        self.used += place.need
        self.running += 1
        self._running_of[place.client] += 1

    def _free(self, place: Ticket) -> None:
        place.running = False
        self.used -= place.need
        self.running -= 1
        self._running_of[place.client] -= 1
        if self._running_of[place.client] <= 0:
            del self._running_of[place.client]
        self._admit()

    def _forget(self, place: Ticket) -> None:
        if place.running:  # let in, and gone before it knew
            self._free(place)
            return
        line = self.clients.get(place.client)
        if line and place in line:
            line.remove(place)
            self.waiting -= 1
            if not line:
                del self.clients[place.client]
        self._admit()

    def _admit(self) -> None:
        """Let in whom there is room for. Who is first and does not fit yet holds up the rest: large ones get their turn.

        A client that runs its share already is passed over.
        """
        while (client := self._next()) is not None:
            line = self.clients[client]
            if not self._fits(line[0].need):
                return
            place = line.popleft()
            self.clients.move_to_end(client)
            if not line:
                del self.clients[client]
            self.waiting -= 1
            self._let(place)
            if not place.let.done():
                place.let.set_result(None)
