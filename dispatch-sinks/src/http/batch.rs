//! Several messages in one request, and what became of each: the convention of Lambda's event source for SQS.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use dispatch_core::{Class, Error, Message, Reply, telemetry::batch_span};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use smol_str::SmolStr;
use tokio::{sync::oneshot, time::sleep};

use super::{BatchConfig, caller::Caller};

/// The system attributes that a record carries, each under the name that its source gave it.
const SYSTEM: [(&str, &str); 9] = [
    ("ApproximateReceiveCount", "sqs_approximate_receive_count"),
    (
        "ApproximateFirstReceiveTimestamp",
        "sqs_approximate_first_receive_timestamp",
    ),
    ("SentTimestamp", "sqs_sent_timestamp"),
    ("SenderId", "sqs_sender_id"),
    ("MessageGroupId", "sqs_message_group_id"),
    ("MessageDeduplicationId", "sqs_message_deduplication_id"),
    ("SequenceNumber", "sqs_sequence_number"),
    ("AWSTraceHeader", "sqs_aws_trace_header"),
    ("DeadLetterQueueSourceArn", "sqs_dead_letter_queue_source_arn"),
];

type Outcome = Result<Reply, Error>;
type Waiting = (Message, oneshot::Sender<Outcome>);

/// Gathers messages until there are enough, or the first has waited long enough.
pub(super) struct Batcher {
    caller: Arc<Caller>,
    config: BatchConfig,
    gathering: Arc<Mutex<Gathering>>,
}

#[derive(Default)]
struct Gathering {
    /// Which batch this is: a timer that comes too late is another one's.
    number: u64,
    waiting: Vec<Waiting>,
}

impl Gathering {
    fn take(&mut self) -> Vec<Waiting> {
        self.number += 1;
        std::mem::take(&mut self.waiting)
    }
}

impl fmt::Debug for Batcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Batcher {
    pub(super) fn new(caller: Arc<Caller>, config: BatchConfig) -> Self {
        Self {
            caller,
            config,
            gathering: Arc::default(),
        }
    }

    /// Sends the message with others and says what became of it.
    ///
    /// # Cancel safety
    /// A request is cut off once nobody waits for any of its messages.
    pub(super) async fn send(&self, message: Message) -> Outcome {
        let (tell, told) = oneshot::channel();
        let (full, number) = {
            let mut gathering = lock(&self.gathering);
            gathering.waiting.push((message, tell));
            let full = (gathering.waiting.len() >= self.config.size).then(|| gathering.take());
            let first = full.is_none() && gathering.waiting.len() == 1;
            (full, first.then_some(gathering.number))
        };
        if let Some(batch) = full {
            tokio::spawn(invoke(self.caller.clone(), batch));
        } else if let Some(number) = number {
            tokio::spawn(flush(
                self.caller.clone(),
                self.gathering.clone(),
                number,
                self.config.linger.0,
            ));
        }
        told.await
            .unwrap_or_else(|_| Err(Error::retry("the batch was cut off")))
    }
}

async fn flush(caller: Arc<Caller>, gathering: Arc<Mutex<Gathering>>, number: u64, linger: Duration) {
    sleep(linger).await;
    let batch = {
        let mut gathering = lock(&gathering);
        if gathering.number == number {
            gathering.take()
        } else {
            Vec::new()
        }
    };
    invoke(caller, batch).await;
}

async fn invoke(caller: Arc<Caller>, mut batch: Vec<Waiting>) {
    batch.retain(|(_, tell)| !tell.is_closed());
    if batch.is_empty() {
        return;
    }
    let messages: Vec<_> = batch.iter().map(|(message, _)| message.clone()).collect();
    let span = batch_span(&messages, &caller.place());
    let call = async {
        let mut body = Message::with_id(
            messages[0].id().clone(),
            records(&messages, caller.tells_receipts()).to_string(),
        );
        if let Some(span) = &span {
            body.headers_mut().insert("traceparent", span.traceparent());
        }
        caller.call_batch(&body).await
    };
    let everybody_left = async {
        for (_, tell) in &mut batch {
            tell.closed().await;
        }
    };
    let answer = tokio::select! {
        answer = call => answer,
        () = everybody_left => return,
    };
    if let Some(span) = &span {
        span.end(answer.as_ref().map(|_| ()));
    }
    for ((_, tell), outcome) in batch.into_iter().zip(outcomes(&messages, answer)) {
        // Who no longer waits has given up on it: it comes again.
        drop(tell.send(outcome));
    }
}

/// The request's body.
fn records(messages: &[Message], receipts: bool) -> Value {
    let record = |message: &Message| {
        let meta = |name: &str| message.metadata().get(name);
        let system: Map<String, Value> = SYSTEM
            .iter()
            .filter_map(|(name, own)| Some(((*name).to_owned(), meta(own)?.into())))
            .collect();
        let attributes: Map<String, Value> = message
            .headers()
            .iter()
            .map(|(name, value)| {
                let kind = meta(&format!("sqs_type_{name}")).unwrap_or("String");
                let value = match std::str::from_utf8(value) {
                    Ok(text) if !kind.starts_with("Binary") => json!({ "stringValue": text, "dataType": kind }),
                    _ => json!({ "binaryValue": BASE64_STANDARD.encode(value), "dataType": kind }),
                };
                (name.to_owned(), value)
            })
            .collect();
        let mut record = json!({
            "messageId": id(message),
            "body": String::from_utf8_lossy(&message.payload),
            "attributes": system,
            "messageAttributes": attributes,
            "eventSource": "aws:sqs",
        });
        if let (true, Some(handle)) = (receipts, meta("sqs_receipt_handle")) {
            record["receiptHandle"] = handle.into();
        }
        record
    };
    json!({ "Records": messages.iter().map(record).collect::<Vec<_>>() })
}

fn id(message: &Message) -> &str {
    message.metadata().get("sqs_message_id").unwrap_or(message.id())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    batch_item_failures: Option<Vec<Failure>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    item_identifier: Option<String>,
}

/// What became of each message.
fn outcomes(messages: &[Message], answer: Outcome) -> Vec<Outcome> {
    let reply = match answer {
        Ok(reply) => reply,
        Err(error) => return every(messages.len(), &error),
    };
    let failed = match failures(messages, &reply.payload) {
        Ok(failed) => failed,
        Err(reason) => {
            return every(
                messages.len(),
                &Error::retry(format!("the batch counts as failed: {reason}")).with_code("batch"),
            );
        }
    };
    // Behind the first failure of a queue that keeps an order, nothing counts as done.
    let ordered = messages
        .iter()
        .any(|message| message.metadata().get("sqs_sequence_number").is_some());
    let mut broken = false;
    messages
        .iter()
        .map(|message| {
            let own = failed.contains(id(message));
            if own {
                broken |= ordered;
                return Err(
                    Error::retry("the worker says that this message of the batch failed").with_code("batch_item")
                );
            }
            if broken {
                return Err(
                    Error::retry("an earlier message of the batch failed, and the queue keeps an order")
                        .with_code("batch_item"),
                );
            }
            Ok(reply.clone())
        })
        .collect()
}

/// The ids that the worker says have failed; an answer that cannot be meant is an error.
fn failures(messages: &[Message], answer: &[u8]) -> Result<HashSet<String>, String> {
    if answer.trim_ascii().is_empty() {
        return Ok(HashSet::new());
    }
    let answer: Option<Answer> =
        serde_json::from_slice(answer).map_err(|error| format!("the worker's answer cannot be read: {error}"))?;
    let mut failed = HashSet::new();
    for failure in answer.and_then(|answer| answer.batch_item_failures).unwrap_or_default() {
        let own = failure.item_identifier.unwrap_or_default();
        if !messages.iter().any(|message| id(message) == own) {
            return Err(format!("the worker names a message that is not in it: \"{own}\""));
        }
        failed.insert(own);
    }
    Ok(failed)
}

/// The same failure for each: an error has one owner.
fn every(count: usize, error: &Error) -> Vec<Outcome> {
    let (class, code, text): (Class, Option<SmolStr>, String) = (error.class(), error.code().cloned(), error.report());
    (0..count)
        .map(|_| {
            let error = Error::new(class, text.clone());
            Err(match &code {
                Some(code) => error.with_code(code.clone()),
                None => error,
            })
        })
        .collect()
}

/// What this lock guards is whole between any two statements, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(ordered: bool) -> Vec<Message> {
        ["a", "b", "c"]
            .map(|id| {
                let message = Message::with_id(id, "{}").meta("sqs_message_id", id);
                if ordered {
                    message.meta("sqs_sequence_number", "1")
                } else {
                    message
                }
            })
            .into()
    }

    fn done(ordered: bool, answer: &str) -> Vec<bool> {
        let messages = batch(ordered);
        outcomes(&messages, Ok(Reply::new(answer.to_owned())))
            .iter()
            .map(Result::is_ok)
            .collect()
    }

    #[test]
    fn the_answer_says_which_messages_failed() {
        let b = r#"{"batchItemFailures":[{"itemIdentifier":"b"}]}"#;
        for (ordered, answer, expected) in [
            (false, "", [true; 3]),
            (false, "null", [true; 3]),
            (false, "{}", [true; 3]),
            (false, r#"{"batchItemFailures":null}"#, [true; 3]),
            (false, r#"{"batchItemFailures":[]}"#, [true; 3]),
            (false, b, [true, false, true]),
            (true, b, [true, false, false]),
            (false, r#"{"batchItemFailures":[{"itemIdentifier":"z"}]}"#, [false; 3]),
            (false, r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#, [false; 3]),
            (false, r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#, [false; 3]),
            (false, r#"{"batchItemFailures":[{}]}"#, [false; 3]),
            (false, r#"{"batchItemFailures":{}}"#, [false; 3]),
            (false, "<html>", [false; 3]),
        ] {
            assert_eq!(done(ordered, answer), expected, "{ordered} {answer}");
        }
    }

    #[test]
    fn a_failed_request_fails_every_message_alike() {
        let error = Error::throttled(Some(Duration::from_secs(7)), "busy").with_code("503");

        let outcomes = outcomes(&batch(false), Err(error));

        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!(error.class(), Class::Throttled(Some(Duration::from_secs(7))));
            assert_eq!(error.code().unwrap(), "503");
        }
    }

    #[test]
    fn records_look_as_those_of_lambda() {
        let message = Message::with_id("m", "{\"a\":1}")
            .meta("sqs_sent_timestamp", "5")
            .meta("sqs_receipt_handle", "h")
            .header("Kind", "x")
            .header("Blob", vec![0xff])
            .meta("sqs_type_Blob", "Binary");

        assert_eq!(
            records(std::slice::from_ref(&message), false),
            json!({ "Records": [{
                "messageId": "m", "body": "{\"a\":1}", "attributes": { "SentTimestamp": "5" },
                "messageAttributes": {
                    "Kind": { "stringValue": "x", "dataType": "String" },
                    "Blob": { "binaryValue": "/w==", "dataType": "Binary" },
                },
                "eventSource": "aws:sqs",
            }] })
        );
        assert_eq!(records(&[message], true)["Records"][0]["receiptHandle"], "h");
    }
}
