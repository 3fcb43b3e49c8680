"""A simulated microscope and a stand-in for render-ws, for the commands demo and standin and for tests."""
