"""Attempts to leave the sandbox. This file is also the program that makes them, inside: it imports only the standard library.

Each attempt is a function of what the host offers (`host`: paths, ports, process ids). It returns True if it got out,
False or an exception if it was held. Run with the host as JSON, it makes all attempts and prints {name: result}.

Most of them would do harm outside of a sandbox. So the program refuses to run where it is not confined.
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
ATTEMPTS = {}


def attempt(function):
    ATTEMPTS[function.__name__] = function
    return function


def call(number, *arguments):
    """A raw system call: True if the kernel carried it out, or would have but for its arguments."""
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *arguments)
    return result >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS, errno.EACCES)


def on(x86, arm):
    return x86 if X86 else arm


def reads(path):
    with open(path, "rb") as file:
        return bool(file.read(1))


def writes(path):
    with open(path, "r+b", buffering=0) as file:
        return file.write(b"0") >= 0


# files


@attempt
def read_a_host_file(host):
    return reads(host["secret"])


@attempt
def list_a_host_folder(host):
    return bool(os.listdir(os.path.dirname(host["secret"])))


@attempt
def read_shadow(host):
    return reads("/etc/shadow")


@attempt
def read_the_host_passwd(host):
    with open("/etc/passwd", encoding="utf-8") as file:
        return "root:" in file.read()


@attempt
def read_a_home(host):
    return any(os.path.isfile(path) and reads(path) for path in ("/root/.bashrc", "/root/.profile", host["home"]))


@attempt
def write_usr(host):
    os.mkdir("/usr/ossia-was-here")
    return True


@attempt
def write_the_interpreter(host):
    return writes(os.path.realpath(sys.executable))


@attempt
def write_etc(host):
    with open("/etc/ossia-was-here", "w"):
        return True


@attempt
def write_the_root_folder(host):
    os.mkdir("/ossia-was-here")
    return True


@attempt
def overwrite_a_host_file(host):
    return writes(host["secret"])


@attempt
def change_the_mode_of_a_host_file(host):
    os.chmod(host["secret"], 0o777)
    return True


@attempt
def change_the_time_of_a_host_file(host):
    os.utime(host["secret"], (1, 1))
    return True


@attempt
def truncate_a_host_file(host):
    os.truncate(host["secret"], 0)
    return True


@attempt
def remove_a_host_file(host):
    os.unlink(host["secret"])
    return True


@attempt
def link_a_host_file_into_the_workspace(host):
    os.link(host["secret"], "hard")
    return reads("hard")


@attempt
def follow_a_symlink_out_of_the_workspace(host):
    os.symlink(host["secret"], "soft")
    return reads("soft")


@attempt
def climb_out_of_the_workspace(host):
    return reads("../" * 20 + host["secret"].lstrip("/"))


@attempt
def make_a_set_user_id_file(host):
    with open("program", "w"):
        pass
    os.chmod("program", 0o4755)
    return bool(os.stat("program").st_mode & 0o6000)


@attempt
def create_a_set_user_id_file(host):
    os.umask(0)
    os.close(os.open("program2", os.O_CREAT | os.O_WRONLY, 0o4755))
    return bool(os.stat("program2").st_mode & 0o6000)


# /proc, /sys, devices


@attempt
def read_the_environment_of_process_1(host):
    return reads("/proc/1/environ")


@attempt
def read_the_memory_of_process_1(host):
    with open("/proc/1/mem", "rb"):
        return True


@attempt
def enter_the_root_of_process_1(host):
    return bool(os.listdir("/proc/1/root/"))


@attempt
def read_the_memory_of_a_host_process(host):
    with open(f"/proc/{host['victim']}/mem", "rb"):
        return True


@attempt
def read_the_command_of_a_host_process(host):
    with open(f"/proc/{host['victim']}/cmdline", "rb") as file:
        return host["marker"].encode() in file.read()


@attempt
def write_a_kernel_setting(host):
    return writes("/proc/sys/kernel/hostname")


@attempt
def set_the_core_pattern(host):
    return writes("/proc/sys/kernel/core_pattern")


@attempt
def press_sysrq(host):
    with open("/proc/sysrq-trigger", "wb", buffering=0):
        return True


@attempt
def read_kernel_memory(host):
    return reads("/proc/kcore")


@attempt
def list_sys(host):
    return bool(os.listdir("/sys"))


@attempt
def write_a_cgroup(host):
    os.mkdir("/sys/fs/cgroup/ossia-was-here")
    return True


@attempt
def open_physical_memory(host):
    return os.open("/dev/mem", os.O_RDONLY) >= 0


@attempt
def open_the_kernel_log(host):
    return os.open("/dev/kmsg", os.O_RDONLY) >= 0


@attempt
def open_the_terminal(host):
    return os.open("/dev/tty", os.O_RDWR) >= 0


@attempt
def make_a_device(host):
    os.mknod("disk", 0o60660, os.makedev(254, 0))
    return reads("disk")


# network


def connects(family, kind, address):
    with socket.socket(family, kind) as made:
        made.settimeout(1)
        made.connect(address)
        return made.send(b"x") == 1


@attempt
def connect_by_tcp(host):
    return connects(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", host["tcp"]))


@attempt
def connect_by_tcp_6(host):
    return connects(socket.AF_INET6, socket.SOCK_STREAM, ("::1", host["tcp6"]))


@attempt
def send_by_udp(host):
    return connects(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", host["udp"]))


@attempt
def listen_by_tcp(host):
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        return True


@attempt
def open_a_raw_socket(host):
    return bool(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))


@attempt
def open_a_packet_socket(host):
    return bool(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))


@attempt
def open_a_netlink_socket(host):
    return bool(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))


@attempt
def open_a_vsock(host):
    return bool(socket.socket(40, socket.SOCK_STREAM))


@attempt
def connect_to_an_abstract_socket(host):
    return connects(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + host["abstract"])


@attempt
def connect_to_a_socket_with_a_path(host):
    return connects(socket.AF_UNIX, socket.SOCK_STREAM, host["unix"])


# mounts and namespaces


@attempt
def mount_a_file_system(host):
    return call(on(165, 40), b"tmpfs", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None)


@attempt
def remount_the_system_writable(host):
    return call(on(165, 40), None, b"/usr", None, ctypes.c_ulong(32 | 4096), None)


@attempt
def unmount_proc(host):
    return call(on(166, 39), b"/proc", 2)


@attempt
def pivot_the_root(host):
    return call(on(155, 41), b".", b".")


@attempt
def change_the_root(host):
    os.chroot(".")
    return True


@attempt
def open_a_file_system(host):
    return call(430, b"tmpfs", 0)


@attempt
def clone_a_mount(host):
    return call(428, -100, b"/", 1)


@attempt
def change_mount_attributes(host):
    return call(442, -100, b"/", 0, struct.pack("4Q", 0, 1, 0, 0), ctypes.c_size_t(32))


@attempt
def unshare_a_user_namespace(host):
    return call(on(272, 97), 0x10000000)


@attempt
def unshare_a_mount_namespace(host):
    return call(on(272, 97), 0x20000)


@attempt
def clone_into_a_user_namespace(host):
    ctypes.set_errno(0)
    child = libc.syscall(
        ctypes.c_long(on(56, 220)), ctypes.c_ulong(0x10000000 | signal.SIGCHLD), None, None, None, None
    )
    if child == 0:
        os._exit(0)
    return child > 0


@attempt
def clone3(host):
    return call(435, None, ctypes.c_size_t(0))


@attempt
def join_a_namespace_of_process_1(host):
    return call(on(308, 268), os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)


# processes and privileges


@attempt
def trace_a_host_process(host):
    return call(on(101, 117), ctypes.c_long(16), ctypes.c_long(host["victim"]), None, None)


@attempt
def trace_its_own_child(host):
    return call(on(101, 117), ctypes.c_long(0), None, None, None)


@attempt
def read_memory_of_a_host_process(host):
    return call(on(310, 270), host["victim"], None, ctypes.c_ulong(0), None, ctypes.c_ulong(0), ctypes.c_ulong(0))


@attempt
def signal_a_host_process(host):
    os.kill(host["victim"], 0)
    return host["victim"] != os.getpid()


@attempt
def signal_the_parent(host):
    parent = os.getppid()
    os.kill(parent, signal.SIGTERM)  # process 1 of a namespace ignores what comes from inside
    os.kill(parent, signal.SIGSTOP)
    time.sleep(0.05)
    return parent != 1


@attempt
def change_priority_of_a_host_process(host):
    os.setpriority(os.PRIO_PROCESS, host["victim"], 19)
    return True


@attempt
def change_limits_of_a_host_process(host):
    resource.prlimit(host["victim"], resource.RLIMIT_CORE, (0, 0))
    return True


@attempt
def change_processors_of_a_host_process(host):
    os.sched_setaffinity(host["victim"], os.sched_getaffinity(0))
    return True


@attempt
def raise_its_own_limits(host):
    resource.setrlimit(resource.RLIMIT_AS, (1 << 62, 1 << 62))
    return True


@attempt
def become_root(host):
    os.setuid(0)
    return True


@attempt
def become_another_user(host):
    os.setresuid(1, 1, 1)
    return True


@attempt
def join_the_root_group(host):
    os.setgroups([0])
    return True


@attempt
def take_capabilities(host):
    all_of_them = struct.pack("6I", *[0xFFFFFFFF] * 6)
    return libc.capset(struct.pack("Ii", 0x20080522, 0), all_of_them) == 0


@attempt
def find_a_capability(host):
    data = ctypes.create_string_buffer(24)
    libc.capget(struct.pack("Ii", 0x20080522, 0), data)
    return any(data.raw)


@attempt
def allow_new_privileges(host):
    return libc.prctl(39, 0, 0, 0, 0) != 1  # PR_GET_NO_NEW_PRIVS


@attempt
def use_the_keyring(host):
    return call(on(250, 219), 0, ctypes.c_long(-4), 1)


@attempt
def load_a_bpf_program(host):
    return call(on(321, 280), 0, None, 0)


@attempt
def set_up_io_uring(host):
    return call(425, 8, ctypes.create_string_buffer(120))


@attempt
def open_performance_events(host):
    return call(on(298, 241), ctypes.create_string_buffer(128), 0, -1, -1, ctypes.c_ulong(0))


@attempt
def handle_page_faults(host):
    return call(on(323, 282), 0)


@attempt
def load_a_kernel_module(host):
    return call(on(175, 105), None, ctypes.c_ulong(0), b"")


@attempt
def load_another_kernel(host):
    return call(on(246, 104), ctypes.c_ulong(0), ctypes.c_ulong(0), None, ctypes.c_ulong(0))


@attempt
def reboot_with_wrong_magic(host):
    return call(on(169, 142), 1, 2, 3, None)


@attempt
def set_the_clock(host):
    return call(on(227, 112), 0, struct.pack("qq", 0, -1))


@attempt
def set_the_hostname(host):
    socket.sethostname("ossia-was-here")
    return True


@attempt
def type_into_a_terminal(host):
    return call(on(16, 29), 0, ctypes.c_ulong(0x5412), b"x")


@attempt
def type_into_a_terminal_with_high_bits(host):
    return call(on(16, 29), 0, ctypes.c_ulong(0x5412 | 1 << 40), b"x")


@attempt
def open_by_handle(host):
    return call(on(304, 265), -100, None, 0)


@attempt
def turn_off_address_randomisation(host):
    return call(on(135, 92), ctypes.c_ulong(0x0040000))


@attempt
def make_a_file_in_memory(host):
    return call(on(319, 279), b"x", 0)


@attempt
def make_shared_memory_outside_of_files(host):
    return call(on(29, 194), 0, ctypes.c_size_t(4096), 0o1600)


@attempt
def call_by_the_numbers_of_x32(host):
    return X86 and call(0x40000000 | 39)


@attempt
def call_by_the_numbers_of_i386(host):
    if not X86:
        return False
    child = os.fork()
    if child == 0:
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, getpid; int 0x80; ret
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


# what was inherited


@attempt
def use_an_inherited_file(host):
    for fd in range(3, 256):
        try:
            os.fstat(fd)
        except OSError:
            continue
        return True
    return False


@attempt
def read_a_secret_of_the_environment(host):
    return any("SECRET" in name or host["marker"] in value for name, value in os.environ.items())


def confined():
    """Not root, no new privileges, a filter, limits: each of them alone keeps the machine safe from most attempts."""
    limits = [
        resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_AS, resource.RLIMIT_FSIZE)
    ]
    flags = libc.prctl(39, 0, 0, 0, 0) == 1 and libc.prctl(21, 0, 0, 0, 0) == 2  # NO_NEW_PRIVS, SECCOMP
    return 0 not in os.getresuid() and flags and resource.RLIM_INFINITY not in limits


def main():
    if not confined():
        raise SystemExit("this is not a sandbox: the attempts would do harm here")
    host = json.loads(sys.argv[1])
    results = {}
    for name in ATTEMPTS:
        try:
            results[name] = bool(ATTEMPTS[name](host))
        except Exception:
            results[name] = False
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
