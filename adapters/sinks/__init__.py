"""Places to send events to: a webhook, the log, and a JetStream of NATS.

Each function makes a `Sink` for `App(sinks=[...])`. What a sink needs beyond the standard installation is imported when
it is opened: `webhook` the extra `[http]`, `jetstream` the extra `[nats]`.
"""

from adapters.sinks.jetstream import JetStreamSink, jetstream
from adapters.sinks.log import LogSink, log_events
from adapters.sinks.signatures import SIGNATURE_HEADER, sign, verify
from adapters.sinks.webhook import AddressRefused, WebhookRefused, WebhookSink, webhook

__all__ = [
    "SIGNATURE_HEADER",
    "AddressRefused",
    "JetStreamSink",
    "LogSink",
    "WebhookRefused",
    "WebhookSink",
    "jetstream",
    "log_events",
    "sign",
    "verify",
    "webhook",
]
