"""Commands: one module each, with the command, its result, what it touches, its `decide` and its handler."""
