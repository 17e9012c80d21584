"""kill -9 at any moment: the run goes on from a whole state, and its losses are those of a run that was never killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ossia.train.loop.metrics import read_log

# One process loads torch once; every run is a child of it, trained with one thread, killed by its parent.
SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from tests.train.test_training import trainer
torch.set_num_threads(1)
folder, moments = Path(sys.argv[1]), random.Random(int(sys.argv[2]))

def child(folder):
    pid = os.fork()
    if not pid:
        trainer(folder, steps=24, save_every=1).run()
        os._exit(0)
    return pid

started = time.monotonic()
assert os.waitpid(child(folder / "whole"), 0)[1] == 0
whole = time.monotonic() - started
kills = 0
while True:
    # The last child is left alone: a slow machine can kill others before their first step.
    alive = moments.uniform(0.05, 0.6) * whole if kills < 20 else float("inf")
    pid, until = child(folder / "killed"), time.monotonic() + alive
    while time.monotonic() < until and not (done := os.waitpid(pid, os.WNOHANG))[0]:
        time.sleep(0.002)
    if done[0]:
        assert done[1] == 0, done
        break
    os.kill(pid, signal.SIGKILL)
    if (status := os.waitpid(pid, 0)[1]) == 0:  # it ended just before the signal
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    kills += 1
print(kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(tmp_path: Path):
    assert signal.SIGKILL
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), "1"], capture_output=True, text=True, check=False, timeout=200
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout.splitlines()[-1]) >= 1
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "killed")]
    assert [row["step"] for row in logs[1]] == list(range(1, 25))
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]
    assert len(list((tmp_path / "killed").glob("state-*.pt"))) == 2
