"""Numbers within bounds, as a regular language of their decimal spellings.

In: a `Numbers`: exact bounds, integers only or not, a multiple. Out: the regular language of every plain decimal
spelling of such a number, including `-0` and `2.50`. An integer has no fraction.

With a bound or a multiple, exponents are not allowed. Bounds are compared digit by digit, so the size grows with their
digits.
"""

from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from math import ceil, floor, gcd, lcm

from ossia.harmony.enforce.language import EMPTY, Chars, Language, Multiples, alt, both, literal, repeat, seq
from ossia.harmony.enforce.multiples import POWERS, SUMS

DIGITS = 400  # the most digits of a bound before or after the point; a float has 309 and 340
RUNS = 100  # the most runs of equal digits in a bound; 1e300 has two
LONG_RUN = 8  # digits before the point from which a run is one intersection
TOGETHER = 48  # the most remainders that llguidance can combine with bounds
ENDINGS = 500  # the most endings that are listed for one step
NEAR = 10**30  # larger bounds are not combined with multiples
FEW = 100  # up to this many multiples are always listed
LISTED = 2_000  # the most multiples that are listed, if no language expresses them

DIGIT, NONZERO = Chars(((48, 57),)), Chars(((49, 57),))
ANY_DIGITS = repeat(DIGIT, 0, None)
ZEROS = repeat(literal("0"), 0, None)
FRACTION = repeat(seq(literal("."), repeat(DIGIT, 1, None)), 0, 1)
NO_FRACTION = repeat(seq(literal("."), repeat(literal("0"), 1, None)), 0, 1)
SIGN = repeat(literal("-"), 0, 1)
WHOLE = alt(literal("0"), seq(NONZERO, ANY_DIGITS))
EXPONENT = repeat(
    seq(Chars(((69, 69), (101, 101))), repeat(Chars(((43, 43), (45, 45))), 0, 1), repeat(DIGIT, 1, None)), 0, 1
)
FREE = seq(SIGN, WHOLE, FRACTION, EXPONENT)


@dataclass(frozen=True)
class Numbers:
    """Numbers between bounds (None: no bound), each inclusive or exclusive. whole: integers only. multiple: of this
    number, above 0.
    """

    low: Fraction | None = None
    low_open: bool = False
    high: Fraction | None = None
    high_open: bool = False
    whole: bool = False
    multiple: Fraction | None = None

    def meet(self, other: "Numbers") -> "Numbers":
        low = max(((each.low, each.low_open) for each in (self, other) if each.low is not None), default=(None, False))
        highs = [(each.high, not each.high_open) for each in (self, other) if each.high is not None]
        high, closed = min(highs, default=(None, True))
        multiples = [each.multiple for each in (self, other) if each.multiple is not None]
        multiple = multiples[0] if multiples else None
        for each in multiples[1:]:
            multiple = common_multiple(each, multiples[0])
        return Numbers(*low, high, not closed, self.whole or other.whole, multiple)

    def settled(self) -> "Numbers | None":
        """The same with bounds moved to numbers that fit, if those are countable; None if no number fits."""
        step = self.multiple
        if self.whole:
            step = Fraction(1) if step is None else common_multiple(step, Fraction(1))
        found = self
        if step is not None:
            low = self.low if self.low is None else _step_from(self.low, step, self.low_open)
            high = self.high if self.high is None else -_step_from(-self.high, step, self.high_open)
            found = Numbers(low, False, high, False, self.whole, None if self.whole and step == 1 else step)
        if found.low is None or found.high is None or found.low < found.high:
            return found
        return found if found.low == found.high and not (found.low_open or found.high_open) else None

    def has(self, value: Fraction) -> bool:
        if self.low is not None and (value < self.low or (self.low_open and value == self.low)):
            return False
        if self.high is not None and (value > self.high or (self.high_open and value == self.high)):
            return False
        if self.whole and value.denominator != 1:
            return False
        return self.multiple is None or (value / self.multiple).denominator == 1


def common_multiple(one: Fraction, other: Fraction) -> Fraction:
    return Fraction(lcm(one.numerator, other.numerator), gcd(one.denominator, other.denominator))


def exact(value: int | float) -> Fraction:
    """The number as JSON writes it: one tenth for 0.1."""
    return Fraction(value) if isinstance(value, int) else Fraction(Decimal(repr(value)))


def check_bound(value: int | float) -> None:
    """Raise ValueError for a bound with too many digits to compare."""
    _Digits(abs(exact(value)))


def _step_from(bound: Fraction, step: Fraction, is_open: bool) -> Fraction:
    count = ceil(bound / step)
    return (count + 1 if is_open and count * step == bound else count) * step


def spellings(numbers: Numbers) -> Language:
    """Every plain decimal spelling of settled numbers. Raises ValueError for bounds with too many digits, or for
    multiples that cannot be expressed.
    """
    step = numbers.multiple
    if numbers.low is None and numbers.high is None and step is None:
        return seq(SIGN, WHOLE) if numbers.whole else FREE
    if step is None:
        return _within(numbers)
    count = None if numbers.low is None or numbers.high is None else int((numbers.high - numbers.low) / step) + 1
    is_near = max(abs(numbers.low or 0), abs(numbers.high or 0)) < NEAR
    if (count is None or count > FEW) and is_near and (parts := _multiples(step)):
        return both(_within(replace(numbers, multiple=None)), *parts)
    if numbers.low is None or count is None or count > LISTED:
        why = f"are too many to list: give bounds with at most {LISTED} of them, or a step such as 0.5, 3 or 60"
        raise ValueError(f"the multiples of {float(step)} {why}")
    found = (numbers.low + number * step for number in range(count))
    return alt(*(value_spellings(value, EMPTY if numbers.whole else FRACTION) for value in found))


def written(value: Fraction) -> str:
    """The shortest plain spelling."""
    digits = _Digits(abs(value))
    whole, rest = digits.text[: digits.point], digits.text[digits.point :]
    return f"{'-' if value < 0 else ''}{whole}{'.' if rest else ''}{rest}"


def value_spellings(value: Fraction, fraction: Language) -> Language:
    """The spellings of one number: `2.5`, `2.50`, `2.500`…"""
    if value == 0:
        return seq(SIGN, literal("0"), _zeros(fraction))
    return seq(literal("-" if value < 0 else ""), _Digits(abs(value)).equal(fraction))


# Bounds


def _within(numbers: Numbers) -> Language:
    low, high, fraction = numbers.low, numbers.high, EMPTY if numbers.whole else FRACTION
    ways: list[Language] = []
    if numbers.has(Fraction(0)):
        ways.append(seq(SIGN, literal("0"), _zeros(fraction)))
    if low is None or low < 0:
        above = (-high, numbers.high_open) if high is not None and high < 0 else (Fraction(0), True)
        below = (None, False) if low is None else (-low, numbers.low_open)
        ways.append(seq(literal("-"), _positive(above, below, fraction)))
    if high is None or high > 0:
        above = (low, numbers.low_open) if low is not None and low > 0 else (Fraction(0), True)
        ways.append(_positive(above, (high, numbers.high_open), fraction))
    return alt(*ways)


def _positive(low: tuple[Fraction, bool], high: tuple[Fraction | None, bool], fraction: Language) -> Language:
    """Spellings of the numbers above 0 in a non-empty interval. fraction: the language that may follow the whole part."""
    start = _Digits(low[0])
    ways = [] if low[1] else [start.equal(fraction)]
    if high[0] is None:
        ways += [*start.above(0, fraction), seq(NONZERO, repeat(DIGIT, start.point, None), fraction)]
        return alt(*ways)
    end = _Digits(high[0])
    if low[0] < high[0]:
        ways += [] if high[1] else [end.equal(fraction)]
        if start.point == end.point:
            ways += _between(start, end, fraction)
        else:
            ways += start.above(0, fraction)
            if end.point - start.point > 1:
                ways.append(seq(NONZERO, repeat(DIGIT, start.point, end.point - 2), fraction))
            ways += end.below(0, fraction)
    return alt(*ways)


def _between(start: "_Digits", end: "_Digits", fraction: Language) -> list[Language]:
    """Spellings strictly between two numbers whose whole parts have the same length."""
    first = next(at for at in range(max(len(start.text), len(end.text))) if start.digit(at) != end.digit(at))
    ways = [*start.above(first + 1, fraction), *end.below(first + 1, fraction)]
    if (middle := _range(start.digit(first) + 1, end.digit(first) - 1)) is not None:
        ways.append(seq(start.head(first), middle, start.tail(first, fraction)))
    return ways


class _Digits:
    """The digits of a number of 0 or more: `text`, with `point` digits before the decimal point."""

    def __init__(self, value: Fraction) -> None:
        # the digits after the point, or none if the decimal expansion does not end
        places = next((n for n in range(DIGITS + 1) if (value * 10**n).denominator == 1), None)
        whole = str(floor(value)) if value < 10**DIGITS else None
        if places is None or whole is None:
            raise ValueError(f"a bound has more than {DIGITS} digits before or after its point")
        self.text = str(int(value * 10**places)).zfill(places + len(whole))
        self.point = len(whole)
        if sum(1 for _ in groupby(self.text)) > RUNS:
            raise ValueError(f"a bound has more than {RUNS} different digits in a row")

    def digit(self, at: int) -> int:
        return int(self.text[at]) if at < len(self.text) else 0

    def head(self, end: int) -> Language:
        """The first `end` digits, with the point before a fraction that follows."""
        digits = self.text[:end].ljust(end, "0")
        whole, rest = digits[: self.point], digits[self.point :]
        return seq(_run(whole), literal("." if end >= self.point else ""), _run(rest))

    def tail(self, at: int, fraction: Language) -> Language:
        """What may follow the digit at this place once nothing is compared any more."""
        return seq(repeat(DIGIT, self.point - at - 1, self.point - at - 1), fraction) if at < self.point else ANY_DIGITS

    def equal(self, fraction: Language) -> Language:
        if len(self.text) == self.point:
            return seq(_run(self.text), _zeros(fraction))
        return seq(self.head(len(self.text)), ZEROS)

    def above(self, first: int, fraction: Language) -> list[Language]:
        """Larger numbers with a whole part of the same length, whose digits differ from place `first` on."""
        last = max(first, len(self.text), self.point)
        ways: list[Language] = []
        for at, count in self._places(first, last):
            if (greater := _range(self.digit(at) + 1, 9)) is not None:
                ways.append(self._differing(at, count, greater, fraction))
        if fraction == FRACTION:
            ways.append(seq(self.head(last), ZEROS, NONZERO, ANY_DIGITS))
        return ways

    def below(self, first: int, fraction: Language) -> list[Language]:
        """Smaller numbers with a whole part of the same length, whose digits differ from place `first` on, or end
        earlier.
        """
        ways: list[Language] = []
        for at, count in self._places(first, len(self.text)):
            least = 1 if at == 0 and self.point > 1 else 0
            if (smaller := _range(least, self.digit(at) - 1)) is not None:
                ways.append(self._differing(at, count, smaller, fraction))
        if len(self.text) > self.point:
            shorter = range(max(first, self.point + 1), len(self.text))
            ways += [self._cut(end) for end in shorter]
            ways += [_run(self.text[: self.point])] if first <= self.point else []
        return ways

    def _cut(self, end: int) -> Language:
        return seq(_run(self.text[: self.point]), literal("."), _run(self.text[self.point : end]))

    def _differing(self, at: int, count: int, digit: Language, fraction: Language) -> Language:
        """Numbers that first differ at this place by such a digit, or up to `count` places later in a run of equal
        digits.
        """
        if not count:
            return seq(self.head(at), digit, self.tail(at, fraction))
        run = repeat(literal(str(self.digit(at))), 0, count)
        if at >= self.point:
            return seq(self.head(at), run, digit, ANY_DIGITS)
        length = seq(repeat(DIGIT, self.point, self.point), fraction)
        return both(seq(self.head(at), run, digit, ANY_DIGITS, fraction), length)

    def _places(self, first: int, last: int) -> list[tuple[int, int]]:
        """Places to differ at, each with the number of further places in a run that is processed together."""
        found: list[tuple[int, int]] = []
        at = first
        while at < last:
            limit = min(last, self.point) if at < self.point else last
            end = at + 1
            while end < limit and self.digit(end) == self.digit(at):
                end += 1
            # before the point a run needs an intersection, and the first digit is special
            alone = at == 0 or (at < self.point and end - at < LONG_RUN)
            end = at + 1 if alone else end
            found.append((at, end - at - 1))
            at = end
        return found


def _zeros(fraction: Language) -> Language:
    """A fraction of zeros, if a fraction is allowed."""
    return NO_FRACTION if fraction == FRACTION else EMPTY


def _range(low: int, high: int) -> Language | None:
    return Chars(((48 + low, 48 + high),)) if low <= high else None


def _run(digits: str) -> Language:
    """These digits, with runs of one digit as repetitions."""
    parts: list[Language] = []
    at = 0
    while at < len(digits):
        end = len(digits) - len(digits[at:].lstrip(digits[at]))
        parts.append(repeat(literal(digits[at]), end - at, end - at))
        at = end
    return seq(*parts)


# Multiples


def _multiples(step: Fraction) -> list[Language] | None:
    """Languages whose intersection is the multiples of a step; None if there are none with few states."""
    twos, fives, rest = _factor(step.numerator)
    parts: list[Language] = []
    left = rest
    for prime in (3, 7):
        power = 1
        while left % prime == 0:
            left, power = left // prime, power * prime
        parts += [seq(SIGN, Multiples(power))] if power in SUMS else []
        left *= 1 if power in (1, *SUMS) else power
    if left != 1 or (rest > 1 and twos * rest > TOGETHER):
        return None
    if step.denominator == 1 and twos in POWERS and twos > 8:
        fifths = _ending(Fraction(fives))
        languages = [seq(SIGN, Multiples(twos), NO_FRACTION), *parts]
        return [fifths, *languages] if fifths is not None else None
    ending = _ending(Fraction(twos * fives, step.denominator))
    return None if ending is None else [ending, *parts]


def _factor(number: int) -> tuple[int, int, int]:
    """The powers of 2 and 5 in it, and the remaining factor."""
    powers = [1, 1]
    for place, prime in enumerate((2, 5)):
        while number % prime == 0:
            number, powers[place] = number // prime, powers[place] * prime
    return powers[0], powers[1], number


def _ending(step: Fraction) -> Language | None:
    """Spellings of all multiples of a step that has only the factors 2 and 5: their last digits decide.

    None if there are too many endings to list.
    """
    places = next(n for n in range(DIGITS) if (step * 10**n).denominator == 1)
    unit = int(step * 10**places)
    digits_needed = next(n for n in range(DIGITS) if 10**n % unit == 0)  # the number of deciding digits
    if 10**digits_needed // unit > ENDINGS:
        return None
    before = max(0, digits_needed - places)  # deciding digits before the point
    ways: list[Language] = []
    for number in range(0, 10**digits_needed, unit):
        digits = str(number).zfill(digits_needed) if digits_needed else ""
        whole, rest = digits[:before], digits[before:]
        free = places - len(rest)  # digits after the point that may be any
        zeros = rest.rstrip("0")
        if zeros:
            fraction = seq(literal("."), repeat(DIGIT, free, free), literal(zeros), ZEROS)
        elif free:
            fraction = repeat(seq(literal("."), repeat(DIGIT, 1, free), ZEROS), 0, 1)
        else:
            fraction = NO_FRACTION
        start = alt(literal(str(int(whole))), seq(NONZERO, ANY_DIGITS, literal(whole))) if whole else WHOLE
        ways.append(seq(SIGN, start, fraction))
    return alt(*ways)
