"""Dates and clock times: weekdays, months, days between dates, times later and earlier, durations, 12 and 24 hours.

Input: a seeded random source and a split. Output: examples whose thinking counts on, with carries at 60, 24 and the month's end.
"""

import random
from collections.abc import Sequence

from ossia.harmony.messages import Message
from ossia.mini.parts.build import Templates, example, pick, thoughts
from ossia.mini.parts.grades import last_number, one_of, whole_text
from ossia.mini.parts.words import DAYS, MONTHS
from ossia.mini.parts.working import Operator, Sum, compare, working
from ossia.task import Example, Grade, Split, Task

MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
WEEKDAY_LATER: Templates = {
    "train": (
        "Today is {d}. What day is it in {n} days?", "If today is {d}, what day is it {n} days from now?", "What day comes {n} days after {d}?",
        "It is {d}. Which day will it be in {n} days?", "{d} plus {n} days is which day?", "Which weekday is {n} days after {d}?",
        "Now it is {d}. What day of the week is it {n} days later?", "Say the day {n} days after {d}.", "{n} days after {d} is which day?",
        "Which day comes {n} days after {d}?", "What is the day {n} days after {d}?", "{n} days after {d}: which weekday is that?",
    ),
    "held": ("Which day is it {n} days after {d}?", "If it is {d} now, what weekday is it in {n} days?", "Tell me the day {n} days after {d}."),
}  # fmt: skip
WEEKDAY_EARLIER: Templates = {
    "train": (
        "Today is {d}. What day was it {n} days ago?", "What day was {n} days before {d}?", "If today is {d}, which day was it {n} days ago?",
        "Which weekday is {n} days before {d}?", "It is {d}. What day of the week was it {n} days earlier?",
        "Say the day {n} days before {d}.", "{n} days before {d} was which day?", "Which day came {n} days before {d}?", "What is the day {n} days before {d}?",
    ),
    "held": ("Which day was it {n} days before {d}?", "Tell me the day {n} days before {d}.", "It is {d} now. What weekday was it {n} days ago?"),
}  # fmt: skip
MONTH_LATER: Templates = {
    "train": (
        "What month comes {n} months after {m}?", "It is {m}. Which month is it in {n} months?", "{n} months after {m} is which month?",
        "If it is {m} now, what month is it {n} months from now?", "Which month comes {n} months after {m}?", "Say the month {n} months after {m}.", "From {m}, go {n} months on. Which month is it?",
    ),
    "held": ("Tell me the month {n} months after {m}.", "Which month follows {n} months after {m}?"),
}  # fmt: skip
DATE_LATER: Templates = {
    "train": (
        "What date is {n} days after {m} {d}?", "It is {m} {d}. What is the date in {n} days?", "{m} {d} plus {n} days is what date?",
        "If today is {m} {d}, what date is it {n} days from now?", "Which date comes {n} days after {m} {d}?",
        "Say the date {n} days after {m} {d}.", "{n} days after {m} {d}: what date?", "From {m} {d}, go {n} days on. Which date is that?", "Today is {m} {d}. Which date will it be in {n} days?",
    ),
    "held": ("Tell me the date {n} days after {m} {d}.", "Today it is {m} {d}. Which date is it {n} days later?"),
}  # fmt: skip
DAYS_BETWEEN: Templates = {
    "train": (
        "How many days are there from {m} {d} to {o} {e}?", "How many days is it from {m} {d} until {o} {e}?", "Days from {m} {d} to {o} {e}?",
        "It is {m} {d}. In how many days is it {o} {e}?", "How many days lie between {m} {d} and {o} {e}?",
        "Number of days from {m} {d} to {o} {e}?", "Say how many days it takes from {m} {d} to {o} {e}.", "From {m} {d} to {o} {e}: how many days?",
    ),
    "held": ("Count the days from {m} {d} to {o} {e}.", "How many days pass from {m} {d} to {o} {e}?"),
}  # fmt: skip
TIME_LATER: Templates = {
    "train": (
        "It is {t}. What time is it in {n} minutes?", "What time is {n} minutes after {t}?", "A film starts at {t} and lasts {n} minutes. When does it end?",
        "{t} plus {n} minutes is what time?", "The bus leaves at {t} and drives {n} minutes. When does it arrive?",
        "Now it is {t}. What is the time {n} minutes later?", "If it is {t} now, what time will it be in {n} minutes?",
    ),
    "held": ("Tell me the time {n} minutes after {t}.", "A lesson begins at {t} and takes {n} minutes. At what time does it end?"),
}  # fmt: skip
DURATION: Templates = {
    "train": (
        "How many minutes are there from {t} to {u}?", "How many minutes is it from {t} until {u}?", "A film starts at {t} and ends at {u}. How many minutes is it?",
        "Minutes from {t} to {u}?", "It is {t}. In how many minutes is it {u}?", "The train leaves at {t} and arrives at {u}. How many minutes does it take?",
    ),
    "held": ("Count the minutes from {t} to {u}.", "A lesson begins at {t} and ends at {u}. How many minutes does it take?"),
}  # fmt: skip
TO_24: Templates = {
    "train": (
        "What is {t} in 24-hour time?",
        "Write {t} in 24-hour time.",
        "{t} in the 24-hour clock?",
        "Convert {t} to 24-hour time.",
    ),
    "held": ("Please give {t} in 24-hour time.", "How is {t} written on a 24-hour clock?"),
}
TO_12: Templates = {
    "train": (
        "What is {t} in 12-hour time?",
        "Write {t} with am or pm.",
        "{t} in the 12-hour clock?",
        "Convert {t} to 12-hour time.",
    ),
    "held": ("Please give {t} in 12-hour time.", "How is {t} written with am or pm?"),
}


def _weekdays(rng: random.Random, split: Split) -> Example:
    start, days = rng.randrange(7), rng.choice((rng.randint(1, 6), rng.randint(7, 30)))
    later = rng.random() < 0.6
    template, number_of = pick(rng, WEEKDAY_LATER if later else WEEKDAY_EARLIER, split)
    left = days % 7
    walked = [DAYS[(start + (step if later else -step)) % 7] for step in range(1, left + 1)]
    end = walked[-1] if walked else DAYS[start]
    weeks = f"{days}/7={days // 7} rest {left}. " if days > 6 else ""
    counted = ", ".join(f"{number} {day}" for number, day in enumerate(walked, 1)) or f"the same day, {end}"
    medium = f"{weeks}{counted}."
    direction = "forward" if later else "back"
    high = f"Start {DAYS[start]}, {days} days {direction}. {weeks}From {DAYS[start]} {left} {direction}: {counted}. So {end}."
    name = f"weekdays/{'later' if later else 'earlier'}/{number_of}"
    question = template.format(d=DAYS[start], n=days)
    answer = [end, [day for day in DAYS if day != end]]
    return example(rng, split, name, question, answer, thoughts("", medium, high), f"{end}.")


def _dates(rng: random.Random, split: Split) -> Example:
    return rng.choice((_month_later, _date_later, _days_between))(rng, split)


def _month_later(rng: random.Random, split: Split) -> Example:
    start, months = rng.randrange(12), rng.randint(1, 11)
    template, number_of = pick(rng, MONTH_LATER, split)
    walked = [MONTHS[(start + step) % 12] for step in range(1, months + 1)]
    total = start + 1 + months
    within = total - 12 if total > 12 else total
    over = f", {total}-12={within}" if total > 12 else ""
    medium = f"{MONTHS[start]} is {start + 1}, {start + 1}+{months}={total}{over}."
    high = f"From {MONTHS[start]}: {', '.join(f'{number} {month}' for number, month in enumerate(walked, 1))}."
    question = template.format(m=MONTHS[start], n=months)
    return example(rng, split, f"dates/month/{number_of}", question, walked[-1], thoughts("", medium, high), walked[-1])


def _date_later(rng: random.Random, split: Split) -> Example:
    month = rng.choice([number for number in range(12) if number != 1])  # February depends on the year
    length = MONTH_DAYS[month]
    day, days = rng.randint(1, length), rng.randint(1, 25)
    total, following = day + days, MONTHS[(month + 1) % 12]
    within = total <= length
    date = f"{MONTHS[month]} {total}" if within else f"{following} {total - length}"
    template, number_of = pick(rng, DATE_LATER, split)
    medium = f"{day}+{days}={total}; {MONTHS[month]} has {length}" + (
        "." if within else f"; {total}-{length}={total - length}."
    )
    compared = f"{total} and {length}: {compare(total, length)}"
    ending = f"{compared}, inside" if within else f"{compared}, over. {_worked(total, '-', length)} Next is {following}"
    high = f"{MONTHS[month]} has {length} days. {_worked(day, '+', days)} {ending}. So {date}."
    question = template.format(m=MONTHS[month], d=day, n=days)
    return example(rng, split, f"dates/later/{number_of}", question, date, thoughts("", medium, high), date)


def _days_between(rng: random.Random, split: Split) -> Example:
    month = rng.choice([number for number in range(12) if number != 1])
    length = MONTH_DAYS[month]
    template, number_of = pick(rng, DAYS_BETWEEN, split)
    if rng.random() < 0.5:
        first, last = sorted(rng.sample(range(1, length + 1), 2))
        other, days = month, last - first
        medium = f"{last}-{first}={days}."
        named = f"{MONTHS[month]} or {MONTHS[month]}: the same month."
        high = f"{named} {_worked(last, '-', first)} Check {first}+{days}={last}, right."
    else:
        first, last, other = rng.randint(1, length), rng.randint(1, 28), (month + 1) % 12
        days = length - first + last
        medium = f"{length}-{first}={length - first}; {length - first}+{last}={days}."
        high = (
            f"{MONTHS[month]} or {MONTHS[other]}: not the same month. {MONTHS[month]} has {length} days. To its end: {_worked(length, '-', first)} "
            f"Then {last} more: {_worked(length - first, '+', last)}"
        )
    question = template.format(m=MONTHS[month], d=first, o=MONTHS[other], e=last)
    return _numbered(rng, split, f"dates/between/{number_of}", question, days, medium, high, f"{days} days.")


def _worked(a: int, operator: Operator, b: int) -> str:
    """A sum, digit by digit, ending with the result."""
    return working(Sum(a, operator, b), "medium")


def _numbered(rng: random.Random, split: Split, name: str, question: str, answer: int, *said: str) -> Example:
    """An example whose answer is a number instead of a date or a time."""
    medium, high, reply = said
    return example(rng, split, name, question, answer, thoughts("", medium, high), reply)


def _clock(rng: random.Random, split: Split) -> Example:
    return rng.choices((_time_later, _duration, _hours_12_24), (4, 4, 2))[0](rng, split)


def shown(hour: int, minute: int) -> str:
    return f"{hour}:{minute:02d}"


def _time_later(rng: random.Random, split: Split) -> Example:
    hour, minute, more = (
        rng.randint(0, 23),
        rng.choice((rng.randint(0, 59), rng.randrange(0, 60, 5))),
        rng.randint(1, 120),
    )
    template, number_of = pick(rng, TIME_LATER, split)
    hours, minutes = divmod(minute + more, 60)
    end = shown((hour + hours) % 24, minutes)
    total = minute + more
    off = [f"{total - 60 * step}-60={total - 60 * (step + 1)}" for step in range(hours)]
    wrap = f", {hour + hours}-24={hour + hours - 24}" if hour + hours >= 24 else ""
    medium = f"{minute}+{more}={total}{''.join(f', {each}' for each in off)}; {hour}+{hours}={hour + hours}{wrap}."
    steps = "".join(f" {_worked(total - 60 * step, '-', 60)}" for step in range(hours))
    high = (
        f"Minutes: {_worked(minute, '+', more)}{steps} {hours} hours over. "
        f"Hours {hour}+{hours}={hour + hours}{wrap}. So {end}."
    )
    question = template.format(t=shown(hour, minute), n=more)
    return example(rng, split, f"clock/later/{number_of}", question, end, thoughts("", medium, high), end)


def _duration(rng: random.Random, split: Split) -> Example:
    hour, minute = rng.randint(0, 20), rng.choice((rng.randint(0, 59), rng.randrange(0, 60, 5)))
    total = rng.randint(1, 180)
    later = hour * 60 + minute + total
    other, end = divmod(later, 60)
    template, number_of = pick(rng, DURATION, split)
    between = other - hour
    product = f"{between}*60={between * 60}"
    medium = f"{other}-{hour}={between}; {product}; {between * 60}+{end}={between * 60 + end}; {between * 60 + end}-{minute}={total}."
    high = (
        f"Hours {other}-{hour}={between}, {product} minutes. "
        f"{_worked(between * 60, '+', end)} {_worked(between * 60 + end, '-', minute)}"
    )
    question = template.format(t=shown(hour, minute), u=shown(other, end))
    return _numbered(
        rng, split, f"clock/duration/{number_of}", question, total, medium, high, f"{total} minutes: {total}"
    )


def _hours_12_24(rng: random.Random, split: Split) -> Example:
    hour, minute = rng.randrange(24), rng.randint(0, 59)
    half = hour % 12 or 12
    small, large = f"{shown(half, minute)} {'am' if hour < 12 else 'pm'}", shown(hour, minute)
    if rng.random() < 0.5:
        template, number_of = pick(rng, TO_24, split)
        rule = "am" if hour < 12 else "pm"
        change = f"{half}+12={hour}" if hour > 12 else "12 am is 0" if hour == 0 else f"{hour} stays"
        kind, asked, answer = "to 24", small, large
    else:
        template, number_of = pick(rng, TO_12, split)
        rule = f"{hour}<12, am" if hour < 12 else f"{hour} is 12 or more, pm"
        change = f"{hour}-12={half}" if hour > 12 else "0 is 12" if hour == 0 else f"{hour} stays"
        kind, asked, answer = "to 12", large, small
    medium = f"{rule}: {change}."
    high = f"The hour: {rule}, {change}. The minutes stay {minute:02d}. So {answer}."
    return example(
        rng, split, f"clock/{kind}/{number_of}", template.format(t=asked), answer, thoughts("", medium, high), answer
    )


def _by_answer(asked: Example, turn: Sequence[Message]) -> Grade:
    """Compare numbers as numbers, dates and times as the whole text."""
    return (last_number if isinstance(asked.answer, int) else whole_text)(asked, turn)


TASKS = (
    Task("weekdays", _weekdays, one_of),
    Task("dates", _dates, _by_answer, weight=1.5),
    Task("clock", _clock, _by_answer, weight=1.5),
)
