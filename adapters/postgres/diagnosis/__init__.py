"""What is wrong with a database, as far as it can tell: checks of the server, of its upkeep, and of the work in it.

`open_diagnosis` is the way in. A check is a small function of a `Patient` that asks one thing and judges the answer;
`CHECKS` lists them all. Nothing is ever changed: each question is asked in a transaction that may only read.
"""

from adapters.postgres.diagnosis.checks import CHECKS, open_diagnosis
from adapters.postgres.diagnosis.patient import Thresholds

__all__ = ["CHECKS", "Thresholds", "open_diagnosis"]
