"""An engine that says anything: harmony with its parts at random, doubled, cut or missing, as no grammar would let it.

Each piece of text holds a word that stands nowhere else, so that what a client was told can be searched for it.
"""

import random
import re
from collections.abc import Sequence

from ossia.harmony.parse import parse
from tests.support.engine import ScriptedEngine
from tests.support.vocabularies import SPECIAL, small

STOPS = frozenset(small().special[name] for name in ("<|return|>", "<|call|>"))
HEADERS = (
    "<|channel|>analysis<|message|>", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>",
    "<|channel|>commentary to=functions.f <|constrain|>json<|message|>", " to=functions.f<|channel|>commentary json<|message|>",
    "<|channel|>commentary to=functions.rm<|message|>", "<|channel|>analysis to=python code<|message|>", "<|message|>", "<|channel|><|message|>",
    "<|channel|>analysis", "<|channel|>final<|channel|>final<|message|>", "<|channel|>nowhere<|message|>", " to=<|message|>", "<|constrain|>",
    "<|channel|>analysis<|message|><|message|>", "<|channel|>final to=user<|message|>", "<|channel|>commentary to=functions.f to=functions.g<|message|>",
    "", "assistant<|channel|>final<|message|>", "<|channel|>analysis analysis<|message|>",
)  # fmt: skip
ENDS = ("<|end|><|start|>assistant",) * 6 + ("<|end|>", "<|return|>", "<|call|>", "<|start|>", "<|end|><|start|>", "<|start|>assistant<|start|>assistant",
        "<|end|><|end|>", "", "<|end|><|start|>user", "<|end|><|start|>functions.f to=assistant", "<|endoftext|>")  # fmt: skip
BODIES = (
    "{}",
    '{"x": "{}"',
    '{"x": "{}"}',
    "{} \n\n",
    "ünï {} 日本",
    "{}",
    "</think>{}",
    "[{}",
    '"{}\\u00',
    "{}\x00",
    "",
    "{} <|call|>",
)
HALVES = (b"\xe6", b"\xf0\x9f", b"\xff", b"\xed\xa0\x80", b"\xc3")


class HostileEngine(ScriptedEngine):
    """A turn for each prompt, drawn from `seed`. words: those of the latest turn, each of which must reach the client.

    A word that the reference, too, reads as a part of a header (a channel's name, a recipient) is no text.
    """

    seed = 0
    words: list[str]
    latest = ""

    def next_turn(self, prompt: Sequence[int]) -> list[int]:
        tokens = turn(random.Random(self.seed))
        ends = [place for place, token in enumerate(tokens) if token in STOPS]
        tokens = tokens[: ends[0] + 1] if ends else tokens
        self.latest = small().decode(tokens)
        fields = [(m.channel, m.recipient, m.content_type, m.name) for m in parse(small(), tokens)]
        self.words = [word for word in re.findall(r"q\d+z", self.latest) if word not in str(fields)]
        return tokens


def turn(rng: random.Random) -> list[int]:
    tokens: list[int] = []
    for number in range(rng.randrange(1, 6)):
        tokens += small().encode_with_special(rng.choice(HEADERS if rng.random() < 0.5 else HEADERS[:5]))
        for part in range(rng.choice((0, 1, 1, 1, 2, 5))):
            tokens += small().encode(rng.choice(BODIES).replace("{}", f"q{10 * number + part}z"))
            if rng.random() < 0.1:
                tokens += [
                    token
                    for byte in rng.choice(HALVES)
                    for token in [small().encoding.encode_single_token(bytes([byte]))]
                ]
            if rng.random() < 0.05:
                tokens.append(small().special[rng.choice(SPECIAL)])
        tokens += small().encode_with_special(rng.choice(ENDS))
    return tokens or [small().special["<|return|>"]]
