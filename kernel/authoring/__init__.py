"""Writing workflows: stages, contexts, builders, and what they are checked for.

Everything here describes; nothing here runs a body or stores a value.
"""

from kernel.authoring.annotations import (
    Actor,
    Approval,
    Attributes,
    Decision,
    NewAnnotations,
    Revision,
    Trigger,
    TypedKey,
)
from kernel.authoring.builder import Inferred, WorkflowBuilder
from kernel.authoring.config import AIConfig, ConcurrencyConfig, DebugConfig, FeatureFlagsConfig, StandardConfig
from kernel.authoring.context import BodyCancelled, BodyIdentity, BodyPort, CheckContext, NoConfig, StageContext
from kernel.authoring.decorators import batch_stage, stage
from kernel.authoring.fingerprints import definition_difference
from kernel.authoring.outputs import Outputs
from kernel.authoring.plugins import Plugin, plugin
from kernel.authoring.results import Failed, NotReady, Ready, StageResult, Suspend
from kernel.authoring.schema import Payload, Schema
from kernel.authoring.stage import BatchStage, Stage
from kernel.authoring.stage_ids import (
    StageId,
    assert_valid_stage_id,
    define_stage_ids,
    is_valid_stage_id,
    stage_id_enum,
)
from kernel.authoring.steps import RecordedStep, StepJournal
from kernel.authoring.storage import BlockingBlobs, BlockingStorage, Storage
from kernel.authoring.workflow import Workflow

__all__ = [
    "AIConfig",
    "Actor",
    "Approval",
    "Attributes",
    "BatchStage",
    "BlockingBlobs",
    "BlockingStorage",
    "BodyCancelled",
    "BodyIdentity",
    "BodyPort",
    "CheckContext",
    "ConcurrencyConfig",
    "DebugConfig",
    "Decision",
    "Failed",
    "FeatureFlagsConfig",
    "Inferred",
    "NewAnnotations",
    "NoConfig",
    "NotReady",
    "Outputs",
    "Payload",
    "Plugin",
    "Ready",
    "RecordedStep",
    "Revision",
    "Schema",
    "Stage",
    "StageContext",
    "StageId",
    "StageResult",
    "StandardConfig",
    "StepJournal",
    "Storage",
    "Suspend",
    "Trigger",
    "TypedKey",
    "Workflow",
    "WorkflowBuilder",
    "assert_valid_stage_id",
    "batch_stage",
    "define_stage_ids",
    "definition_difference",
    "is_valid_stage_id",
    "plugin",
    "stage",
    "stage_id_enum",
]
