from __future__ import annotations

from collections import Counter
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reshelve.errors import BlockedError
from reshelve.model import add_checksums, document_checksum, partition_of
from reshelve.validator import newest as newest_module
from reshelve.validator.changed import ChangedKeys
from reshelve.validator.compare import Written
from reshelve.validator.log import LogRecord
from reshelve.validator.measure import Accumulator, KeySample, Sample, bucket_of, measure_topic
from reshelve.validator.newest import NewestVersions, scratch

_DOCUMENTS = st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 2**53 - 1)), max_size=200)


@given(_DOCUMENTS, st.integers(1, 9), st.integers(1, 16))
def test_sums_fall_where_the_partitioner_puts_the_key(
    documents: list[tuple[bytes, int]], partitions: int, buckets: int
) -> None:
    sums = Accumulator(partitions, buckets)
    for key, version in documents:
        assert sums.add(key, version) == partition_of(key, partitions) == bucket_of(key, partitions, buckets)[0]
    for partition in range(partitions):
        mine = [(k, v) for k, v in documents if partition_of(k, partitions) == partition]
        part = sums.partition(partition)
        assert part.documents == len(mine)
        assert part.checksum == add_checksums(document_checksum(k, v) for k, v in mine)


# --- the sums of the newest version of each key

_KEYS = [str(n).encode() for n in range(30)]
# Of a key, one version is one content: whether the document is there follows from key and version.
_HISTORY = st.lists(st.tuples(st.sampled_from(_KEYS), st.integers(1, 6)), max_size=120)


def _gone(key: bytes, version: int) -> bool:
    return crc32(key + bytes([version])) % 3 == 0


def _log(history: list[tuple[bytes, int]], partitions: int) -> list[LogRecord]:
    return [
        (key, crc32(key) // partitions, version, None if _gone(key, version) else b"%b at %d" % (key, version))
        for key, version in history
    ]


@settings(max_examples=300)
@given(
    _HISTORY,
    st.sets(st.sampled_from(_KEYS)),
    st.sets(st.sampled_from(_KEYS), max_size=5),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(1, 5),
)
def test_sums_are_those_of_the_newest_versions(
    history: list[tuple[bytes, int]],
    others: set[bytes],
    unsettled: set[bytes],
    partitions: int,
    buckets: int,
    held: int,
) -> None:
    """Of repeated and deleted keys, `changes` tells; it may name others too. Unsettled keys are told apart."""
    mine = [(key, version) for key, version in history if partition_of(key, partitions) == 0]
    times = Counter(key for key, _ in mine)
    must = {key for key, version in mine if times[key] > 1 or _gone(key, version)}
    changed = ChangedKeys(crc32(key) // partitions for key in must | others)
    versions = {key: max(v for k, v in mine if k == key) for key in times}
    naive = {k: version for k, version in versions.items() if not _gone(k, version) and k not in unsettled}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(newest_module, "_HELD", held)
        log = _log(mine, partitions)
        found = measure_topic(log, changed, partitions=partitions, buckets=buckets, unsettled=unsettled)
    for bucket in range(buckets):
        keys = [key for key in naive if bucket_of(key, partitions, buckets)[1] == bucket]
        assert found.sums.counts[bucket] == len(keys)
        assert found.sums.checksums[bucket] == add_checksums(document_checksum(k, naive[k]) for k in keys)
    documents = sum(not _gone(key, version) for key, version in mine)
    assert found.page_records + found.changed_records == documents
    assert found.page_records == sum(key not in must | others | unsettled for key, _ in mine)
    assert found.lower == {k: Written(v, _gone(k, v)) for k, v in versions.items() if k in unsettled}


def test_without_changes_every_record_counts() -> None:
    log: list[LogRecord] = [(b"1", crc32(b"1"), 5, b"{}"), (b"1", crc32(b"1"), 6, b"{}")]
    found = measure_topic(log, None, partitions=1, buckets=1)
    assert (found.sums.documents, found.page_records, found.changed_records) == (2, 2, 0)


def test_a_tombstone_that_no_key_task_explains_is_refused() -> None:
    for changed in (None, ChangedKeys([crc32(b"2")])):
        with pytest.raises(BlockedError, match="no key task"):
            measure_topic([(b"1", crc32(b"1"), 5, None)], changed, partitions=1, buckets=1)


@given(st.lists(st.tuples(st.sampled_from(_KEYS), st.integers(1, 50)), max_size=200), st.integers(1, 300))
def test_newest_versions_are_the_same_in_memory_and_on_disk(records: list[tuple[bytes, int]], held: int) -> None:
    naive: dict[bytes, int] = {}
    with pytest.MonkeyPatch.context() as patch, scratch() as connection:
        patch.setattr(newest_module, "_HELD", held)
        newest = NewestVersions(connection)
        for key, version in records:
            newest.put(key, version, _gone(key, version))
            naive[key] = max(version, naive.get(key, 0))
        present = dict(newest.present())
    assert present == {key: version for key, version in naive.items() if not _gone(key, version)}


@given(st.sets(st.integers(0, 2**32 - 1), max_size=100), st.sets(st.integers(0, 2**32 - 1), max_size=100))
def test_no_changed_key_is_forgotten(added: set[int], others: set[int]) -> None:
    changed = ChangedKeys(added)
    assert all(rest in changed for rest in added)
    taken = sum(rest in changed for rest in others - added)
    assert taken == sum(rest % 2**25 in {a % 2**25 for a in added} for rest in others - added)
    every = ChangedKeys.all()
    assert all(rest in every for rest in others)


# --- samples


def _sample(size: int, keys: list[bytes], seed: str) -> list[bytes]:
    chosen = KeySample(size, seed)
    for key in keys:
        chosen.offer(key, 1, b"")
    return sorted(sample.key for sample in chosen.items)


def _names(number: int) -> list[bytes]:
    return [str(n).encode() for n in range(number)]


@pytest.mark.parametrize(("size", "length", "taken"), [(0, 10, 0), (5, 0, 0), (5, 3, 3), (5, 5, 5), (5, 10_000, 5)])
def test_a_sample_has_the_size_asked_for_and_no_key_twice(size: int, length: int, taken: int) -> None:
    keys = _sample(size, _names(length), "seed")
    assert len(keys) == len(set(keys)) == taken


def test_the_same_seed_takes_the_same_sample() -> None:
    keys = _names(5_000)
    assert _sample(10, keys, "a") == _sample(10, keys, "a") != _sample(10, keys, "b")


def test_every_key_is_equally_likely_however_often_it_comes() -> None:
    keys = [key for n, key in enumerate(_names(100)) for _ in range(1 + n // 10)]
    taken = Counter(int(key) // 10 for trial in range(2_000) for key in _sample(5, keys, str(trial)))
    # 10,000 draws over 10 tenths: 1,000 each, standard deviation about 30.
    assert all(860 < taken[tenth] < 1_140 for tenth in range(10)), taken


@given(_HISTORY, st.integers(1, 40))
def test_a_sampled_key_has_its_newest_record(history: list[tuple[bytes, int]], size: int) -> None:
    chosen = KeySample(size, "seed")
    for key, _, version, document in _log(history, 1):
        chosen.offer(key, version, document)
    versions = {key: max(v for k, v in history if k == key) for key, _ in history}
    assert len(chosen.items) == min(size, len(versions))
    for sample in chosen.items:
        version = versions[sample.key]
        document = None if _gone(sample.key, version) else b"%b at %d" % (sample.key, version)
        assert sample == Sample(sample.key, version, document)
