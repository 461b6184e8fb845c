//! Dead letters: which, how they are shown, how they are put back to work.

use std::time::{Duration, SystemTime};

use clap::Args;
use dispatch_core::{
    Error, Store,
    config::Rate,
    pipeline::parked_queue,
    store::{DeadLetter, DeadLetterFilter},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

/// Which dead letters: all that are not yet replayed, less what these leave out.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Selection {
    /// Only this pipeline's
    #[arg(long, value_name = "NAME")]
    pub(crate) pipeline: Option<String>,
    /// Only those whose last attempt had this class: retry, throttled, unavailable or permanent
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<String>,
    /// Only those whose last attempt had this code, such as an HTTP status
    #[arg(long, value_name = "CODE")]
    pub(crate) code: Option<String>,
    /// Only those with this reason: permanent, exhausted, deadline or rejected
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: Option<String>,
    /// Given up on at this time or later: 2026-01-31T12:00:00Z, or 1h for an hour ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) since: Option<SystemTime>,
    /// Given up on before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) until: Option<SystemTime>,
    /// Only these numbers, as `dlq list` shows them
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    pub(crate) id: Vec<u64>,
    /// Those already replayed as well
    #[arg(long = "all")]
    pub(crate) replayed: bool,
}

impl Selection {
    pub(crate) fn filter(&self) -> DeadLetterFilter {
        let text = |text: &Option<String>| text.as_deref().map(Into::into);
        DeadLetterFilter {
            numbers: self.id.clone(),
            pipeline: text(&self.pipeline),
            class: text(&self.class),
            code: text(&self.code),
            reason: text(&self.reason),
            since: self.since,
            until: self.until,
            with_replayed: self.replayed,
        }
    }
}

/// Reads a time, or how long ago it was.
pub(crate) fn parse_time(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    humantime::parse_duration(text)
        .ok()
        .and_then(|ago| SystemTime::now().checked_sub(ago))
        .ok_or_else(|| format!("\"{text}\" is no time: write 2026-01-31T12:00:00Z, or 1h for an hour ago"))
}

/// A time as people write it.
pub(crate) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// A letter as JSON, with times that people can read. The payload is a text, or `{"base64": …}` where it is none, so
/// that no byte is lost.
pub(crate) fn view(letter: &DeadLetter) -> Value {
    let mut value = serde_json::to_value(letter).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        let replayed = letter.replayed_at.map(time);
        fields.insert("created_at".to_owned(), time(letter.created_at).into());
        fields.insert("died_at".to_owned(), time(letter.died_at).into());
        fields.insert("replayed_at".to_owned(), replayed.into());
        let attempts = letter.attempts.iter().map(|attempt| {
            json!({
                "number": attempt.number, "at": time(attempt.at), "seconds": attempt.duration.as_secs_f64(),
                "class": attempt.class, "code": attempt.code, "text": attempt.text,
            })
        });
        fields.insert("attempts".to_owned(), attempts.collect());
    }
    value
}

/// The letter with this number, replayed or not.
pub(crate) async fn one(store: &dyn Store, number: u64) -> Result<Option<DeadLetter>, Error> {
    let filter = DeadLetterFilter {
        numbers: vec![number],
        with_replayed: true,
        ..DeadLetterFilter::default()
    };
    Ok(store.dead_letters().list(&filter, 0, 1).await?.pop())
}

/// How many letters go in one transaction.
const BATCH: usize = 100;

/// Puts the letters that match back to work, at most at `rate`, and says how many went. Whoever is interrupted starts
/// again: what was replayed is marked and passed over. Letters that die during the replay are left for the next one.
pub(crate) async fn replay(
    store: &dyn Store,
    filter: &DeadLetterFilter,
    rate: Option<Rate>,
    mut went: impl FnMut(u64),
) -> Result<u64, Error> {
    let mut filter = filter.clone();
    let now = SystemTime::now();
    filter.until = Some(filter.until.map_or(now, |until| until.min(now)));
    // Those already replayed would be passed over one by one.
    filter.with_replayed = false;
    let interval = rate.map(|rate| rate.per / rate.count);
    let batch = interval.map_or(BATCH, batch_of);
    let (mut after, mut total, mut next) = (0, 0, Instant::now());
    loop {
        let letters = store.dead_letters().list(&filter, after, batch).await?;
        let Some(last) = letters.last() else { return Ok(total) };
        after = last.number;
        if let Some(interval) = interval {
            sleep_until(next).await;
            next = next.max(Instant::now()) + interval * u32::try_from(letters.len()).unwrap_or(u32::MAX);
        }
        let mut pipelines: Vec<_> = letters.iter().map(|letter| &letter.pipeline).collect();
        pipelines.sort_unstable();
        pipelines.dedup();
        for pipeline in pipelines {
            let own = letters.iter().filter(|letter| letter.pipeline == *pipeline);
            let numbers: Vec<_> = own.map(|letter| letter.number).collect();
            total += store.dead_letters().replay(&numbers, &parked_queue(pipeline)).await?;
        }
        went(total);
    }
}

/// What goes in a tenth of a second, so that a rate is kept smoothly.
fn batch_of(interval: Duration) -> usize {
    let in_a_tenth = Duration::from_millis(100).as_nanos() / interval.as_nanos().max(1);
    usize::try_from(in_a_tenth).unwrap_or(BATCH).clamp(1, BATCH)
}
