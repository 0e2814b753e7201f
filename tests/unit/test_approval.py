"""What counts as an approval, with real signatures, and everything that does not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from signing import DELEGATE, OWNER, Keys, make_keys

from reshelve.approval.circumstances import clean_since
from reshelve.approval.decision import Decision, Given, Use, Wanted, decide
from reshelve.approval.payload import NAMESPACE, Payload, expiry, new_nonce
from reshelve.errors import BlockedError
from reshelve.journal import Event
from reshelve.model import RunId
from reshelve.signatures import Signers, principals, sign, verify

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WANTED = Wanted(
    action="run",
    level="signed",
    run="cities.1",
    reindex="cities",
    alias="cities",
    plan="a" * 64,
    kafka="K1",
    opensearch="O1",
    previous_uuid="U1",
    index_uuid="U2",
    validations={"h1": 7, "h2": 9},
    people=frozenset({OWNER, DELEGATE}),
    longest=timedelta(hours=72),
)
RUN = Payload("run", OWNER, "cities", "cities", "a" * 64, "K1", "O1", "U1", new_nonce(), expiry(NOW, 72))
SWAP = replace(RUN, action="cutover", run="cities.1", index_uuid="U2", validation="h2", clock=9)
SWAPPING = replace(WANTED, action="cutover")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


def _decide(
    given: Given, wanted: Wanted = WANTED, now: datetime = NOW, used: Mapping[str, Use] | None = None
) -> Decision:
    return decide(wanted, [given], now, used or {})


def test_the_signed_bytes_are_canonical() -> None:
    data = RUN.encode()
    assert (
        data.endswith(b'"validation":null}\n') and b" " not in data.replace(b"\n", b"") and Payload.decode(data) == RUN
    )
    for other in (data[:-1], data.replace(b":", b": ", 1), b"{}\n", b"[]\n", data.replace(b'"v":1', b'"v":2')):
        with pytest.raises(ValueError):
            Payload.decode(other)


def test_an_approval_of_owner_or_delegate_counts(keys: Keys) -> None:
    found = _decide(keys.given(RUN))
    assert found.accepted == RUN and found.key.startswith("SHA256:")
    assert _decide(keys.given(replace(RUN, approver=DELEGATE), "bob")).accepted is not None
    assert _decide(keys.given(SWAP), SWAPPING).accepted == SWAP


def test_a_forged_or_foreign_signature_does_not(keys: Keys) -> None:
    """Another key in the owner's name; one who is nobody in the spec; a good one for something else."""
    assert "signature is not good" in _decide(keys.given(RUN, "mallory")).why
    assert "signature is not good" in _decide(keys.given(RUN, "bob")).why  # a signer, but not this one
    assert "signature is not good" in _decide(keys.given(RUN, namespace="git")).why
    carol = replace(RUN, approver="carol@example.com")
    found = _decide(keys.given(carol, "mallory"))
    assert "neither the spec's owner nor a delegate" in found.why and found.accepted is None
    changed = replace(keys.given(RUN), payload=replace(RUN, plan="b" * 64).encode())
    genuine = keys.given(RUN)
    signature = sign(genuine.payload, keys.key("alice"), NAMESPACE)
    verdict = verify(changed.payload, signature, principal=OWNER, namespace=NAMESPACE, signers=keys.signers)
    assert not verdict.good


def test_a_signer_who_is_nobody_in_the_spec_does_not_count(keys: Keys) -> None:
    assert "neither" in _decide(keys.given(RUN), replace(WANTED, people=frozenset({DELEGATE}))).why


def test_a_revoked_key_or_one_whose_time_is_over_is_not_good(keys: Keys, tmp_path: Path) -> None:
    revoked = tmp_path / "revoked"
    revoked.write_text(keys.public("alice") + "\n")
    revoked.chmod(0o644)
    assert not _decide(keys.given(RUN, signers=Signers(keys.signers.allowed, revoked))).accepted
    past = tmp_path / "past"
    past.write_text(f'{OWNER} valid-before="20200101" {keys.public("alice")}\n')
    past.chmod(0o644)
    assert not _decide(keys.given(RUN, signers=Signers(past))).accepted


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"plan": "b" * 64}, "another plan"),
        ({"alias": "towns"}, "alias towns"),
        ({"kafka": "K2"}, "another Kafka cluster"),
        ({"opensearch": "O2"}, "another OpenSearch cluster"),
        ({"previous_uuid": None}, "another index"),
        ({"expires": expiry(NOW, -0.1)}, "expired"),
        ({"expires": expiry(NOW, 73)}, "longer than approval.valid_hours"),
    ],
)
def test_what_it_is_bound_to_may_not_differ(keys: Keys, changes: dict[str, str], why: str) -> None:
    found = _decide(keys.given(replace(RUN, **changes)))  # type: ignore[arg-type]
    assert found.accepted is None and why in found.why
    assert (found.other_plan == 0) == (why == "another plan")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"run": "cities.2"}, "run cities.2"),
        ({"index_uuid": "U3"}, "another index"),
        ({"validation": "h0"}, "not clean"),
        ({"validation": None}, "not clean"),
        ({"clock": 8}, "another clock"),
    ],
)
def test_the_approval_of_a_swap_is_bound_to_what_was_validated(keys: Keys, changes: dict[str, str], why: str) -> None:
    found = _decide(keys.given(replace(SWAP, **changes)), SWAPPING)  # type: ignore[arg-type]
    assert found.accepted is None and why in found.why


def test_run_and_swap_are_approved_apart(keys: Keys) -> None:
    for given, wanted in ((RUN, SWAPPING), (SWAP, WANTED), (RUN, replace(WANTED, reindex="towns"))):
        found = _decide(keys.given(given), wanted)
        assert found.accepted is None and found.why == "nobody has approved it"


def test_a_nonce_is_good_for_one_run_which_may_go_on_with_it(keys: Keys) -> None:
    given = keys.given(RUN)
    assert "used by run cities.0" in _decide(given, used={RUN.nonce: Use("cities.0", NOW)}).why
    later = NOW + timedelta(days=30)
    assert "expired" in _decide(given, now=later).why
    assert _decide(given, now=later, used={RUN.nonce: Use("cities.1", NOW)}).accepted
    assert "expired" in _decide(given, now=later, used={RUN.nonce: Use("cities.1", later)}).why


def test_a_name_is_enough_where_no_signature_is_required(keys: Keys) -> None:
    unsigned = Given(NOW.isoformat(), RUN.encode())
    assert "not signed" in _decide(unsigned).why
    named = replace(WANTED, level="named")
    assert _decide(unsigned, named).accepted == RUN
    assert "neither" in _decide(Given(NOW.isoformat(), replace(RUN, approver="eve").encode()), named).why


def test_the_newest_that_counts_is_taken_and_every_reason_told(keys: Keys) -> None:
    old, other = keys.given(RUN), keys.given(replace(RUN, plan="b" * 64, nonce=new_nonce()))
    found = decide(WANTED, [old, keys.given(replace(RUN, nonce="n2")), other], NOW, {})
    assert found.accepted is not None and found.accepted.nonce == "n2" and found.given == 1
    garbage = Given("2026-01-03", b"garbage")
    found = decide(WANTED, [other, garbage], NOW, {})
    assert found.other_plan == 0 and "can't be read" in found.why and "another plan" in found.why


def test_of_many_reasons_the_newest_are_told(keys: Keys) -> None:
    many = [Given(NOW.isoformat(), replace(RUN, approver=f"eve{number}").encode()) for number in range(9)]
    why = decide(replace(WANTED, level="named"), many, NOW, {}).why
    assert "eve8" in why and "eve5" not in why and why.endswith("and 6 older ones")


def test_who_is_in_the_file_of_the_signers() -> None:
    text = '# people\n\nalice@example.com,!eve@* ssh-ed25519 AAAA\n"bob b,*@ops" namespaces="x" ssh-ed25519 AAAA\n'
    assert principals(text) == ["alice@example.com", "bob b", "*@ops"]


def test_a_file_that_others_may_write_is_trusted_by_nobody(keys: Keys, tmp_path: Path) -> None:
    open_to_all = tmp_path / "allowed"
    shutil.copy(keys.signers.allowed, open_to_all)
    open_to_all.chmod(0o666)
    with pytest.raises(BlockedError, match="cannot verify") as caught:
        keys.given(RUN, signers=Signers(open_to_all))
    assert "chmod go-w" in caught.value.remedy
    with pytest.raises(BlockedError, match="cannot verify"):
        keys.given(RUN, signers=Signers(tmp_path / "none"))


def test_without_ssh_keygen_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BlockedError, match="no ssh-keygen"):
        sign(b"", tmp_path / "key", NAMESPACE)


def test_a_validation_counts_until_one_finds_a_difference() -> None:
    run = RunId("cities", "1")
    events: list[Event] = []
    for version, clean in ((5, True), (6, False), (7, True), (None, True)):
        last = events[-1] if events else None
        events.append(Event.after(last, run, "validated", {"clean": clean, "version": version}, NOW))
    assert clean_since(events[:1]) == {events[0].hash: 5}
    assert clean_since(events[:2]) == {}
    assert clean_since(events) == {events[2].hash: 7, events[3].hash: None}
