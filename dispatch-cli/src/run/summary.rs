//! What a run did, said at its end.

use dispatch_core::pipeline::Summary;
use indicatif::HumanCount;
use serde_json::json;

use super::{Ended, Member};
use crate::{
    failure::Result,
    global::Global,
    output::{note, print_json, table},
};

/// Says what each pipeline did: a table where somebody watches, else a log line each, and JSON if asked for.
pub(crate) fn report(ended: &Ended, members: &[Member], global: &Global, watched: bool) -> Result<()> {
    if watched {
        note(&for_people(&ended.summaries, members));
    } else {
        for summary in &ended.summaries {
            tracing::info!(
                pipeline = %summary.name,
                received = summary.received,
                delivered = summary.delivered,
                failed = summary.failed,
                parked = summary.parked,
                nacked = summary.nacked,
                released = summary.released,
                dead_lettered = summary.dead_lettered,
                seconds = summary.seconds,
                finished = summary.finished,
                "summary"
            );
        }
    }
    if global.json {
        let finished = !ended.failed && ended.summaries.iter().all(|summary| summary.finished);
        print_json(&json!({ "finished": finished, "pipelines": ended.summaries }))?;
    }
    Ok(())
}

fn for_people(summaries: &[Summary], members: &[Member]) -> String {
    let mut rows = vec![
        [
            "pipeline",
            "received",
            "delivered",
            "failed attempts",
            "parked",
            "given back",
            "dead letters",
            "took",
            "rate",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for summary in summaries {
        let count = |count: u64| HumanCount(count).to_string();
        let rate = summary.delivered as f64 / summary.seconds.max(0.001);
        rows.push(vec![
            summary.name.to_string(),
            count(summary.received),
            count(summary.delivered),
            count(summary.failed),
            count(summary.parked),
            count(summary.nacked + summary.released),
            count(summary.dead_lettered),
            seconds(summary.seconds),
            format!("{}/s", rounded(rate)),
        ]);
    }
    let mut text = format!("\n{}", table(&rows));
    for summary in summaries {
        let file = members
            .iter()
            .find(|member| *member.handle.name() == summary.name)
            .map_or("FILE", |member| member.file.as_str());
        if summary.dead_lettered > 0 {
            text.push_str(&format!(
                "\n{} given up on and kept: dispatch dlq list -c {file}",
                plural(summary.dead_lettered, "message")
            ));
        }
        if let Some(why) = &summary.sink_gone {
            text.push_str(&format!("\n{}: {why}; what was not taken was given back", summary.name));
        } else if !summary.finished {
            text.push_str(&format!(
                "\n{}: not everything was finished in time; the rest was given back",
                summary.name
            ));
        }
    }
    text.trim_end().to_owned()
}

/// `1 message`, `2 messages`.
pub(crate) fn plural(count: u64, what: &str) -> String {
    format!("{} {what}{}", HumanCount(count), if count == 1 { "" } else { "s" })
}

/// A rate with as many digits as mean something.
pub(super) fn rounded(rate: f64) -> String {
    if rate < 10.0 {
        format!("{rate:.1}")
    } else {
        // A rate is no larger than a counter.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count in a second"
        )]
        HumanCount(rate.round() as u64).to_string()
    }
}

/// A length of time with as many digits as mean something.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    let whole = std::time::Duration::from_secs_f64(seconds.round());
    humantime::format_duration(whole).to_string()
}
