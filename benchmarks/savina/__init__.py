"""The programs of the Savina suite that measure a framework and not the interpreter, and Skynet: each written twice.

Once with actors on the loop of the own node, once with asyncio's tasks and queues, which is what limits it. Each module
names the two as `ours` and `plain`; they take the size, and fail if what came out is not what must come out. What is
bound by computing (sorting, matrices, pi) is left out: there, all would be equally slow.
"""
