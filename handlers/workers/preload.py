"""What workers use, imported by the fork server once for all of them. Nothing else imports this module.

The fork server runs nothing of ours but imports, so this module turns the garbage collector off and on: a third of the
time was spent in passes that found nothing. What was imported is frozen: a pass in a worker would write to the header
of each object, and so copy the pages that the workers share.
"""

import gc

gc.disable()

import concurrent.futures.process
import multiprocessing.popen_forkserver
import multiprocessing.sharedctypes
import multiprocessing.synchronize

import handlers.mipmaps.make
import handlers.stores.directory
import handlers.workers.worker

gc.freeze()
gc.enable()
