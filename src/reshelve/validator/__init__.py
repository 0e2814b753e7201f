"""Validation: the topic against the index by partition, the source against the index by samples.

levels         what a check is asked to look at
tasks          what a check asks and answers, and how that travels in the topic `checks`
alignment      topic and index at one position, while both go on: which keys are settled
log            a partition of the topic, record by record
changed        which keys were changed, and which of them are still to be read again
newest         the newest version of each of those
measure        counts and checksums of one side: a partition of the topic, a slice of the index
compare        what a difference is, and of which class (pure)
drift          the keys behind a difference, one by one
findings       the drifted keys of a task, counted, listed, and written to the topic `drift`
target         the index as a check sees it
excuse         which differences a change under way explains
suspects       keys that seem to differ, looked at again
source_keys    the source asked for any keys
samples        whole documents of sampled keys, source against index
hits           pages of documents against what the index has for them, without parsing
trace          of what class a document is that both sides have, as the topic tells it
full           every document, source against index
full_check     the tasks of that level, and going on with them
worker         does a task; knows nothing of Faust
app            the Faust app that hands tasks to the worker
coordinator    sends a check's tasks, collects the results: the verdict
channel        how the coordinator sends and receives
recomputation  counts and checksums once more, without Faust, for the cut-over's gate
verdict        the facts that come out, as they stand in the journal
"""
