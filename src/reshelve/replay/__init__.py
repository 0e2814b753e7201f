"""Replay: the topic `documents` of a run applied once more, to its own index or to a new one.

request  what is asked for, and how the journal has it
drive    a replay from its beginning to its end
work     indexers in threads of this process, and how far they are
proof    whether a new index holds just what the topic says
"""
