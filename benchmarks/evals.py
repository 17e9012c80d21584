"""What `ossia eval` itself takes: an MMLU-sized run over HTTP against a server that answers at once.

The server is a process of its own with canned answers, so that all CPU of this process is the harness's. Its seconds a
sample are compared with the time that a model takes for one. Expected before measuring: 2 ms of CPU a sample, most of it
HTTP and JSON; that is under 1 % of a gpt-oss-20b's time on a CPU, and under 5 % of it on a fast GPU.
"""

import argparse
import asyncio
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ossia.evals.core.benchmark import Benchmark, Outcome, Sample, ask_once
from ossia.evals.core.judging import Judge
from ossia.evals.core.run_log import SAMPLES
from ossia.evals.run import EvalPlan, run_benchmark
from ossia.evals.solvers.endpoint import Endpoint, EndpointSettings
from ossia.task import Grade

MMLU = 14_042  # questions
TOKENS = 400  # of an answer at medium effort, reasoning included
# of gpt-oss-20b: our CPU figure with 16 rows (docs/cpu.md), and one stream of other engines on an H100
RATES = {"16 rows on a CPU, 42 tokens/s": 42, "one stream on an H100, 300 tokens/s": 300, "16 of those at once": 4800}
QUESTION = "Which of these is right, and why? " + "A long case with many facts in it. " * 20
ANSWER = json.dumps(
    {
        "choices": [
            {
                "message": {"role": "assistant", "content": "Answer: C", "reasoning": "I weigh each choice. " * 60},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 200,
            "completion_tokens": TOKENS,
            "completion_tokens_details": {"reasoning_tokens": TOKENS - 5},
        },
    }
)
SERVER = """
import sys, uvicorn
body = sys.argv[2].encode()
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", lifespan="off")
"""


def questions(count: int) -> Iterator[Sample]:
    for number in range(count):
        yield Sample(
            f"q{number}", ({"role": "user", "content": f"{number}. {QUESTION}"},), "C", f"subject {number % 57}"
        )


async def grade(sample: Sample, outcome: Outcome, judge: Judge | None) -> Grade:
    return Grade(float((outcome.text or "").endswith(sample.target)), "last letter")


async def measured(url: str, count: int, folder: Path) -> float:
    """Seconds of a whole run."""
    benchmark = Benchmark("mmlu-sized", "1", "MMLU-sized", lambda _: questions(count), ask_once, grade)
    endpoint = Endpoint(EndpointSettings(url, "scripted"))
    began = time.perf_counter()
    try:
        result = await run_benchmark(benchmark, endpoint, EvalPlan(), folder, folder)
    finally:
        await endpoint.close()
    assert result["efforts"]["high"]["score"] == 100.0, result
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=MMLU)
    count = parser.parse_args().count
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port), ANSWER])
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        with tempfile.TemporaryDirectory() as name:
            before = cpu_seconds()
            seconds = asyncio.run(measured(f"http://127.0.0.1:{port}", count, Path(name)))
            used, size = cpu_seconds() - before, (Path(name) / SAMPLES).stat().st_size
    finally:
        server.terminate()
        server.wait()
    each = used / count
    print(f"{count} samples in {seconds:.1f} s: {count / seconds:.0f} samples/s; log {size / 2**20:.1f} MiB")
    print(f"the harness's CPU: {1000 * each:.2f} ms a sample")
    for name, rate in RATES.items():
        model = TOKENS / rate
        print(
            f"share of the time of {TOKENS} tokens from gpt-oss-20b, {name} ({1000 * model:.0f} ms): {each / model:.1%}"
        )


def cpu_seconds() -> float:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
