//! One task on its way through the pool.

use std::time::Duration;

use dispatch_core::{
    Message, Reply,
    tasks::{OnDuplicate, with_members},
};
use smol_str::SmolStr;
use tokio::{sync::oneshot, time::Instant};

use super::{ProcessSinkError, cancel::Cancel, wire};

/// The tasks that wait in a worker are no larger in all: a note to it must always find room in its pipe (64 KiB). So a longer
/// one is not held behind another, whoever holds it.
pub(super) const HELD_BYTES: usize = 32 * 1024;

/// What becomes of a task.
pub(super) type Outcome = Result<Reply, ProcessSinkError>;

/// A task that waits for a worker, waits in one, or is at work.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) message: Message,
    pub(super) task: SmolStr,
    pub(super) uuid: SmolStr,
    /// Whether the message itself has no uuid, so that its id is added.
    adds_uuid: bool,
    /// How long it may be at work.
    pub(super) timeout: Option<Duration>,
    /// Whether it goes to an idle worker only.
    pub(super) alone: bool,
    pub(super) cancel: Option<Cancel>,
    /// When its worker was last asked to give it back, for another that is idle.
    pub(super) recalled: Option<Instant>,
    pub(super) answer: oneshot::Sender<Outcome>,
}

impl Job {
    /// Reads `message`; what becomes of it comes out of the receiver.
    pub(super) fn new(message: &Message) -> Result<(Self, oneshot::Receiver<Outcome>), ProcessSinkError> {
        let task = wire::task(message)?;
        let (answer, receiver) = oneshot::channel();
        let adds_uuid = task.uuid.is_none();
        // The id is shared where it is the same text.
        let uuid = task.uuid.filter(|uuid| **uuid != **message.id());
        let job = Self {
            uuid: uuid.map_or_else(|| message.id().clone(), SmolStr::from),
            adds_uuid,
            task: task.task.into(),
            timeout: task.timeout,
            alone: task.on_duplicate != OnDuplicate::Parallel || message.payload.len() > HELD_BYTES,
            cancel: None,
            recalled: None,
            answer,
            // Shared, for what was read is a part of it.
            message: message.clone(),
        };
        Ok((job, receiver))
    }

    /// Adds its frame.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let uuid = self.adds_uuid.then_some(self.uuid.as_str());
        wire::write_task(out, &self.message.payload, uuid, self.message.attempt);
    }

    /// Adds a note about it.
    pub(super) fn write_note(&self, out: &mut Vec<u8>, kind: &str) {
        wire::write_note(out, kind, &[&serde_json::Value::from(self.uuid.as_str()).to_string()]);
    }

    /// The message as JSON, as its worker sees it.
    pub(super) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.message.payload);
        if self.adds_uuid {
            with_members(&text, &[("uuid", &self.uuid)])
        } else {
            text.into_owned()
        }
    }
}
