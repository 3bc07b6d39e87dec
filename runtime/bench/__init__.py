"""`leasehold bench`: what the engine costs on this machine and this database, beside the least that it could cost.

`command` reads like the benchmark runs. One module per measure (`pipeline`, `latency`, `sleepers`, ...) says what is
done and what is taken down; `laboratory` has what they all need, `processes` and `child` are the two ends of the pipe
to the processes that do the work, and `milestones`, `table` and `comparison` make figures readable.

Nothing here is imported by an engine that is not measured.
"""
