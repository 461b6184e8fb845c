//! What the sinks are working on, for those who ask.

use dispatch_core::pipeline::{InProgress, Status};
use futures::future::join_all;
use serde::Serialize;

use super::Member;

/// How each pipeline is, and what it is working on. A driver that does not turn takes a second.
pub(crate) async fn at_work(members: &[Member]) -> Vec<AtWork> {
    let all = members.iter().map(async |member| {
        let work = member.handle.in_progress().await;
        AtWork {
            status: member.handle.status(),
            in_progress: work.iter().map(Work::of).collect(),
        }
    });
    join_all(all).await
}

/// A pipeline as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct AtWork {
    #[serde(flatten)]
    status: Status,
    in_progress: Vec<Work>,
}

/// A message at the sink; its payload and headers are nobody's business here.
#[derive(Debug, Serialize)]
struct Work {
    id: String,
    source: String,
    attempt: u32,
    since: String,
    seconds: f64,
}

impl Work {
    fn of(one: &InProgress) -> Self {
        Self {
            id: one.message.id().to_string(),
            source: one.source.to_string(),
            attempt: one.message.attempt,
            since: humantime::format_rfc3339_millis(one.started_at).to_string(),
            seconds: one.started_at.elapsed().unwrap_or_default().as_secs_f64(),
        }
    }
}
