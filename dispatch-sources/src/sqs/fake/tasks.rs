//! Moving dead letters back.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ACCOUNT, Fake, REGION, State};

/// One `StartMessageMoveTask`.
#[derive(Debug)]
pub(super) struct MoveTask {
    pub(super) handle: String,
    pub(super) source: String,
    destination: Option<String>,
    /// A second; all at once without.
    rate: Option<u32>,
    started: Instant,
    pub(super) moved: u64,
    to_move: usize,
    pub(super) status: &'static str,
}

pub(super) fn arn(queue: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}")
}

pub(super) fn name_of(arn: &str) -> Option<&str> {
    let mut parts = arn.split(':');
    (parts.next() == Some("arn")).then_some(())?;
    parts.nth(4)
}

impl Fake {
    pub(super) fn start_move(
        &self,
        state: &mut State,
        source: &str,
        destination: Option<String>,
        rate: Option<u32>,
    ) -> String {
        state.serial += 1;
        let handle = format!("task-{}", state.serial);
        let task = MoveTask {
            handle: handle.clone(),
            source: source.to_owned(),
            destination,
            rate,
            started: self.now(state),
            moved: 0,
            to_move: state.queues.get(source).map_or(0, |queue| queue.visible()),
            status: "RUNNING",
        };
        state.tasks.push(task);
        self.run_moves(state);
        handle
    }

    /// Moves what is due by now.
    pub(super) fn run_moves(&self, state: &mut State) {
        let now = self.now(state);
        let State { queues, tasks, .. } = state;
        for task in tasks.iter_mut().filter(|task| task.status == "RUNNING") {
            let due = task.rate.map_or(u64::MAX, |rate| {
                u64::from(rate) * now.saturating_duration_since(task.started).as_secs()
            });
            while task.moved < due {
                let taken = queues.get_mut(&task.source).and_then(super::Queue::take_first);
                let Some((serial, mut held)) = taken else {
                    task.status = "COMPLETED";
                    break;
                };
                held.receives = 0;
                let home = task.destination.clone().or_else(|| held.died_in.clone());
                if let Some(queue) = home.and_then(|home| queues.get_mut(&home)) {
                    queue.adopt(serial, held, None);
                }
                task.moved += 1;
            }
        }
    }

    pub(super) fn moves_of(&self, state: &State, source: &str, max: usize) -> Vec<Value> {
        let of_source = state.tasks.iter().rev().filter(|task| task.source == source);
        of_source
            .take(max)
            .map(|task| {
                let mut entry = json!({
                    "Status": task.status,
                    "SourceArn": arn(&task.source),
                    "ApproximateNumberOfMessagesMoved": task.moved,
                    "ApproximateNumberOfMessagesToMove": task.to_move,
                    "StartedTimestamp": u64::try_from(self.epoch_millis(task.started)).unwrap_or_default(),
                });
                if task.status == "RUNNING" {
                    entry["TaskHandle"] = json!(task.handle);
                }
                if let Some(destination) = &task.destination {
                    entry["DestinationArn"] = json!(arn(destination));
                }
                if let Some(rate) = task.rate {
                    entry["MaxNumberOfMessagesPerSecond"] = json!(rate);
                }
                entry
            })
            .collect()
    }
}

/// Seconds as SQS takes them.
pub(super) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
