"""The command line, as a shell sees it."""
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

import sandlock
from support import THIN, as_command, eventually, exists, free_port, requires_abi

FILE = as_command()
REPO = os.path.dirname(os.path.abspath(sandlock.__file__))


def cli(*words, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([sys.executable, FILE] + list(words), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=60, **options)


@requires_abi(1)
def test_the_readmes_main_command():
    with open(os.path.join(REPO, "README.md")) as f:
        command = re.search(r"python3 sandlock\.py run .*", f.read()).group()
    result = subprocess.run(command, shell=True, cwd=REPO, stdout=subprocess.PIPE, timeout=60)
    assert (result.returncode, result.stdout) == (0, b"hello\n")


@requires_abi(1)
@pytest.mark.parametrize("words,status", [
    (["--", "true"], 0), (["--", "sh", "-c", "exit 7"], 7), (["--", "sh", "-c", "kill -TERM $$"], 143),
    (["-t", "0.3", "--", "sleep", "100"], 124), (["--", "no-such-command"], 127), (["--", "/etc/passwd"], 126)])
def test_exit_status(words, status):
    result = cli("run", "--system", *words)
    assert result.returncode == status
    assert bool(result.stderr) == (status in (126, 127))


@pytest.mark.parametrize("words,text", [
    ([], "command"), (["run"], "no command"), (["run", "--frob", "--", "true"], "--frob"),
    (["run", "-m", "12Q", "--", "true"], "12Q"), (["run", "-P", "0", "--", "true"], "-P: 0"),
    (["run", "-P", "x", "--", "true"], "'x'"), (["run", "--bind", "99999", "--", "true"], "99999"),
    (["run", "--env", "X", "--", "true"], "'X'"), (["run", "--net-allow", "a:0", "--", "true"], "a:0"),
    (["run", "--policy-fn", "nofile.py:f", "--", "true"], "nofile"), (["run", "-t", "-3", "--", "true"], "-3"),
    (["run", "--best-effort", "--cwd", "/nonexist", "--", "true"], "/nonexist")])
def test_a_wrong_flag_or_value_is_one_line_and_125(words, text):
    result = cli(*words)
    assert result.returncode == 125 and not result.stdout
    assert text in result.stderr.decode() and result.stderr.count(b"\n") == 1


@requires_abi(1)
def test_flags_reach_the_policy(tmp_path):
    result = cli("run", "--system", "-w", str(tmp_path), "--cwd", str(tmp_path), "--env", "A=b=c", "--clean-env",
                 "--bind", "1-2", "-P", "5", "--", "sh", "-c", "echo $A > made; pwd; env | wc -l")
    assert result.returncode == 0 and (tmp_path / "made").read_text() == "b=c\n"
    assert result.stdout.split()[0].decode() == str(tmp_path)
    assert cli("run", "--system", "--", "cat", FILE + "x").returncode == 1
    missing = cli("run", "--system", "-r", "/nonexist", "--", "true")
    assert missing.returncode == 0 and b"/nonexist" in missing.stderr


@requires_abi(1)
def test_verbose_says_what_was_denied_and_what_would_allow_it():
    script = "import socket\nfor i in range(3):\n    try: socket.create_connection(('127.0.0.1', 9))\n    except OSError: pass"
    result = cli("run", "--system", "-v", "--", "python3", "-c", script)
    assert result.returncode == 0
    assert b"127.0.0.1:9" in result.stderr and b"3 times" in result.stderr and b"--net-allow" in result.stderr


GUARD = """
def guard(event, ctx):
    if event.path_contains("hostname"):
        return True
def broken(event, ctx):
    raise ValueError("of the guard")
"""


@requires_abi(1)
def test_network_memory_and_callback_by_flags(tmp_path):
    connect = "import socket, sys; print(socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1]))))"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        port = str(server.getsockname()[1])
        words = ["--", "python3", "-c", connect, port]
        assert cli("run", "--system", "--net-allow", "127.0.0.1:" + port, *words).stdout == b"0\n"
        assert cli("run", "--system", "--net-deny", "10.0.0.0/8", *words).stdout == b"0\n"
        assert cli("run", "--system", "--net-deny", "127.0.0.1", *words).stdout == b"111\n"
        assert cli("run", "--system", *words).stdout == b"111\n"
    eat = ["--", "python3", "-c", "x = bytearray(200 << 20); print(len(x) >> 20)"]
    assert cli("run", "--system", "-m", "1G", *eat).stdout == b"200\n"
    assert b"MemoryError" in cli("run", "--system", "-m", "100M", *eat).stderr
    (tmp_path / "guard.py").write_text(GUARD)
    guarded = cli("run", "--system", "-v", "--policy-fn", "%s:guard" % (tmp_path / "guard.py"), "--events", "openat", "--",
                  "sh", "-c", "cat /etc/hostname; cat /etc/passwd >/dev/null && echo on")
    assert guarded.stdout == b"on\n" and b"denied openat '/etc/hostname'" in guarded.stderr
    broken = cli("run", "--system", "--policy-fn", "%s:broken" % (tmp_path / "guard.py"), "--events", "clone", "--", "sh", "-c", "(true)")
    assert broken.returncode != 0 and b"clone: ValueError: of the guard" in broken.stderr


def test_check():
    result = cli("check")
    lines = result.stdout.decode().splitlines()
    assert len(lines) == len(sandlock.kernel_support()) + 2 and "Landlock ABI %s" % (sandlock.landlock_abi_version() or "none") in lines[0]
    assert result.returncode == (0 if lines[-1] == "a full policy can be enforced here" else 1)
    needed = [found for name, (_, found) in sandlock.kernel_support().items() if name in ("Landlock: files", "seccomp: listener", "ptrace", "pidfd_getfd", "/proc")]
    assert (result.returncode == 0) == all(needed) and len(needed) == 5


@requires_abi(1)
def test_in_a_pipe_it_is_the_command(tmp_path):
    out = subprocess.run("echo data | %s %s run --system -- cat | cat" % (sys.executable, FILE), shell=True,
                         stdout=subprocess.PIPE).stdout
    assert out == b"data\n"
    out = subprocess.run("%s %s run --system -- yes | head -n 1" % (sys.executable, FILE), shell=True,
                         stdout=subprocess.PIPE, timeout=30).stdout
    assert out == b"y\n"


@requires_abi(1)
def test_a_terminated_command_line_takes_its_program_along():
    process = subprocess.Popen([sys.executable, FILE, "run", "--system", "--", "sh", "-c", "echo $$; exec sleep 100"],
                               stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    inside = int(process.stdout.readline())
    process.terminate()
    process.wait()
    process.stdout.close()
    assert eventually(lambda: not exists(inside))


class Terminal:
    """An interactive shell on a pseudo-terminal."""

    def __init__(self):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # however the tests were started
            signal.signal(signal.SIGQUIT, signal.SIG_DFL)
            os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
        self.seen = ""

    def type(self, text):
        os.write(self.fd, text.encode())

    def expect(self, pattern):
        for _ in range(200):
            found = re.search(pattern, self.seen)
            if found:
                self.seen = self.seen[found.end():]
                return found
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
        raise AssertionError("%r not in %r" % (pattern, self.seen))

    def close(self):
        fd = sandlock._pidfd_open(self.pid)
        sandlock._pidfd_send_signal(fd, signal.SIGKILL)
        os.close(fd)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@requires_abi(1)
@pytest.mark.skipif(not shutil.which("bash"), reason="not installed: bash")
def test_job_control_on_a_terminal():
    terminal = Terminal()
    try:
        terminal.type("PS1='$ '; %s %s run --system -- sh -c 'echo begun; exec cat'; echo status $?\n" % (sys.executable, FILE))
        terminal.expect(r"status \$\?")
        terminal.expect(r"[\r\n]begun\r\n")
        terminal.type("hello\n")
        terminal.expect(r"hello\r\nhello")
        terminal.type("\x1a")  # Ctrl-Z
        terminal.expect(r"Stopped")
        terminal.type("echo shell again; fg\n")
        terminal.expect(r"[\r\n]shell again")
        time.sleep(5 if THIN >= 100 else 0.5)
        terminal.type("back\n")
        terminal.expect(r"back\r\nback")
        terminal.type("\x03")  # Ctrl-C
        terminal.type("\n")
        terminal.type("echo $((40+2))\n")
        terminal.expect(r"[\r\n]42")
    finally:
        terminal.close()
