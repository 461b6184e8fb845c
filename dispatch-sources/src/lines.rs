//! What sources of lines have in common beside the framer: what a line must be, and what becomes of one that is not.

use std::time::{Duration, SystemTime};

use dispatch_core::{Attempt, Error, Headers, Message, config::BuildContext, store::DeadLetter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::framing::Fault;

/// What a line must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Any bytes up to a line feed; a carriage return before it is dropped. An empty line is an empty message.
    #[default]
    Lines,
    /// JSON. Blank lines are passed over.
    Ndjson,
}

impl Format {
    pub(crate) fn is_json(self) -> bool {
        self == Self::Ndjson
    }
}

/// The dead letter of a line that cannot be a message: no sink ever sees it, and nothing of it is lost but what
/// `max_line` cut.
pub(crate) fn rejected(context: &BuildContext, message: &Message, fault: &Fault) -> DeadLetter {
    let now = SystemTime::now();
    let error = Error::permanent(fault.clone()).with_code(match fault {
        Fault::TooLong { .. } => "line_too_long",
        Fault::NotJson(_) => "not_json",
        #[cfg(feature = "stdin")]
        Fault::Half => "half_line",
    });
    let mut metadata: Headers = message.metadata().clone();
    if let Fault::TooLong { length } = fault {
        metadata.insert("truncated_from", length.to_string());
    }
    DeadLetter {
        number: 0,
        pipeline: context.pipeline.clone(),
        source: context.component.clone(),
        id: message.id().clone(),
        payload: message.payload.clone(),
        headers: message.headers().clone(),
        metadata,
        key: None,
        reason: SmolStr::new_static("rejected"),
        attempts: vec![Attempt::failed(1, now, Duration::ZERO, &error)],
        trace_id: None,
        config_hash: SmolStr::default(),
        created_at: message.created_at(),
        died_at: now,
        replayed_at: None,
    }
}
