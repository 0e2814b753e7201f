from __future__ import annotations

import pytest
from opensearchpy.exceptions import SSLError

from reshelve.consumers.opensearch import refusal
from reshelve.errors import AccessRefused, Unreachable


@pytest.mark.parametrize(
    "words",
    [
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1006)",
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: IP address mismatch",
        "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)",
        "[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version (_ssl.c:1006)",
    ],
)
def test_a_refusal_by_tls_is_for_somebody_to_correct(words: str) -> None:
    assert isinstance(refusal(SSLError("N/A", words, Exception(words)), "w", "h"), AccessRefused)


@pytest.mark.parametrize(
    "words",
    [
        "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1006)",
        "EOF occurred in violation of protocol (_ssl.c:2427)",
        "TLS/SSL connection has been closed (EOF) (_ssl.c:1006)",
    ],
)
def test_a_connection_that_is_cut_in_tls_passes_by_itself(words: str) -> None:
    assert isinstance(refusal(SSLError("N/A", words, Exception(words)), "w", "h"), Unreachable)
