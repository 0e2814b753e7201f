"""Real servers on this machine without Docker: PostgreSQL, Kafka and OpenSearch from pinned packages."""
