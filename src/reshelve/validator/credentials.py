"""The spec's librdkafka settings in the terms of Faust's own Kafka client."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final

import faust

from reshelve.errors import UsageError

_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_UNKNOWN: Final = (
    "ssl.keystore.location",
    "ssl.certificate.pem",
    "ssl.key.pem",
    "ssl.engine.location",
    "ssl.providers",
)


def credentials(config: Mapping[str, str]) -> faust.auth.Credentials | None:
    """None for a plain connection. Raises UsageError for what Faust's client can't do: better than to
    connect in another way than the spec says."""
    protocol = config.get("security.protocol", "plaintext").upper()
    if protocol == "PLAINTEXT":
        return None
    context = _tls(config) if protocol.endswith("SSL") else None
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    mechanism = config.get("sasl.mechanism", config.get("sasl.mechanisms", "GSSAPI")).upper()
    if protocol not in ("SASL_PLAINTEXT", "SASL_SSL") or mechanism not in _MECHANISMS:
        raise _unsupported(f"security.protocol {protocol} with sasl.mechanism {mechanism}")
    return faust.SASLCredentials(
        username=config.get("sasl.username"),
        password=config.get("sasl.password"),
        mechanism=mechanism,
        ssl_context=context,
    )


def _tls(config: Mapping[str, str]) -> ssl.SSLContext:
    for setting in _UNKNOWN:
        if config.get(setting):
            raise _unsupported(setting)
    try:
        context = ssl.create_default_context(cafile=config.get("ssl.ca.location"), cadata=config.get("ssl.ca.pem"))
        if certificate := config.get("ssl.certificate.location"):
            password = config.get("ssl.key.password")
            context.load_cert_chain(certificate, config.get("ssl.key.location"), password)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            "the validator can't set up TLS for Kafka",
            where="kafka.config",
            why=str(error),
            remedy="correct ssl.ca.location, ssl.certificate.location and ssl.key.location (PEM files)",
        ) from error
    if config.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif config.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        context.check_hostname = False
    return context


def _unsupported(setting: str) -> UsageError:
    return UsageError(
        "the validator can't connect to Kafka in this way",
        where="kafka.config",
        why=f"Faust's client does not know {setting}",
        remedy=f"use PEM files for TLS and one of {', '.join(_MECHANISMS)} for SASL",
    )
