"""How a verb that takes a run finds Kafka: the journal there tells it everything else. Some take a spec as well."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from reshelve.errors import UsageError
from reshelve.kafka import KafkaCluster
from reshelve.redaction import remember_secret
from reshelve.spec import Spec, load
from reshelve.spec.secrets import is_secret_setting

CLUSTER_VARIABLE: Final = "RESHELVE_KAFKA"
"""Set by `reshelve run` for its workers: JSON of bootstrap and config."""

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run as `reshelve runs` lists it, or a reindex for its newest run.")
]
BootstrapOption = Annotated[
    str | None,
    typer.Option("--kafka", envvar="KAFKA_BOOTSTRAP", metavar="HOST:PORT", help="The brokers that hold the journal."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--kafka-config",
        envvar="KAFKA_CONFIG",
        metavar="FILE",
        help="librdkafka settings (TLS, SASL, …), one key=value a line.",
    ),
]


def cluster_of(bootstrap: str | None, config: Path | None) -> KafkaCluster:
    """The cluster that the options or the environment name. Raises UsageError."""
    inherited = os.environ.get(CLUSTER_VARIABLE)
    if inherited:
        try:
            fields = json.loads(inherited)
        except ValueError:
            raise UsageError(
                f"{CLUSTER_VARIABLE} is not what `reshelve run` hands to its workers",
                remedy="unset it, and name the brokers by --kafka or KAFKA_BOOTSTRAP",
            ) from None
        _remember_secrets(fields["config"])
        return KafkaCluster(fields["bootstrap"], fields["config"])
    if not bootstrap:
        raise UsageError(
            "it is not known where Kafka is",
            why="neither --kafka nor KAFKA_BOOTSTRAP is given",
            remedy='name the brokers, or run `eval "$(reshelve local env)"` for the local stack',
        )
    settings = {} if config is None else read_properties(config)
    _remember_secrets(settings)
    return KafkaCluster(bootstrap, settings)


def spec_or_cluster(
    name: str, environment: str | None, bootstrap: str | None, config: Path | None
) -> tuple[Spec | None, KafkaCluster]:
    """The spec, where `name` is the file of one, and the cluster that holds the journal: the spec's, or that of the
    options. `environment` is one of the spec's. Raises UsageError, SpecError."""
    file = Path(name)
    if file.suffix not in (".yaml", ".yml") and not file.is_file():
        return None, cluster_of(bootstrap, config)
    spec = load(file, environment=environment)
    return spec, KafkaCluster(spec.kafka.bootstrap, spec.kafka.config)


def _remember_secrets(settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        if is_secret_setting(name):
            remember_secret(value)


def cluster_environment(cluster: KafkaCluster) -> dict[str, str]:
    """The variable that hands the cluster to a worker."""
    return {CLUSTER_VARIABLE: json.dumps({"bootstrap": cluster.bootstrap, "config": dict(cluster.config)})}


def read_properties(file: Path) -> dict[str, str]:
    """key=value lines; empty lines and lines that begin with # don't count. Raises UsageError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {file}", why=str(error), remedy="name a file of key=value lines") from None
    settings: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{file}:{number} is not key=value", remedy="write one librdkafka setting a line")
        settings[key.strip()] = value.strip()
    return settings
