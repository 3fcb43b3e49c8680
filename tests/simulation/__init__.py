"""A deterministic simulation of the whole daemon.

One seed is one story: a few sections land, are rewritten, renamed, copied again and so on, while render-ws, the disk of
the mipmaps and the daemon itself fail. The daemon is the real one, from `daemon.app` down. It runs in this process, in
one thread, in virtual time. At the end the story comes to rest, and what must then hold is looked at.

    python -m tests.simulation --seeds 1000 --start 0     run many; the failing ones are shrunk and printed
    python -m tests.simulation --seed 17                  run one, and print what happens
    python -m tests.simulation --seed 17 --only 2,5       run one, with two of its actions

What is real: the daemon, the journal on SQLite, the files (in a tmpfs), the stand-in's rules for render-ws.

What is simulated, each at the edge of the standard library, so that nothing in the daemon knows of it:

- the clocks: `time.time` and `time.monotonic` follow virtual time (`substitutes.py`);
- the event loop: no selector; task steps that are ready run in an order that the seed draws; when nothing is ready,
  time jumps to the next timer (`loop.py`);
- threads and executors: their work is done in the loop's thread, at a virtual moment that the seed draws;
- connections to render-ws: a request goes to the stand-in's application, without a socket (`transport.py`);
- times of files: `os.stat` and its relatives show virtual times, ctime included (`substitutes.py`);
- free space (`substitutes.py`), and worker processes (`workers.py`).

Each seed runs in a process of its own, forked from one that has imported everything: no seed sees what another left
in a cache, and a seed gives the same story alone and among others.

`actions.py` says what can happen, `story.py` lets it happen, `invariants.py` says what must hold at rest, `shrink.py`
makes the list of actions of a failing seed as short as it can.
"""
