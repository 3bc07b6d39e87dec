"""The command line: what a person at a terminal sees of Leasehold, and nothing that decides.

`parser` turns words into one `Invocation`, `entry` carries it out and turns what happens into an exit code, one module
per group of commands does the work (`serving`, `starting`, `looking`, `acting`, `maintaining`, `project`), and
`screen`, `layout`, `times`, `runs_view` and `events_view` know how things look. Commands that only look never import
the app.
"""

from __future__ import annotations
