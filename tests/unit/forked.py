"""Command lines in processes of their own that need not import the package again.

They are forks of a process that has imported it and done nothing else; on a busy machine an
interpreter of its own takes longer to begin than a tiny study to end.
"""

import multiprocessing
import os
import sys
from multiprocessing import connection

from advreg.study import pool

CONTEXT = pool.context()


class Forked:
    """A running `advreg`.

    Args:
        arguments: Its own.
        folder: Where it works.
        said: A file for what it writes to stderr.
        changes: Called in it first, with names of this package's to change, such as limits.
    """

    def __init__(self, *arguments, folder=None, said=None, changes=None):
        given = [str(argument) for argument in arguments]
        self.process = CONTEXT.Process(target=_run, args=(given, folder, said, changes))
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


def _run(arguments, folder, said, changes):
    # Nor need its workers import anything: it has no threads yet.
    pool.context = lambda: multiprocessing.get_context("fork")
    if changes is not None:
        changes()
    if folder is not None:
        os.chdir(folder)
    if said is not None:
        sys.stderr.flush()
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    from advreg.cli import main

    sys.exit(main(arguments))
