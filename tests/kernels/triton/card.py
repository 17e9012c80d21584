"""Run by test_whole_on_card.py in a process of its own, without the interpreter: ossia-mini's answers on the card, as JSON."""

import json

import numpy as np

from ossia.engine.engine import Engine
from ossia.engine.request import SamplingParams
from ossia.loading import load

GREEDY = SamplingParams(temperature=0, max_tokens=40)


def main() -> None:
    ours, truth = load("ossia-mini", "triton"), load("ossia-mini", "reference")
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, ours.config.vocab, length).tolist() for length in (1, 5, 40, 200, *range(10, 50))]
    alone = [
        Engine(ours.transformer, prefix_bytes=0, speculate=False).generate([each], GREEDY)[0] for each in prompts[:6]
    ]
    crowd = Engine(ours.transformer, max_batched_tokens=100).generate(prompts, GREEDY)
    tokens = prompts[3]
    logits, true_logits = ours.logits(tokens), truth.logits(tokens)
    off_T = np.abs(logits - true_logits).max(1) / true_logits.std()
    same = [[token.token for token in one] == [token.token for token in other] for one, other in zip(alone, crowd)]
    print(
        json.dumps(
            {
                "same": same,
                "median_off": float(np.median(off_T)),
                "likeliest": float((logits.argmax(1) == true_logits.argmax(1)).mean()),
            }
        )
    )


if __name__ == "__main__":
    main()
