"""The queue before the engine. It admits requests by free cache and alternates between clients.

In: the tokens that a request is likely to need. Out: a `Ticket` when it may run, or an error.
All calls come from the event loop's thread.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

RESERVE = 8  # one client may use at most seven eighths of the running places
MIN_OUTPUT_TOKENS = 64  # least estimate for an answer of unknown length
SMOOTHING = 0.05  # weight of the newest answer in the running means


class FullError(Exception):
    """The queue is full. seconds: after which a retry may succeed."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many requests wait: try again in {seconds} s")
        self.seconds = seconds


@dataclass(eq=False, slots=True)
class Ticket:
    """A request's place in the queue. tokens: of the cache, which it holds once it is admitted."""

    client: str
    tokens: int
    admitted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    running: bool = False


class AdmissionQueue:
    """At most `max_running` requests run and `max_waiting` wait. Clients are served round-robin, each in order.

    No client can fill the queue: it may have as many waiting requests as there are free places, and it may run
    `max_per_client`. So a new client always finds a place.
    cache_tokens: size of the cache. An answer of unknown length counts as twice the mean length. If that is too low, the
    scheduler preempts the youngest request: slower, but the answer is the same.
    """

    def __init__(self, cache_tokens: int, max_running: int, max_waiting: int) -> None:
        self.cache_tokens, self.max_running, self.max_waiting = cache_tokens, max_running, max_waiting
        self.used = self.running = self.waiting = 0
        self.max_per_client = max_running - max_running // RESERVE
        self.clients: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._running_of: Counter[str] = Counter()
        self._mean_output, self._mean_seconds = 256.0, 1.0

    def tokens_needed(self, prompt: int, max_output: int | None, context: int) -> int:
        """Tokens of the cache that an answer is likely to hold."""
        expected = max(MIN_OUTPUT_TOKENS, round(2 * self._mean_output))
        return min(prompt + min(expected, max_output or expected), context)

    async def enter(self, client: str, tokens: int, seconds: float) -> Ticket:
        """Wait until the request may run. Raises FullError at once, or TimeoutError after `seconds`."""
        ticket = Ticket(client, tokens)
        if self._next() is None and self._may_run(client, tokens):
            self._start(ticket)
            return ticket
        self.refuse_when_full(client, tokens)
        self.clients.setdefault(client, deque()).append(ticket)
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await ticket.admitted
        except BaseException:
            self._withdraw(ticket)
            raise
        return ticket

    def refuse_when_full(self, client: str, tokens: int) -> None:
        """Raises FullError if a request of this client with this many tokens could neither run nor wait."""
        own, free = len(self.clients.get(client, ())), self.max_waiting - self.waiting
        if (free <= 0 or own > free) and (self._next() is not None or not self._may_run(client, tokens)):
            raise FullError(self.seconds_to_wait())

    def leave(self, ticket: Ticket, output: int, seconds: float) -> None:
        """The request ended with `output` tokens after `seconds`. Admits the next ones."""
        self._mean_output += SMOOTHING * (output - self._mean_output)
        self._mean_seconds += SMOOTHING * (seconds - self._mean_seconds)
        self._free(ticket)

    def seconds_to_wait(self) -> int:
        """An estimate of the seconds until the running requests have been replaced by waiting ones."""
        turns = 1 + self.waiting / max(1, self.running)
        return max(1, min(60, round(turns * self._mean_seconds)))

    def _next(self) -> str | None:
        """The first waiting client that runs less than its maximum."""
        return next((client for client in self.clients if self._running_of[client] < self.max_per_client), None)

    def _may_run(self, client: str, tokens: int) -> bool:
        return self._running_of[client] < self.max_per_client and self._fits(tokens)

    def _fits(self, tokens: int) -> bool:
        return self.running < self.max_running and (not self.running or self.used + tokens <= self.cache_tokens)

    def _start(self, ticket: Ticket) -> None:
        ticket.running = True
        self.used += ticket.tokens
        self.running += 1
        self._running_of[ticket.client] += 1

    def _free(self, ticket: Ticket) -> None:
        ticket.running = False
        self.used -= ticket.tokens
        self.running -= 1
        self._running_of[ticket.client] -= 1
        if self._running_of[ticket.client] <= 0:
            del self._running_of[ticket.client]
        self._admit()

    def _withdraw(self, ticket: Ticket) -> None:
        if ticket.running:  # admitted, and cancelled before it noticed
            self._free(ticket)
            return
        waiting_tickets = self.clients.get(ticket.client)
        if waiting_tickets and ticket in waiting_tickets:
            waiting_tickets.remove(ticket)
            self.waiting -= 1
            if not waiting_tickets:
                del self.clients[ticket.client]
        self._admit()

    def _admit(self) -> None:
        """Admit waiting requests while they fit. The first one blocks the others until it fits, so large ones are served.

        A client that runs its maximum is skipped.
        """
        while (client := self._next()) is not None:
            waiting_tickets = self.clients[client]
            if not self._fits(waiting_tickets[0].tokens):
                return
            ticket = waiting_tickets.popleft()
            self.clients.move_to_end(client)
            if not waiting_tickets:
                del self.clients[client]
            self.waiting -= 1
            self._start(ticket)
            if not ticket.admitted.done():
                ticket.admitted.set_result(None)
