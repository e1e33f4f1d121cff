"""How the processes of a run share the weights and what belongs to them: one interface, behind which the loop knows no strategy.

The rule for all that is not the student: **parameters are sharded, buffers are replicated.** Teachers, averages, snapshots, heads
and prototypes are made before the student is sharded, and sharded as it is, so that each process moves its own part of an average,
in float32 and without a word to the others. Queues, banks, centres and running statistics are buffers: whole on every process, and
made equal where they change.
"""
