"""The README's recipes, run as they stand there."""
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from support import TESTS, answering, requires_abi

pytestmark = requires_abi(1)
ROOT = os.path.dirname(TESTS)
with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as readme:
    TEXT = readme.read()
BLOCKS = [(title.strip(), language, code) for title, body in re.findall(r"^### \d+\. (.*?)\n(.*?)(?=^##|\Z)", TEXT, re.M | re.S)
          for language, code in re.findall(r"^```(\w+)\n(.*?)^```", body, re.M | re.S)]
AGENT = r"""
import socket, sys
def attempt(name, what):
    try: what()
    except OSError as e: print("%s: %s" % (name, type(e).__name__))
    else: print(name, "answers")
attempt("the API", lambda: socket.create_connection(("localhost", PORT)))
attempt("elsewhere", lambda: socket.create_connection(("127.0.0.1", 9)))
attempt("work/.env", lambda: open("work/.env"))
"""
MAKEFILE = "all:\n\t@python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 9))' 2>/dev/null || echo built without network\n"


@pytest.fixture
def folder(tmp_path):
    """What the recipes find: the file alone, an agent at work, a project, and a host that answers."""
    for parent in [tmp_path, *tmp_path.parents]:
        if str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    shutil.copy(os.path.join(ROOT, "sandlock.py"), tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / ".env").write_text("SECRET=1\n")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "Makefile").write_text(MAKEFILE)
    with socket.create_server(("127.0.0.1", 0)) as server, answering(server, b"ok"):
        port = server.getsockname()[1]
        (tmp_path / "work" / "agent.py").write_text(AGENT.replace("PORT", str(port)))
        tmp_path.joinpath("port").write_text(str(port))
        yield tmp_path


@pytest.mark.parametrize("title,language,code", BLOCKS, ids=["%s %s" % block[:2] for block in BLOCKS])
def test_recipe(folder, title, language, code):
    if "as root" in title.lower() and os.geteuid():
        pytest.skip("needs root (user=)")
    if "make" in code and not shutil.which("make"):
        pytest.skip("not installed: make")
    expected = re.findall(r"^# -> (.*)$", code, re.M)
    code = code.replace("api.example.org:443", "localhost:" + (folder / "port").read_text())
    if "LD_LIBRARY_PATH" in os.environ:  # of as_user.sh
        code = code.replace("clean_env=True", "clean_env=True, env={'LD_LIBRARY_PATH': %r}" % os.environ["LD_LIBRARY_PATH"])
    plain = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
    (folder / "bin").mkdir()
    for name, target in (("python3", sys.executable if language == "python" else plain),):
        os.symlink(target, folder / "bin" / name)
    env = dict(os.environ, PATH="%s:/usr/bin:/bin" % (folder / "bin") if language == "python" and not os.path.exists("/usr/bin/python3") else "/usr/bin:/bin:%s" % (folder / "bin"))
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code]
    result = subprocess.run(command, cwd=str(folder), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100)
    assert expected and (result.stdout.decode().splitlines(), result.returncode) == (expected, 0), result.stderr.decode()


def test_there_are_ten_and_each_flag_and_field_of_the_text_exists():
    import sandlock
    assert len({title for title, _, _ in BLOCKS}) == 10
    flags = {name for names, *_ in sandlock._RUN_OPTIONS for name in names}
    assert set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", TEXT)) - {"--version", "--cap-add", "--help"} <= flags
    for name in re.findall(r"`((?:fs|net|max|extra|policy)_\w+)`", TEXT):
        assert name in sandlock.Policy._fields, name
    for name in re.findall(r"`(_[A-Z_]+)`", TEXT):
        assert hasattr(sandlock, name), name
