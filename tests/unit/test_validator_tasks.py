from __future__ import annotations

import json
import ssl
from dataclasses import replace
from pathlib import Path

import faust
import pytest

from reshelve.errors import AccessRefused, BlockedError, Unreachable, UsageError
from reshelve.model import Receipt
from reshelve.receipts import Tiling
from reshelve.schemas.codec import CHECK_TASK, CodecError, encode_receipt
from reshelve.validator.coordinator import faults
from reshelve.validator.credentials import credentials
from reshelve.validator.tasks import CheckResult, CheckTask, Scope, decode
from reshelve.validator.verdict import PartitionVerdict, Validation

_SCOPE = Scope(1.5, "cities-1", "abc", 2, (7, 17), (9, 17), True, 256, counts=True, checksums=False, samples=3)
_TASK = CheckTask("check", "partition", 3, _SCOPE, "AAAA")
_RANGE = CheckTask("check", "range", 4, _SCOPE, low=("1", "2"), high=("3",))
_RESULT = CheckResult("check", "target", 0, "host/1", 0.5, {"sums": ["AAAA"]})


def test_task_and_result_travel_in_one_topic() -> None:
    assert decode(_TASK.encode()) == _TASK
    assert decode(_RANGE.encode()) == _RANGE
    assert decode(_RESULT.encode()) == _RESULT
    assert (_TASK.key, _RESULT.key) == (b"partition/3", b"target/0")


def test_other_records_are_told_apart() -> None:
    receipt = encode_receipt(Receipt(0, None, None, 0, 0, 0, 0, 0, 0, 1))
    fields = {"check": "c", "kind": "target", "number": 0, "data": json.dumps({"of": "another release"})}
    for record in (b"", b"nonsense", receipt, CHECK_TASK.encode(fields)):
        with pytest.raises(CodecError):
            decode(record)


@pytest.mark.parametrize("kind", [BlockedError, AccessRefused, Unreachable])
def test_an_error_comes_back_as_what_it_was(kind: type[BlockedError]) -> None:
    error = kind("what", where="where", why="why", remedy="remedy")
    result = decode(replace(_RESULT, data={}, error=error.as_dict()).encode())
    assert isinstance(result, CheckResult)
    with pytest.raises(kind) as caught:
        result.raise_error()
    assert caught.value.as_dict() == error.as_dict()
    _RESULT.raise_error()


_CLEAN = PartitionVerdict(0, 10, "4d", 10, True, True, 5)


@pytest.mark.parametrize(
    ("verdict", "clean"),
    [
        (_CLEAN, True),
        (replace(_CLEAN, target_documents=None, counts_match=None, checksums_match=None), True),
        (replace(_CLEAN, counts_match=False), False),
        (replace(_CLEAN, checksums_match=False), False),
        (replace(_CLEAN, drift={"different": 1}), False),
    ],
)
def test_a_verdict_is_clean_when_nothing_differs(verdict: PartitionVerdict, clean: bool) -> None:
    found = Validation("check", "2026-01-02T03:04:05+00:00", 1.0, 10, (verdict,))
    assert (verdict.clean, found.clean) == (clean, clean)
    assert not replace(found, faults=("topic",)).clean
    assert ("no difference" in found.summary()) == clean


def test_a_validation_in_the_journal_is_bounded() -> None:
    drifted = tuple((str(n), "missing") for n in range(1_000))
    verdict = replace(_CLEAN, drift={"missing": 5_000}, drifted=drifted, rejected=7)  # type: ignore[arg-type]
    found = Validation("check", "2026-01-02T03:04:05+00:00", 1.0, 10, (verdict, _CLEAN), ("fault",))
    again = Validation.from_dict(json.loads(json.dumps(found.as_dict())))
    assert again.partitions[0].drifted == verdict.drifted[:100]
    assert again == replace(found, partitions=(replace(verdict, drifted=verdict.drifted[:100]), _CLEAN))
    assert (again.drift, again.rejected, again.target_documents) == ({"missing": 5_000}, 7, 20)


def test_a_validation_says_as_of_when_and_up_to_where_it_is() -> None:
    verdicts = tuple(replace(_CLEAN, partition=p, end=7 + p, version=20 - p, pending=p) for p in range(3))
    found = Validation("check", "2026-01-02T03:04:05+00:00", 1.0, 10, verdicts)
    assert (found.version, found.ends, found.pending) == (18, {0: 7, 1: 8, 2: 9}, 3)
    assert "3 not judged" in found.summary() and found.clean
    assert Validation.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    assert replace(found, partitions=(replace(_CLEAN, version=None), *verdicts)).version is None
    shown = found.as_dict()
    assert (shown["version"], shown["pending"], shown["partitions"][1]["end"]) == (18, 3, 8)


_TILING = Tiling(segments=1, open=(), faults=(), rows=10, documents=10, left_out=0, rejected=0, bytes=9, checksum=0x4D)
_UNCHANGED = replace(_CLEAN, page_records=10)


@pytest.mark.parametrize(
    ("verdict", "fault"),
    [
        (_UNCHANGED, None),
        (replace(_UNCHANGED, page_records=9), "holds 9 documents of pages, the receipts 10"),
        (replace(_UNCHANGED, page_records=11), "holds 11 documents of pages"),
        (replace(_UNCHANGED, topic_checksum="4e"), "checksum of the topic"),
        (replace(_UNCHANGED, page_records=7, changed_records=3, topic_checksum="4e"), None),
        (replace(_UNCHANGED, page_records=7, changed_records=9, topic_documents=30), None),
        (replace(_UNCHANGED, page_records=7, changed_records=2), "holds 7 to 9 documents of pages"),
        (replace(_UNCHANGED, page_records=11, changed_records=2), "holds 11 to 13 documents of pages"),
        (replace(_UNCHANGED, counts_match=False), "partitions 0: a document stands in the topic twice"),
        (replace(_UNCHANGED, counts_match=False, drift={"missing": 1}), None),
    ],
)
def test_topic_and_receipts_are_held_against_each_other(verdict: PartitionVerdict, fault: str | None) -> None:
    found = faults((verdict,), _TILING)
    assert (fault is None and found == ()) or (fault is not None and len(found) == 1 and fault in found[0])


def test_librdkafka_settings_become_fausts() -> None:
    assert credentials({}) is None
    sasl = {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "u", "sasl.password": "p"}
    plain = credentials({"security.protocol": "sasl_plaintext", **sasl})
    assert isinstance(plain, faust.SASLCredentials)
    assert (plain.username, plain.password, plain.mechanism.value) == ("u", "p", "SCRAM-SHA-512")
    assert plain.ssl_context is None and plain.protocol.value == "SASL_PLAINTEXT"
    both = credentials({"security.protocol": "SASL_SSL", "sasl.mechanisms": "PLAIN", **sasl})
    assert isinstance(both, faust.SASLCredentials) and both.protocol.value == "SASL_SSL"
    assert both.ssl_context is not None and both.ssl_context.check_hostname


@pytest.mark.parametrize(
    ("config", "check_hostname", "verify_mode"),
    [
        ({}, True, ssl.CERT_REQUIRED),
        ({"ssl.endpoint.identification.algorithm": "none"}, False, ssl.CERT_REQUIRED),
        ({"enable.ssl.certificate.verification": "false"}, False, ssl.CERT_NONE),
    ],
)
def test_tls_is_as_strict_as_asked_for(
    config: dict[str, str], check_hostname: bool, verify_mode: ssl.VerifyMode
) -> None:
    found = credentials({"security.protocol": "ssl", **config})
    assert isinstance(found, faust.SSLCredentials)
    assert (found.context.check_hostname, found.context.verify_mode) == (check_hostname, verify_mode)


@pytest.mark.parametrize(
    "config",
    [
        {"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"},
        {"security.protocol": "SASL_PLAINTEXT"},  # librdkafka's default is GSSAPI
        {"security.protocol": "SSL", "ssl.keystore.location": "store.p12"},
        {"security.protocol": "SSL", "ssl.ca.location": "nowhere.pem"},
    ],
)
def test_what_faust_cannot_do_is_refused(config: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        credentials(config)
