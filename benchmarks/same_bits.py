"""Do two checkouts compute the same bits? Answers of 100 prompts, and losses of 20 steps of each kind of training.

It runs each checkout's own `python -m ossia` (serve and train), so renamed modules and recipe keys do not matter.
Answers are compared token by token with their log-probabilities: greedy and seeded, one at a time and batched.
Run: python benchmarks/same_bits.py OLD_CHECKOUT NEW_CHECKOUT [--prompts 100] [--steps 20]
Output: a line for each comparison, and exit status 1 if any differs.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SUBJECTS = ("What is {a} + {b}?", "Spell the word {w}.", "Sort these numbers: {a}, {b}, {c}.", "What is {a} * {c}?")
WORDS = ("harbour", "lantern", "violet", "meadow", "copper")

TASKS = """
try:
    from ossia.mini.tasks.arithmetic import TASKS
except ModuleNotFoundError:  # before the task families had this place
    from ossia.tasks.arithmetic import TASKS


def prose(rng):
    return "the sum of " + " and ".join(str(rng.randint(0, 9)) for _ in range(30))
"""
PREAMBLE = """
seed = 3
[keep]
log_every = 1
plot = false
"""
TINY = """
[model]
layers = 2
hidden = 64
intermediate = 64
heads = 4
kv_heads = 2
head_dim = 16
experts = 4
experts_per_token = 2
window = 32
max_context = 1024
initial_context = 64
rope_factor = 8.0
[vocabulary]
size = 512
texts = 400
[[vocabulary.data]]
tasks = "same_bits_tasks:TASKS"
[pretrain]
steps = {steps}
step_tokens = 1200
accumulate = 2
[[pretrain.data]]
generator = "same_bits_tasks:prose"
[sft]
steps = {steps}
step_tokens = 1200
rounding = "stored"
[[sft.data]]
tasks = "same_bits_tasks:TASKS"
[sft.optimizer]
kind = "muon"
"""
RL = """
start = "ossia-mini"
[rl]
tasks = ["same_bits_tasks:TASKS"]
steps = {steps}
prompts = 8
group = 4
most_tokens = 60
step_tokens = 2000
efforts = ["low", "medium"]
"""
LORA = """
start = "ossia-mini"
[lora]
steps = {steps}
batch_tokens = 1024
precision = "{precision}"
targets = ["self_attn.*", "mlp.router", "mlp.experts.*"]
[[lora.data]]
tasks = "same_bits_tasks:TASKS"
"""


def prompts(count: int) -> list[str]:
    numbers = [(7 * i % 97, 13 * i % 89, 5 * i % 31) for i in range(count)]
    return [
        SUBJECTS[i % len(SUBJECTS)].format(a=a, b=b, c=c, w=WORDS[i % len(WORDS)])
        for i, (a, b, c) in enumerate(numbers)
    ]


def environment(checkout: Path, *more: Path) -> dict[str, str]:
    paths = [checkout / "src", *more]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}


@contextmanager
def server(checkout: Path) -> Iterator[str]:
    """The address of a running `ossia serve` of this checkout, with ossia-mini."""
    command = [sys.executable, "-m", "ossia", "serve", "--port", "0", "--quiet", "--no-state"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment(checkout), stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            found = re.search(r"http://[\d.:]+", process.stdout.readline())
            if not found:
                log.seek(0)
                raise SystemExit(f"the server of {checkout} did not start:\n{log.read()}")
            yield found[0]
        finally:
            process.terminate()
            process.wait(60)


def answer(address: str, prompt: str, temperature: float, seed: int) -> Any:
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "temperature": temperature,
        "seed": seed,
        "max_tokens": 200,
        "logprobs": True,
    }
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        choice = json.load(reply)["choices"][0]
    message = choice["message"]
    return [message.get("reasoning"), message.get("content"), choice["finish_reason"], choice["logprobs"]]


def answers(checkout: Path, count: int) -> dict[str, list[Any]]:
    """By kind of sampling: each prompt's reasoning, text, and tokens with log-probabilities."""
    made: dict[str, list[Any]] = {}
    with server(checkout) as address:
        for name, temperature in (("greedy", 0.0), ("seeded", 1.0)):

            def one(job: tuple[int, str], temperature: float = temperature) -> Any:
                return answer(address, job[1], temperature, job[0])

            jobs = list(enumerate(prompts(count)))
            made[f"{name}, alone"] = [one(job) for job in jobs]
            with ThreadPoolExecutor(16) as pool:
                made[f"{name}, batched"] = list(pool.map(one, jobs))
    return made


def losses(checkout: Path, steps: int) -> dict[str, list[Any]]:
    """By kind of training: every step's loss."""
    recipes = {
        "pretrain and sft": TINY.format(steps=steps),
        "rl": RL.format(steps=steps),
        "lora f32": LORA.format(steps=steps, precision="f32"),
        "lora bf16": LORA.format(steps=steps, precision="bf16"),
    }
    made: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "same_bits_tasks.py").write_text(TASKS)
        for name, recipe in recipes.items():
            path, out = folder / "recipe.toml", folder / name.replace(" ", "-")
            head, _, keep = PREAMBLE.partition("[keep]")
            start, _, rest = recipe.partition("[") if recipe.lstrip().startswith("start") else ("", "", recipe[1:])
            path.write_text(f"{head}{start}[keep]{keep}\n[{rest.removeprefix('[')}")
            command = [sys.executable, "-m", "ossia", "train", str(path), "--out", str(out)]
            done = subprocess.run(command, env=environment(checkout, folder), capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{checkout}: training of {name} failed:\n{done.stderr[-3000:]}")
            for log in sorted(out.glob("*/log.jsonl")):
                rows = [json.loads(line) for line in log.read_text().splitlines()]
                made[f"{name}: losses of {log.parent.name}"] = [row["loss"] for row in rows if "loss" in row]
    return made


def compare(old: dict[str, list[Any]], new: dict[str, list[Any]], say: Callable[[str], None] = print) -> bool:
    """Print a line for each kind; whether all are equal."""
    good = old.keys() == new.keys()
    for name, before in old.items():
        after = new.get(name, [])
        unequal = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
        same = bool(before) and len(before) == len(after) and not unequal
        good &= same
        detail = "equal" if same else f"DIFFERENT at {unequal[:5]}, {len(before)} and {len(after)} values"
        say(f"{name}: {len(before)} values, {detail}")
    for name in ("greedy", "seeded"):
        if f"{name}, alone" in new:
            alike = new[f"{name}, alone"] == new[f"{name}, batched"]
            say(f"{name}: alone and batched are {'equal' if alike else 'DIFFERENT'}")
            good &= alike
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    made = [
        answers(checkout.resolve(), given.prompts) | losses(checkout.resolve(), given.steps)
        for checkout in (given.old, given.new)
    ]
    sys.exit(0 if compare(*made) else 1)


if __name__ == "__main__":
    main()
