"""Every test of the suite, for a test module that wants them in one line; a topic alone is one of these modules."""

from adapters.conformance.store.backlog import *
from adapters.conformance.store.claims import *
from adapters.conformance.store.creations import *
from adapters.conformance.store.foreign_appends import *
from adapters.conformance.store.handing_back import *
from adapters.conformance.store.heartbeats import *
from adapters.conformance.store.hints import *
from adapters.conformance.store.histories import *
from adapters.conformance.store.jobs import *
from adapters.conformance.store.keys import *
from adapters.conformance.store.listings import *
from adapters.conformance.store.logs import *
from adapters.conformance.store.notes import *
from adapters.conformance.store.outbox import *
from adapters.conformance.store.owned_appends import *
from adapters.conformance.store.payloads import *
from adapters.conformance.store.polls import *
from adapters.conformance.store.races import *
from adapters.conformance.store.repairs import *
from adapters.conformance.store.schedules import *
from adapters.conformance.store.sessions import *
from adapters.conformance.store.storms import *
from adapters.conformance.store.unparking import *
from adapters.conformance.store.workflows import *
