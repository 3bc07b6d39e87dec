"""What `doctor` finds out: the checks of a whole installation, and how they are made.

The database brings its own checks; here are those of what lies around it, and what makes them all. The command line
prints what comes out.
"""

from runtime.diagnosis.examination import Examined, Report, examine

__all__ = ["Examined", "Report", "examine"]
