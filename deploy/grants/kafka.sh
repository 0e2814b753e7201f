#!/bin/sh
# The least that Reshelve needs of Kafka. Workers on other machines need no Create and Delete.
: "${BOOTSTRAP:?host:port of a broker}"
acl() { kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --add --allow-principal User:reshelve "$@"; }
# the run's topics
acl --topic reshelve.cities. --resource-pattern-type prefixed --operation Create --operation Delete --operation Describe --operation Read --operation Write
# the journal, which all reindexes share
acl --topic reshelve.journal --operation Create --operation Describe --operation Read --operation Write
# leases, and the groups of the roles
acl --group reshelve.cities. --resource-pattern-type prefixed --operation Describe --operation Read --operation Delete
# reads without ever joining
acl --group reshelve.reader --operation Describe --operation Read
# pages, keys and tasks
acl --transactional-id reshelve.cities. --resource-pattern-type prefixed --operation Describe --operation Write
