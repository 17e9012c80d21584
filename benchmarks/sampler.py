"""What choosing one token costs with gpt-oss's vocabulary, by kind of sampling.

Rows are peaked as a language model's are: a few likely tokens over a long tail. Run: python benchmarks/sampler.py
"""

import statistics
import time

import numpy as np

from ossia.engine.penalties import Penalties
from ossia.engine.request import SamplingParams
from ossia.engine.sampler import sample

VOCAB = 201_088
MASK = bytes([0b00010001]) * (VOCAB // 8)
KINDS = {
    "greedy": (SamplingParams(temperature=0.0), None),
    "temperature 1": (SamplingParams(), None),
    "temperature 0.7": (SamplingParams(temperature=0.7), None),
    "top-k 50": (SamplingParams(top_k=50), None),
    "top-p 0.95": (SamplingParams(top_p=0.95), None),
    "min-p 0.05": (SamplingParams(min_p=0.05), None),
    "top-k 50, top-p 0.95, min-p 0.05": (SamplingParams(top_k=50, top_p=0.95, min_p=0.05), None),
    "mask": (SamplingParams(), MASK),
    "bias on 10 tokens": (SamplingParams(logit_bias=dict.fromkeys(range(10), 1.0)), None),
    "penalties over 2,000 tokens": (SamplingParams(repetition_penalty=1.2, frequency_penalty=0.5), None),
    "20 log-probabilities": (SamplingParams(logprobs=20), None),
}


def main(rows: int = 200) -> None:
    rng = np.random.default_rng(0)
    logits = [(rng.gumbel(size=VOCAB) * 1.5 + rng.standard_normal(VOCAB)).astype(np.float32) for _ in range(8)]
    print("| kind | median ms a row | 99th percentile |\n|---|---|---|")
    for kind, (params, mask) in KINDS.items():
        spent = []
        penalties = Penalties(params, range(0, VOCAB, VOCAB // 2000)) if params.penalizes else None
        for index in range(rows):
            started = time.perf_counter()
            sampled = sample(logits[index % 8], params, mask, 1, index, penalties)
            if penalties:
                penalties.note(sampled.token)
            spent.append(1e3 * (time.perf_counter() - started))
        print(f"| {kind} | {statistics.median(spent):.2f} | {sorted(spent)[int(0.99 * rows)]:.2f} |")


if __name__ == "__main__":
    main()
