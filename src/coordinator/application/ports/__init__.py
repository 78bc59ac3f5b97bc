"""The ports: the application's needs from the outside, as Protocols. `runtime.bootstrap` wires the adapters.

`EventLog` and `Database` are synchronous and are called in threads; all ports to a broker are asynchronous.
Import them from here; each module has those of one subject.
"""

from coordinator.application.ports.blobs import BlobName as BlobName
from coordinator.application.ports.blobs import BlobRemoval as BlobRemoval
from coordinator.application.ports.blobs import BlobSink as BlobSink
from coordinator.application.ports.blobs import BlobSource as BlobSource
from coordinator.application.ports.clock import Clock as Clock
from coordinator.application.ports.commands import CoordinatorRuns as CoordinatorRuns
from coordinator.application.ports.commands import Gateway as Gateway
from coordinator.application.ports.commands import Intent as Intent
from coordinator.application.ports.dead_letters import DeadLetter as DeadLetter
from coordinator.application.ports.dead_letters import DeadLetters as DeadLetters
from coordinator.application.ports.dead_letters import Replayed as Replayed
from coordinator.application.ports.log import Appended as Appended
from coordinator.application.ports.log import EventLog as EventLog
from coordinator.application.ports.log import LogError as LogError
from coordinator.application.ports.log import LogUnavailable as LogUnavailable
from coordinator.application.ports.log import NewEvent as NewEvent
from coordinator.application.ports.log import Page as Page
from coordinator.application.ports.log import PayloadKind as PayloadKind
from coordinator.application.ports.log import Recorded as Recorded
from coordinator.application.ports.log import StoredPayload as StoredPayload
from coordinator.application.ports.log import VersionConflict as VersionConflict
from coordinator.application.ports.queues import BrokerMismatch as BrokerMismatch
from coordinator.application.ports.queues import EventSink as EventSink
from coordinator.application.ports.queues import Hints as Hints
from coordinator.application.ports.queues import TakenOffer as TakenOffer
from coordinator.application.ports.queues import Waiter as Waiter
from coordinator.application.ports.queues import WorkQueues as WorkQueues
from coordinator.application.ports.sinks import Final as Final
from coordinator.application.ports.sinks import Gone as Gone
from coordinator.application.ports.sinks import Pending as Pending
from coordinator.application.ports.sinks import PollAnswer as PollAnswer
from coordinator.application.ports.sinks import PreparedPayment as PreparedPayment
from coordinator.application.ports.sinks import SettlementSink as SettlementSink
from coordinator.application.ports.sinks import SinkBatch as SinkBatch
from coordinator.application.ports.sinks import SinkHistory as SinkHistory
from coordinator.application.ports.sinks import SinkRefused as SinkRefused
from coordinator.application.ports.sinks import SinkUnavailable as SinkUnavailable
from coordinator.application.ports.sinks import SubmitAnswer as SubmitAnswer
from coordinator.application.ports.sinks import Submitted as Submitted
from coordinator.application.ports.sinks import Unknown as Unknown
from coordinator.application.ports.tables import Database as Database
from coordinator.application.ports.tables import Leadership as Leadership
from coordinator.application.ports.tables import PositionMoved as PositionMoved
from coordinator.application.ports.tables import Row as Row
from coordinator.application.ports.tables import TableCheck as TableCheck
from coordinator.application.ports.tables import TableChecks as TableChecks
from coordinator.application.ports.tables import Tables as Tables
from coordinator.application.ports.tables import Watermarks as Watermarks
