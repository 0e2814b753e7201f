"""Who waits for a run is told how it ended: by a CloudEvent, to a topic, to webhooks, to commands.

`event` says what (pure), `delivery` brings it, `announce` decides whether there is something to say."""
