"""Sources as trees, for tests that read them.

Apart from `ast.parse` because of a defect of Python 3.11 (CPython's issue 106905): the depth of the tree that is being
made is counted once for the whole interpreter. A garbage collection in the middle of it runs the code of finalizers, a
traceback that they print is parsed as well, and other threads have their turn: then the first tree is refused with
"SystemError: AST constructor recursion depth mismatch". Without a collection nothing comes between.
"""

from __future__ import annotations

import ast
import gc


def parsed(source: str) -> ast.Module:
    """The tree of a module's text. Raises: SyntaxError."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collects:
            gc.enable()
