"""Word problems of one and two steps, over many templates and vocabularies.

Input: a seeded random source and a split. Output: examples whose thinking names the sum and computes it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ossia.mini.parts.build import example, pick
from ossia.mini.parts.grades import last_number
from ossia.mini.parts.words import CONTAINERS, NAMES, THINGS, some
from ossia.mini.parts.working import Sum
from ossia.mini.tasks.arithmetic import number, thinking
from ossia.task import Example, Split, Task


@dataclass(frozen=True, slots=True)
class Kind:
    """A form of story. {w} and {v} are people, {t} things, {h} containers, {a}, {b}, {c} numbers, {r} the result."""

    name: str
    draw: Callable[[random.Random], tuple[int, ...]]
    sums: Callable[[Sequence[int]], list[Sum]]
    setup: str
    reply: str
    train: tuple[str, ...]
    held: tuple[str, ...]


def _any_two(rng: random.Random) -> tuple[int, ...]:
    return number(rng, 3, 1), number(rng, 3 if rng.random() < 0.3 else 2, 1)


def _falling(rng: random.Random) -> tuple[int, ...]:
    return tuple(sorted(_any_two(rng), reverse=True))


def _factors(rng: random.Random) -> tuple[int, ...]:
    return rng.randint(2, 60), rng.randint(2, 12)


def _shares(rng: random.Random) -> tuple[int, ...]:
    b = rng.randint(2, 12)
    return b * rng.randint(1, 30), b


def _gain_and_loss(rng: random.Random) -> tuple[int, ...]:
    a, b = number(rng, 2, 1), number(rng, 2, 1)
    return a, b, rng.randint(1, min(a + b, 99))


def _bought(rng: random.Random) -> tuple[int, ...]:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return a, b, a * b + rng.randint(1, 60)


def _groups_and_more(rng: random.Random) -> tuple[int, ...]:
    return rng.randint(2, 20), rng.randint(2, 12), rng.randint(1, 60)


def _groups_and_less(rng: random.Random) -> tuple[int, ...]:
    a, b = rng.randint(2, 20), rng.randint(2, 12)
    return a, b, rng.randint(1, a * b)


def _shared_after(rng: random.Random) -> tuple[int, ...]:
    c = rng.randint(2, 9)
    whole = c * rng.randint(2, 20)
    a = rng.randint(1, whole - 1)
    return a, whole - a, c


def _sum(operator: str) -> Callable[[Sequence[int]], list[Sum]]:
    return lambda n: [Sum(n[0], operator, n[1])]  # type: ignore[arg-type]


ONE_STEP = (
    Kind("gain", _any_two, _sum("+"), "More: add.", "{w} has {r} {t}.", (
        "{w} has {a} {t} and buys {b} more. How many {t} does {w} have now?",
        "{w} has {a} {t} and finds {b} more. How many {t} in all?",
        "{w} had {a} {t}. Then {v} gave {w} {b} more. How many {t} does {w} have now?",
        "There are {a} {t} in a box. {w} puts in {b} more. How many {t} are there now?",
        "{w} picks up {b} {t}. Before that {w} had {a}. How many {t} are there in all?",
        "{w} wins {b} {t} and had {a} already. How many does {w} have now?",
        "{w} starts with {a} {t} and gets {b} more from {v}. How many {t} now?",
        "{w} collects {a} {t} on Monday and {b} more on Tuesday. How many {t} in all?",
        "After {v} gave away {b} {t} to {w}, who had {a}, how many {t} are with {w}?",
        "{b} {t} come to the {a} {t} that {w} has. How many is that?",
        "On a shelf stand {a} {t}. {v} brings {b} more. How many {t} are on the shelf?",
        "{w} kept {a} {t} and was given {b}. What number of {t} does {w} have?",
        "To {a} {t}, {w} adds {b}. How many {t} are there?",
        "{w} already has {a} {t} and takes {b} more. How many {t} is that?",
        "{v} hands {w} {b} more {t}. {w} had {a}. How many {t} does {w} hold?",
        "In the basket are {a} {t}. {w} lays {b} more into it. How many {t} are in the basket?",
    ), (
        "{w} owns {a} {t} and gets {b} more. How many {t} does {w} own now?",
        "On the table are {a} {t}. {w} adds {b} more. How many {t} are on the table now?",
        "{v} gives {w} {b} more {t}. {w} had {a} before. How many {t} does {w} have in all?",
    )),
    Kind("loss", _falling, _sum("-"), "Less: subtract.", "{w} has {r} {t} left.", (
        "{w} has {a} {t} and gives away {b}. How many {t} are left?",
        "{w} has {a} {t} and loses {b}. How many {t} does {w} have left?",
        "{w} had {a} {t} and sold {b} of them. How many {t} remain?",
        "There are {a} {t} in a box. {w} takes out {b}. How many {t} are left in the box?",
        "{w} bakes {a} {t}, and {v} eats {b}. How many {t} are left?",
        "Of {a} {t}, {b} are broken. How many {t} are not broken?",
        "{w} has {a} {t}. {w} uses {b}. How many {t} remain?",
        "{w} drops {b} of {a} {t}. How many {t} does {w} have left?",
        "{v} takes {b} of the {a} {t} from {w}. How many {t} does {w} keep?",
        "A shop has {a} {t} and sells {b}. How many {t} are still there?",
        "{w} took {a} {t} along, but {b} fell out. How many {t} arrived?",
        "Out of {a} {t}, {w} eats {b}. What number of {t} is left?",
        "{w} owns {a} {t} and throws {b} away. How many {t} does {w} still own?",
        "From {a} {t}, {b} are sold. How many {t} are left?",
        "{w} has {a} {t} but breaks {b}. How many whole {t} are there?",
        "{w} gives {b} of {a} {t} to {v}. How many {t} stay with {w}?",
    ), (
        "{w} owns {a} {t} and gives {b} of them to {v}. How many {t} does {w} have left?",
        "From {a} {t}, {w} takes away {b}. How many {t} remain?",
        "{w} had {a} {t} but lost {b} on the way. How many are left?",
    )),
    Kind("together", _any_two, _sum("+"), "Both together: add.", "Together they have {r} {t}.", (
        "{w} has {a} {t} and {v} has {b} {t}. How many {t} do they have together?",
        "{w} has {a} {t} and {v} has {b}. How many {t} do they have in total?",
        "{w} and {v} count {t}: {a} and {b}. How many is that together?",
        "In one box are {a} {t}, in another {b}. How many {t} are in both together?",
        "{w} made {a} {t}. {v} made {b}. How many {t} did they make altogether?",
        "The {a} {t} of {w} and the {b} {t} of {v}: how many altogether?",
        "{w} carries {a} {t}, {v} carries {b}. What do they carry in total?",
        "Here lie {a} {t}, over there {b} {t}. What is the sum?",
        "{w} takes {a} {t} along and {v} takes {b}. How many {t} do they have together?",
        "There are {a} {t} in the kitchen and {b} in the garden. How many {t} in total?",
        "{w} saw {a} {t}, {v} saw {b}. How many {t} did both see?",
    ), (
        "{w} brings {a} {t} and {v} brings {b} {t}. How many {t} are there together?",
        "There are {a} {t} at home and {b} {t} at school. How many {t} in total?",
    )),
    Kind("more", _falling, _sum("-"), "The difference: subtract.", "It is {r} more.", (
        "{w} has {a} {t} and {v} has {b}. How many more {t} does {w} have than {v}?",
        "{v} has {b} {t} and {w} has {a}. How many more does {w} have?",
        "{w} read {a} pages and {v} read {b}. How many more pages did {w} read?",
        "A box has {a} {t}, a bag has {b}. How many more {t} are in the box?",
        "{w} found {a} {t}, {v} found {b}. What is the difference?",
        "{w} wrote {a} letters, {v} only {b}. By how many is {w} ahead?",
        "{a} {t} are with {w} and {b} with {v}. How many more are with {w}?",
        "{v} made {b} {t}, but {w} made {a}. How many more did {w} make?",
        "{w} bought {a} {t} and {v} bought {b}. How many more {t} did {w} buy than {v}?",
        "In this room are {a} {t}, in that one {b}. How many more are in this room?",
        "{w} counts {a} {t} and {v} counts {b}. How many more does {w} count?",
    ), (
        "{w} sold {a} {t} and {v} sold {b}. How many more {t} did {w} sell than {v}?",
        "There are {a} {t} here and {b} there. How many more {t} are here?",
    )),
    Kind("needed", _falling, _sum("-"), "What is missing: subtract.", "{r} more are needed.", (
        "{w} wants {a} {t} and has {b}. How many more does {w} need?",
        "{w} needs {a} {t} but has only {b}. How many {t} are missing?",
        "A ticket costs {a} dollars. {w} has {b} dollars. How much more does {w} need?",
        "{w} must pack {a} {t} and has packed {b}. How many are still missing?",
        "For the show {w} needs {a} {t}. There are {b}. How many more must {w} find?",
        "{w} would like to have {a} {t}, and {b} are there. How many must be bought?",
        "A book has {a} pages and {w} is on page {b}. How many pages are missing?",
        "{w} needs {a} {t} and has {b} so far. How many are missing?",
        "The plan says {a} {t}. {w} has {b}. How many more are needed?",
        "There must be {a} {t}, and {w} has made {b}. How many are still to be made?",
    ), (
        "{w} needs {a} {t} for a party and has {b} so far. How many more does {w} need?",
        "The goal is {a} {t}. {w} has {b}. How many {t} are missing?",
    )),
    Kind("groups", _factors, _sum("*"), "Each the same: multiply.", "There are {r} {t}.", (
        "There are {a} {h} with {b} {t} each. How many {t} are there?",
        "How many {t} are in {a} {h} of {b} {t} each?",
        "{w} fills {a} {h} with {b} {t} each. How many {t} is that?",
        "Each of {a} children gets {b} {t}. How many {t} are given out?",
        "{w} works {b} hours a day for {a} days. How many hours is that?",
        "{a} {h}, {b} {t} in each. How many {t} in all?",
        "{w} owns {a} {h}, and each holds {b} {t}. What number of {t} is that?",
        "With {b} {t} in each of the {a} {h}, how many {t} are there?",
        "{w} reads {b} pages a day. How many pages is that in {a} days?",
        "{w} has {a} {h}, and in each {b} {t}. How many {t} does {w} have?",
        "In each of {a} {h} are {b} {t}. How many {t} are there?",
        "If each of the {a} {h} holds {b} {t}, how many {t} are there?",
        "{a} {h} with {b} {t} apiece: how many {t}?",
    ), (
        "{w} has {a} {h}. In each there are {b} {t}. How many {t} does {w} have?",
        "If {a} {h} hold {b} {t} each, how many {t} are there in all?",
    )),
    Kind("sharing", _shares, _sum("/"), "Equal parts: divide.", "Each gets {r} {t}.", (
        "{w} shares {a} {t} equally among {b} friends. How many {t} does each friend get?",
        "{w} puts {a} {t} into {b} {h}, the same number in each. How many {t} are in each?",
        "{a} {t} are divided equally among {b} people. How many {t} does each get?",
        "{b} friends share {a} dollars equally. How many dollars does each get?",
        "{w} cuts a rope of {a} meters into {b} equal parts. How long is each part?",
        "{w} has {a} {t} for {b} {h}. How many {t} go into each, if all get as many?",
        "Among {b} children {w} shares {a} {t} fairly. How many {t} has each child?",
        "{a} {t} are packed into {b} equal {h}. How many are in each of the {h}?",
        "{w} divides {a} {t} equally among {b} people. How many {t} does each get?",
        "{a} {t} go into {b} {h}, in each as many. How many are in each?",
        "{w} splits {a} {t} between {b} children, to each the same. How many does each child get?",
    ), (
        "{w} divides {a} {t} equally between {b} children. How many {t} does each child get?",
        "{a} {t} fit into {b} {h}, each with the same number. How many {t} are in each?",
    )),
    Kind("cost", _factors, _sum("*"), "Price times number: multiply.", "It costs {r} dollars.", (
        "{w} buys {a} {t} for {b} dollars each. How much does {w} pay?",
        "One ticket costs {b} dollars. How much do {a} tickets cost?",
        "{w} sells {a} {t} at {b} dollars each. How many dollars does {w} get?",
        "Each of the {t} costs {b} dollars, and {w} takes {a}. What is the total?",
        "{a} {t} at {b} dollars each cost how much?",
        "{w} wants {a} {t}. Each costs {b} dollars. How many dollars does {w} need?",
        "A shop sells {t} for {b} dollars each. What do {a} of them cost?",
        "{w} takes {a} {t} and pays {b} dollars for each. How many dollars is that?",
        "At a price of {b} dollars each, {w} buys {a} {t}. How much is that?",
        "The {t} cost {b} dollars each. {w} gets {a}. How much must {w} pay?",
        "How much do {a} {t} cost at {b} dollars each?",
        "What does {w} pay for {a} {t}, {b} dollars each?",
    ), (
        "The price is {b} dollars each. {w} buys {a} {t}. How much does it cost?",
        "How much does {w} pay for {a} {t} at {b} dollars each?",
    )),
)  # fmt: skip
TWO_STEPS = (
    Kind("gain and loss", _gain_and_loss, lambda n: [Sum(n[0], "+", n[1]), Sum(n[0] + n[1], "-", n[2])], "First more, then less.", "{w} has {r} {t}.", (
        "{w} has {a} {t}, buys {b} more and then gives away {c}. How many {t} does {w} have now?",
        "{w} had {a} {t}. {v} gave {w} {b} more, and then {w} lost {c}. How many {t} are left?",
        "{w} finds {a} {t} and then {b} more, but {c} are broken. How many are not broken?",
        "On a bus are {a} people. {b} get on and {c} get off. How many people are on the bus?",
        "{w} starts with {a} {t}, wins {b} and loses {c}. How many {t} now?",
        "{v} adds {b} {t} to the {a} of {w}, and then {c} break. How many {t} does {w} have?",
        "A shop has {a} {t}, gets {b} more and sells {c}. How many {t} are in the shop now?",
        "In a box were {a} {t}. {w} put in {b} and later took out {c}. How many are in the box?",
        "{w} had {a} {t}, was given {b} more by {v} and ate {c}. What number of {t} remains?",
        "{a} {t} grow on a tree, then {b} more; {w} picks {c}. How many are still on the tree?",
        "{w} has {a} {t} and finds {b} more. Then {w} loses {c}. How many {t} does {w} have now?",
        "{w} owns {a} {t}, is given {b} and gives {c} away. How many {t} are left?",
        "To {a} {t} come {b}, and {c} are taken away. How many {t} remain?",
        "{w} bought {a} {t}, then {b} more. Then {c} were eaten by {v}. How many are left?",
        "{w} got {b} {t} more on top of {a}, then sold {c} to {v}. How many {t} does {w} have?",
        "There were {a} {t}. {b} were added, {c} were removed. How many {t} are there?",
    ), (
        "{w} has {a} {t} and gets {b} more. Then {w} sells {c}. How many {t} does {w} have left?",
        "{w} owns {a} {t}, finds {b} more and then gives {c} to {v}. How many are left?",
    )),
    Kind("change", _bought, lambda n: [Sum(n[0], "*", n[1]), Sum(n[2], "-", n[0] * n[1])], "First the price, then what is left.", "{w} has {r} dollars left.", (
        "{w} has {c} dollars and buys {a} {t} for {b} dollars each. How many dollars are left?",
        "{w} buys {a} {t} at {b} dollars each and pays with {c} dollars. How much change does {w} get?",
        "{w} had {c} dollars, then bought {a} {t}, {b} dollars each. How much is left?",
        "With {c} dollars {w} pays for {a} {t} of {b} dollars each. What change does {w} get?",
        "{w} owns {c} dollars. After paying for {a} {t} of {b} dollars each, how many dollars remain?",
        "At {b} dollars each {w} buys {a} {t} and gives the seller {c} dollars. How many dollars come back?",
        "{v} gave {w} {c} dollars. {w} spends them on {a} {t} that cost {b} dollars each. How much money is left?",
        "Each of the {t} costs {b} dollars. {w} has {c} dollars and takes {a}. What is left of the money?",
        "{w} goes out with {c} dollars and buys {a} {t}, {b} dollars each. How many dollars are left?",
        "{a} {t} are bought at {b} dollars each. {w} hands over {c} dollars. How much does {w} get back?",
        "{t} cost {b} dollars each. {w} buys {a} and pays with {c} dollars. What is the change?",
        "Of {c} dollars {w} spends {b} on each of {a} {t}. How many dollars remain?",
        "{w} brings {c} dollars and takes home {a} {t} at {b} dollars each. How much money is left?",
    ), (
        "{w} takes {c} dollars to the shop and buys {a} {t} at {b} dollars each. How many dollars are left?",
        "{a} {t} cost {b} dollars each. {w} pays with {c} dollars. How much change is that?",
    )),
    Kind("groups and more", _groups_and_more, lambda n: [Sum(n[0], "*", n[1]), Sum(n[0] * n[1], "+", n[2])], "First the groups, then more.", "There are {r} {t}.", (
        "There are {a} {h} with {b} {t} each, and {c} more {t} beside them. How many {t} are there?",
        "{w} fills {a} {h} with {b} {t} each and has {c} {t} over. How many {t} in all?",
        "{w} has {a} {h} of {b} {t} and finds {c} more. How many {t} now?",
        "{w} earns {b} dollars an hour for {a} hours and gets {c} dollars more. How many dollars in all?",
        "{w} has {c} {t} and also {a} {h}, each with {b} {t}. What number of {t} does {w} have?",
        "{a} {h} hold {b} {t} each. {v} brings {c} {t} more. How many {t} are there now?",
        "With {b} {t} in each of {a} {h} and {c} {t} on the floor, how many {t} are there?",
        "{w} packed {b} {t} into each of {a} {h}; {c} {t} did not fit. How many {t} were there?",
        "{a} {h} have {b} {t} in each. {w} puts in {c} more {t}. How many {t} are there in all?",
        "{w} has {a} {h} with {b} {t} each and buys {c} {t} more. How many {t} is that?",
        "Each of {a} {h} holds {b} {t}. {v} adds {c} more. How many {t} are there?",
        "{w} gets {a} {h} with {b} {t} in each and {c} {t} from {v}. How many {t} in all?",
        "There are {b} {t} in each of {a} {h}. Then {c} more {t} are added. How many {t} are there now?",
        "Inside {a} {h} lie {b} {t} each, outside {c} more. How many {t} together?",
        "In {a} {h} {w} keeps {b} {t} each, and gets {c} {t} more. How many {t} does {w} have?",
    ), (
        "In each of {a} {h} are {b} {t}. {w} adds {c} more {t}. How many {t} are there in all?",
        "{w} buys {a} {h} with {b} {t} each, and {v} gives {c} more. How many {t} is that?",
    )),
    Kind("groups and less", _groups_and_less, lambda n: [Sum(n[0], "*", n[1]), Sum(n[0] * n[1], "-", n[2])], "First the groups, then less.", "{r} {t} are left.", (
        "There are {a} {h} with {b} {t} each. {w} takes away {c} {t}. How many are left?",
        "{w} has {a} {h} of {b} {t} and gives away {c} {t}. How many {t} are left?",
        "{w} packs {a} {h} of {b} {t}, but {c} {t} are broken. How many are not broken?",
        "{a} {h} hold {b} {t} each. {v} eats {c} of the {t}. How many {t} are still there?",
        "{w} buys {a} {h}, {b} {t} in each, and loses {c} {t} on the way. How many {t} arrive?",
        "A shop has {a} {h} with {b} {t} each and sells {c} {t}. What number of {t} is left?",
        "Each of {a} {h} has {b} {t}. Then {w} uses {c} {t}. How many {t} does {w} still have?",
        "{w} has {a} {h} with {b} {t} in each and loses {c} {t}. How many {t} remain?",
        "In each of {a} {h} are {b} {t}. {v} takes {c} {t} out. How many {t} are left?",
        "From {a} {h} with {b} {t} each, {w} sells {c} {t}. How many {t} are left?",
        "There were {a} {h} of {b} {t} each, but {c} {t} got lost. How many {t} remain?",
        "{w} fills {a} {h} with {b} {t} each and takes {c} {t} back. How many {t} are in them?",
        "{b} {t} are in each of {a} {h}; {c} of the {t} are eaten. How many {t} are left?",
    ), (
        "{w} has {a} {h} with {b} {t} in each and sells {c} {t}. How many {t} remain?",
        "Of {a} {h} with {b} {t} each, {c} {t} are lost. How many {t} are left?",
    )),
    Kind("shared after", _shared_after, lambda n: [Sum(n[0], "+", n[1]), Sum(n[0] + n[1], "/", n[2])], "First together, then equal parts.", "Each gets {r} {t}.", (
        "{w} has {a} {t} and {v} has {b}. They share them all equally among {c} friends. How many {t} does each friend get?",
        "{w} puts {a} {t} and {b} {t} together and divides them into {c} equal parts. How many are in each?",
        "{a} and {b} {t} are divided equally among {c} people. How many does each get?",
        "{v} adds {b} {t} to the {a} of {w}. All are put into {c} {h}, as many in each. How many are in each?",
        "From {a} red and {b} blue {t} {w} makes {c} equal heaps. How many {t} are in a heap?",
        "{w} found {a} {t} and later {b} more, and gives them to {c} children, each the same. What does each child get?",
        "{c} people share the {a} {t} of {w} and the {b} {t} of {v}. How many {t} has each?",
        "{w} has {a} {t} and {v} has {b}. {c} friends share them equally. How many {t} does each friend get?",
        "{w} buys {a} {t}, {v} buys {b}. They go into {c} {h} equally. How many are in each?",
        "{w} takes {a} {t}, gets {b} more and divides them all into {c} equal parts. How many are in a part?",
        "{w} cooks {a} {t} and {v} cooks {b}. {c} people eat them, each the same number. How many does each eat?",
        "First come {a} {t}, then {b}. {c} children get all of them, to each as many. How many does each child get?",
    ), (
        "{w} brings {a} {t}, {v} brings {b}. {c} children share them equally. How many {t} does each child get?",
        "{w} has {a} {t}, gets {b} more and shares them all equally among {c} friends. How many does each get?",
    )),
)  # fmt: skip


def _story(family: str, kinds: Sequence[Kind]) -> Task:
    def make(rng: random.Random, split: Split) -> Example:
        kind = rng.choice(kinds)
        numbers = kind.draw(rng)
        sums = kind.sums(numbers)
        template, number_of = pick(rng, {"train": kind.train, "held": kind.held}, split)
        one = some(rng, NAMES, split, made=0.15)
        other = next(name for name in iter(lambda: some(rng, NAMES, split, made=0.15), "") if name != one)
        words = {
            "w": one, "v": other, "t": some(rng, THINGS, split, made=0.15), "h": some(rng, CONTAINERS, split, made=0.15),
            "r": str(sums[-1].answer), **dict(zip("abc", map(str, numbers))),
        }  # fmt: skip
        name = f"{family}/{kind.name}/{number_of}"
        reply = kind.reply.format(**words)
        return example(rng, split, name, template.format(**words), sums[-1].answer, thinking(sums, kind.setup), reply)

    return Task(family, make, last_number, weight=2.0)


TASKS = (_story("story", ONE_STEP), _story("long story", TWO_STEPS))
