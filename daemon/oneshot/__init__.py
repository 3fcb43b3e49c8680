"""The three import commands that run once and end, with the parameters that asap-modules' scripts have."""
