"""A deterministic simulation of the whole daemon.

A seed gives one scenario: a few sections arrive, are rewritten, renamed and copied again, while render-ws, the disk of
the mipmaps and the daemon fail. The daemon is real, from `daemon.app` down. It runs in this process, in one thread, in
virtual time. At the end, when the daemon is idle, the invariants are checked.

    python -m tests.simulation --seeds 1000 --start 0     run many scenarios; shrink and print the failing ones
    python -m tests.simulation --seed 17                  run one scenario and print its log
    python -m tests.simulation --seed 17 --only 2,5       run one scenario with two of its actions

The daemon, the journal on SQLite, the files (in a tmpfs) and the stand-in's rules for render-ws are real.

The following is simulated at the boundary of the standard library, without any code in the daemon:

- the clocks: `time.time` and `time.monotonic` follow virtual time (`substitutes.py`);
- the event loop: it has no selector; ready tasks run in an order drawn from the seed; when no task is ready, time
  jumps to the next timer (`loop.py`);
- threads and executors: their work runs in the thread of the loop, at a virtual time drawn from the seed;
- connections to render-ws: a request goes to the stand-in's application, without a socket (`transport.py`);
- file times: `os.stat` and related functions return virtual times, ctime included (`substitutes.py`);
- free space (`substitutes.py`), and worker processes (`workers.py`).

Each seed runs in its own process, forked from a process that has imported everything. So no seed depends on caches
that another seed filled: it gives the same scenario alone and among others (`forks.py`).

`actions.py` draws the actions, `scenario.py` performs them with `file_actions.py`, `render_actions.py` and
`daemon_actions.py`, `invariants.py` checks the result, `shrink.py` shortens the list of actions of a failing seed.
"""
