"""Nothing gets out of the sandbox: each form is attacked as root and as an ordinary user.

The attempts are in `attempts.py` and `floods.py`; `driver.py` makes them.
"""

import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.tools.sandbox import attempts
from tests.tools.sandbox.driver import Host
from tests.tools.sandbox.floods import FLOODS, GUARD
from tests.tools.sandbox.places import FORMS, HERE, run_driver

QUICK = ("thread_bomb", "memory_of_one_process", "many_files_fill_the_disk", "temporary_files", "daemon")
each_form = pytest.mark.parametrize(("form", "user"), FORMS)
# What must come of each flood: the limit that ended it, or how the program itself met an error.
ENDS = {
    "fork_bomb": {(-9, "seconds"), (-9, "processes")},
    "thread_bomb": {(7, None)},
    "memory_of_one_process": {(-9, "memory"), (1, None)},
    "memory_of_many_processes": {(-9, "memory")},
    "big_file": {(1, None), (-25, None)},
    "many_files_fill_the_disk": {(-9, "disk")},
    "files_without_a_name": {(-9, "disk")},
    "temporary_files": {(1, None), (-9, "disk")},
    "output_flood": {(-9, "seconds")},
    "endless_loop": {(-9, "seconds")},
    "stopped_processes": {(-9, "seconds")},
    "kill_everything": {(1, None), (-9, None)},
    "daemon": {(0, None)},
    "deep_folders": {(0, None)},
    "locked_folders": {(0, None), (1, None)},
    "descriptors": {(1, None)},
}


def check(found: dict, floods: tuple[str, ...]) -> None:
    assert [name for name, escaped in found["attempts"].items() if escaped] == []
    assert set(found["attempts"]) == set(attempts.ATTEMPTS)
    assert set(found["floods"]) == set(floods)
    for name, result in found["floods"].items():
        assert (result["code"], result["limit"]) in ENDS[name], (name, result)
        assert not result["escaped"], name
        assert not result["left"], name
    assert found["unchanged"] is True
    assert found["running"] == []


def test_there_are_many_attempts():
    assert len(attempts.ATTEMPTS) + len(FLOODS) >= 100
    assert set(ENDS) == set(FLOODS)


@each_form
def test_no_attempt_succeeds(form: str, user: int):
    check(run_driver(form, user, *QUICK), QUICK)


@pytest.mark.slow
@each_form
def test_no_flood_succeeds(form: str, user: int):
    check(run_driver(form, user, *FLOODS), tuple(FLOODS))


def test_what_the_attempts_look_for_is_there():
    """Outside, the secret is readable and the ports answer. Only attempts that read and connect are made here."""
    with ExitStack() as stack:
        host = Host(stack)
        for attempt in (
            attempts.read_a_host_file,
            attempts.list_a_host_folder,
            attempts.connect_by_tcp,
            attempts.connect_by_tcp_6,
            attempts.send_by_udp,
            attempts.connect_to_an_abstract_socket,
            attempts.connect_to_a_socket_with_a_path,
        ):
            assert attempt(host.facts), attempt.__name__
        assert host.unchanged()


def test_the_programs_refuse_to_run_outside_of_a_sandbox():
    for command in ([str(HERE / "attempts.py"), "{}"], ["-c", GUARD + "print('harm')"]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "not a sandbox" in done.stderr
        assert not done.stdout
