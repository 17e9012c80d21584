"""Attempts to exhaust the machine or to outlive the sandbox, each a program of its own, and what must come of it.

`FLOODS` names the programs: Python code that runs in the sandbox with the small limits of `driver.py`.
"""

GUARD = """
import ctypes as _c, os as _o, resource as _r
_limits = [_r.getrlimit(kind)[0] for kind in (_r.RLIMIT_NPROC, _r.RLIMIT_AS, _r.RLIMIT_FSIZE)]
if 0 in _o.getresuid() or _r.RLIM_INFINITY in _limits or _c.CDLL(None).prctl(21, 0, 0, 0, 0) != 2:
    raise SystemExit('this is not a sandbox: the program would do harm here')
"""  # runs first: each program checks that it is confined

FLOODS = {
    "fork_bomb": """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.05)
""",
    "thread_bomb": """
import threading, time
while True:
    try:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    except RuntimeError:
        raise SystemExit(7)
""",
    "memory_of_one_process": """
pages = []
while True:
    pages.append(bytearray(b'x') * (8 << 20))
""",
    "memory_of_many_processes": """
import os, time
for _ in range(10):
    if os.fork() == 0:
        pages = bytearray(b'x') * (40 << 20)
        time.sleep(60)
time.sleep(60)
""",
    "big_file": """
with open('big', 'wb') as file:
    while True:
        file.write(b'x' * (1 << 20))
""",
    "many_files_fill_the_disk": """
import time
for number in range(100):
    with open(f'file{number}', 'wb') as file:
        file.write(b'x' * (2 << 20))
time.sleep(60)
""",
    "files_without_a_name": """
import os, time
files = []
for number in range(100):
    files.append(open('file', 'wb'))
    os.unlink('file')
    files[-1].write(b'x' * (2 << 20))
    files[-1].flush()
    time.sleep(0.01)
print('ESCAPED')
""",
    "temporary_files": """
import tempfile
for number in range(100):
    with open(f'{tempfile.gettempdir()}/file{number}', 'wb') as file:
        file.write(b'x' * (2 << 20))
print('ESCAPED')
""",
    "output_flood": """
import os
while True:
    os.write(1, b'x' * 65536)
""",
    "endless_loop": """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
""",
    "stopped_processes": """
import os, signal, time
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGSTOP)
""",
    "kill_everything": """
import os, signal
alone = os.readlink('/proc/self') == str(os.getpid()) and os.getpid() < 10 if os.access('/proc/self', os.R_OK) else False
os.kill(-1, signal.SIGKILL if alone else 0)
print('ESCAPED' if not alone else '')
""",
    "daemon": """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)', MARKER])
    os._exit(0)
os.wait()
time.sleep(0.3)
""",
    "deep_folders": """
import os
for _ in range(300):
    os.mkdir('d')
    os.chdir('d')
""",
    "locked_folders": """
import os
os.makedirs('a/b')
open('a/b/c', 'w').close()
os.chmod('a/b', 0)
os.chmod('a', 0)
""",
    "descriptors": """
import os
made = []
while True:
    made += os.pipe()
""",
}
