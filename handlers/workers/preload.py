"""What workers use, imported by the fork server once for all of them. Nothing else imports this module.

The fork server runs nothing of ours but imports, so this module turns the garbage collector off and on: a third of the
time was spent in passes that found nothing. What was imported is frozen: a pass in a worker would write to the header
of each object, and so copy the pages that the workers share.

When the last process that uses the server ends, the server ends without deleting its modules one by one. Whoever reads
the output of a command also waits for the server, which has the other end of the pipe.
"""

import gc

gc.disable()

import atexit
import concurrent.futures.process
import multiprocessing.popen_forkserver
import multiprocessing.sharedctypes
import multiprocessing.synchronize
import os

import handlers.mipmaps.make
import handlers.stores.directory
import handlers.workers.worker

gc.freeze()
gc.enable()


def _end(server: int) -> None:
    """End the fork server immediately. Its workers do not call this: they end by `os._exit`."""
    if os.getpid() == server:
        os._exit(0)


atexit.register(_end, os.getpid())
