"""Digits that are a multiple of a number, as terminals of a Lark grammar.

In: one of the numbers in `SUMS` or `POWERS`. Out: lines that define MULTIPLE_n. Terminals refer to others by name, so
common parts are written and compiled once. One regular expression would be thousands of times as long.
"""

SUMS = (3, 7, 9)  # digits with a point anywhere; llguidance gives up on larger automata
POWERS = (2, 4, 8, 16, 32, 64)  # digits without a point; larger ones fail in llguidance with some bounds


def multiples(of: int) -> list[str]:
    """The definitions for one number. Its own comes last."""
    return _by_endings(of) if of in POWERS else _by_remainders(of)


def _by_remainders(of: int) -> list[str]:
    """The automaton of remainders with its states eliminated one by one. Each path around a state becomes a terminal."""
    names: dict[str, str] = {}

    def named(expression: str) -> str:
        return names.setdefault(expression, f"MULTIPLE_{of}_{len(names)}")

    ways: dict[tuple[int, int], str] = {}
    for state in range(of):
        digits: dict[int, str] = {state: r"\x{2e}"}  # a point changes nothing
        for digit in range(10):
            to = (10 * state + digit) % of
            digits[to] = digits.get(to, "") + str(digit)
        ways |= {(state, to): named(f"/[{each}]/") for to, each in digits.items()}
    for out in range(of - 1, 0, -1):
        for start in range(out):
            for end in range(out):
                if (start, out) in ways and (out, end) in ways:
                    around = f"{ways[start, out]} {ways[out, out]}* {ways[out, end]}"
                    direct = f"{ways[start, end]} | " if (start, end) in ways else ""
                    ways[start, end] = named(direct + around)
    return [*(f"{name}: {expression}" for expression, name in names.items()), f"MULTIPLE_{of}: {ways[0, 0]}+"]


def _by_endings(of: int) -> list[str]:
    """From the last digit to the first: the earlier digits need a remainder of half the number."""
    lines = [f"MULTIPLE_{of}_1_0: /[0-9]*/"]
    modulus = 2
    while modulus <= of:
        half = modulus // 2
        for remainder in range(modulus):
            ways = [] if remainder else ["/(?:)/"]  # no digits count as 0
            for digit in range(10):
                if (remainder - digit) % 2 == 0:
                    before = (remainder - digit) // 2 * pow(5, -1, half) % half if half > 1 else 0
                    ways.append(f"MULTIPLE_{of}_{half}_{before} /{digit}/")
            lines.append(f"MULTIPLE_{of}_{modulus}_{remainder}: {' | '.join(ways)}")
        modulus *= 2
    return [*lines, f"MULTIPLE_{of}: MULTIPLE_{of}_{of}_0"]
