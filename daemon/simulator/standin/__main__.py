"""Run the stand-in: `python -m daemon.simulator.standin`."""

from daemon.simulator.standin.server import main

main()
