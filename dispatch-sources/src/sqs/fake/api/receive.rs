//! What is received, and the wait for it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{queue, read};
use crate::sqs::fake::{
    Fake, State,
    queue::md5_hex,
    tasks::{arn, seconds},
    wire::{Receive, Received, Refusal, Result},
};

impl Fake {
    /// Waits for messages as long as the request says.
    pub(super) async fn receive(&self, ask: Receive) -> Result<Vec<u8>> {
        let max = ask.max_number_of_messages.unwrap_or(1);
        let wait = ask.wait_time_seconds.unwrap_or(0);
        if !(1..=10).contains(&max) || wait > 20 {
            return Err(Refusal::new("InvalidParameterValue", "a number is out of range"));
        }
        let ends = {
            let state = self.state();
            self.now(&state) + seconds(wait)
        };
        loop {
            let (changed, moved, wake) = {
                let mut state = self.state();
                let now = self.now(&state);
                let (answer, changed, next) = take(self, &mut state, &ask, max, now)?;
                if let Some(answer) = answer {
                    return Ok(answer);
                }
                if now >= ends {
                    return Ok(b"{}".to_vec());
                }
                let wake = next.map_or(ends, |next| next.min(ends));
                // Made before the state is let go, so that nothing is missed.
                let wake = wake.checked_sub(state.ahead).unwrap_or(wake);
                (changed.notified_owned(), self.0.moved.notified(), wake)
            };
            tokio::select! {
                () = changed => {}
                () = moved => {}
                () = sleep_until(wake) => {}
            }
        }
    }
}

/// The answer with sums that are not those of its bodies.
pub(super) fn wrong_md5(answer: &[u8]) -> Result<Vec<u8>> {
    let mut answer: Value = read(answer)?;
    for message in answer["Messages"].as_array_mut().into_iter().flatten() {
        message["MD5OfBody"] = json!(md5_hex("something else"));
    }
    Ok(answer.to_string().into_bytes())
}

type Notify = std::sync::Arc<tokio::sync::Notify>;

/// What is there now, as an answer; else what to wait for.
fn take(
    fake: &Fake,
    state: &mut State,
    ask: &Receive,
    max: usize,
    now: Instant,
) -> Result<(Option<Vec<u8>>, Notify, Option<Instant>)> {
    let from = queue(state, &ask.queue_url)?;
    let visibility = ask.visibility_timeout.map_or(from.options.visibility, seconds);
    if from.is_at_its_limit() {
        if !from.fifo && ask.wait_time_seconds.unwrap_or_default() == 0 {
            return Err(Refusal::new("OverLimit", "too many messages are in flight"));
        }
        return Ok((None, from.changed.clone(), from.next()));
    }
    let (taken, dead) = from.receive(max, visibility, now);
    let (changed, next) = (from.changed.clone(), from.next());
    if !dead.is_empty() {
        let (died_in, to) = (from.name.clone(), from.options.redrive.clone());
        if let Some(letters) = to.and_then(|(to, _)| state.queues.get_mut(&to)) {
            for (serial, held) in dead {
                letters.adopt(serial, held, Some(died_in.clone()));
            }
        }
        if taken.is_empty() {
            // What was there has died; there may be more behind it.
            return take(fake, state, ask, max, now);
        }
    }
    if taken.is_empty() {
        return Ok((None, changed, next));
    }
    let from = queue(state, &ask.queue_url)?;
    let messages: Vec<_> = taken
        .iter()
        .filter_map(|(serial, handle)| Some((from.held(*serial)?, *serial, handle)))
        .map(|(held, serial, handle)| Received {
            message_id: &held.id,
            receipt_handle: handle,
            body: &held.message.body,
            md5: &held.md5,
            attributes: if ask.message_system_attribute_names.is_empty() {
                BTreeMap::new()
            } else {
                let mut attributes = BTreeMap::from([
                    ("ApproximateReceiveCount", held.receives.to_string()),
                    ("SentTimestamp", fake.epoch_millis(held.sent).to_string()),
                    ("SenderId", "AIDAFAKE".to_owned()),
                    (
                        "ApproximateFirstReceiveTimestamp",
                        fake.epoch_millis(held.first_received.unwrap_or(now)).to_string(),
                    ),
                ]);
                if from.fifo {
                    attributes.insert("SequenceNumber", format!("{serial:020}"));
                }
                let optional = [
                    ("MessageGroupId", held.message.group.clone()),
                    ("MessageDeduplicationId", held.message.dedup.clone()),
                    ("AWSTraceHeader", held.message.trace_header.clone()),
                    ("DeadLetterQueueSourceArn", held.died_in.as_deref().map(arn)),
                ];
                attributes.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
                attributes
            },
            message_attributes: Some(&held.message.attributes)
                .filter(|attributes| !ask.message_attribute_names.is_empty() && !attributes.is_empty()),
        })
        .collect();
    #[derive(Serialize)]
    struct Messages<'a> {
        #[serde(rename = "Messages")]
        messages: Vec<Received<'a>>,
    }
    let answer = serde_json::to_vec(&Messages { messages });
    let answer = answer.map_err(|error| Refusal::new("InternalError", error.to_string()))?;
    Ok((Some(answer), changed, next))
}
