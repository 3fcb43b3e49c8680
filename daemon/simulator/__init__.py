"""A simulated microscope and a stand-in for render-ws; only `commands`, `app` (embedded) and tests import it."""
