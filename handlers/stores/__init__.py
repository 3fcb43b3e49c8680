"""Where levels are put and read: local directories and object stores behind one interface."""
