"""Command lines in processes of their own that need not import the package again.

They are forks of a process that has imported it and done nothing else; on a busy machine an
interpreter of its own takes longer to begin than a tiny study to end.
"""

import itertools
import multiprocessing
import os
import sys
import threading
from contextlib import contextmanager
from multiprocessing import connection

from advreg.study import pool

CONTEXT = pool.context()


class Forked:
    """A running `advreg`.

    Args:
        arguments: Its own.
        folder: Where it works.
        said: A file for what it writes to stderr.
        out: One for what it writes to stdout.
        changes: Called in it first, with names of this package's to change, such as limits.
    """

    def __init__(self, *arguments, folder=None, said=None, out=None, changes=None):
        given = [str(argument) for argument in arguments]
        self.process = CONTEXT.Process(target=_run, args=(given, folder, (out, said), changes))
        self.process.start()
        self.pid = self.process.pid

    def kill(self):
        """Ends it by SIGKILL."""
        self.process.kill()
        self.process.join()

    def wait(self, timeout=600):
        """Its exit code."""
        ended = connection.wait([self.process.sentinel], timeout)
        assert ended, "the process does not end"
        self.process.join()
        return self.process.exitcode


def _run(arguments, folder, files, changes):
    # Nor need its workers import anything: it has no threads yet.
    pool.context = lambda: multiprocessing.get_context("fork")
    if changes is not None:
        changes()
    if folder is not None:
        os.chdir(folder)
    for number, file in enumerate(files, 1):
        if file is not None:
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    from advreg.cli import main

    sys.exit(main(arguments))


PROGRAM = """#!{python} -S
import sys
from multiprocessing.connection import Client

with Client({address!r}) as server:
    server.send(sys.argv[1:])
    said, code = server.recv()
sys.stdout.write(said)
sys.exit(code)
"""


@contextmanager
def program(folder):
    """A program `advreg` in a folder, for scripts, which need not import the package either."""

    def answer(client, number):
        out = folder / f"{number}.txt"
        code = Forked(*client.recv(), out=out).wait()
        client.send((out.read_text(), code))

    def serve():
        for number in itertools.count():
            try:
                client = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client, number), daemon=True).start()

    with connection.Listener(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        path = folder / "advreg"
        path.write_text(PROGRAM.format(python=sys.executable, address=listener.address))
        path.chmod(0o755)
        yield path
