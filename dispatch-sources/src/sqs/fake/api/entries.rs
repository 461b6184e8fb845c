//! What is done to one message: sent, deleted, hidden; and to those of a batch.

use std::{collections::HashSet, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use super::{LARGEST, queue};
use crate::sqs::fake::{
    Fault, State,
    queue::{FakeMessage, Handle, LONGEST, md5_hex},
    tasks::seconds,
    wire::{Batch, OfHandle, Refusal, Result, Send, WithId},
};

/// Answers each entry of a batch.
pub(super) fn each<E>(
    state: &mut State,
    batch: Batch<E>,
    fault: Option<&Fault>,
    answer: impl Fn(&mut State, &str, E) -> Result,
) -> Result {
    queue(state, &batch.queue_url)?;
    let legal = |id: &str| {
        (1..=80).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let ids: HashSet<_> = batch.entries.iter().map(|entry| entry.id.as_str()).collect();
    let wrong = match batch.entries.len() {
        0 => Some("EmptyBatchRequest"),
        11.. => Some("TooManyEntriesInBatchRequest"),
        count if ids.len() < count => Some("BatchEntryIdsNotDistinct"),
        _ if !ids.iter().all(|id| legal(id)) => Some("InvalidBatchEntryId"),
        _ => None,
    };
    if let Some(code) = wrong {
        return Err(Refusal::new(
            code,
            "a batch is made of 1 to 10 entries under ids of their own",
        ));
    }
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for (number, WithId { id, entry }) in batch.entries.into_iter().enumerate() {
        if let Some(Fault::Entries {
            which,
            code,
            sender_fault,
        }) = fault
            && which.contains(&number)
        {
            failed.push(json!({ "Id": id, "Code": code, "Message": "ordered", "SenderFault": sender_fault }));
            continue;
        }
        match answer(state, &batch.queue_url, entry) {
            Ok(mut done) => {
                done["Id"] = json!(id);
                successful.push(done);
            }
            Err(no) => failed.push(json!({ "Id": id, "Code": no.code, "Message": no.text, "SenderFault": true })),
        }
    }
    Ok(json!({ "Successful": successful, "Failed": failed }))
}

pub(super) fn send(state: &mut State, url: &str, send: Send, now: Instant) -> Result {
    state.serial += 1;
    let serial = state.serial;
    let queue = queue(state, url)?;
    let (body_md5, mut attributes) = (md5_hex(&send.message_body), send.message_system_attributes);
    let message = FakeMessage {
        body: send.message_body,
        group: send.message_group_id,
        dedup: send.message_deduplication_id,
        delay: seconds(send.delay_seconds),
        trace_header: attributes
            .remove("AWSTraceHeader")
            .and_then(|attribute| attribute.string_value),
        attributes: send.message_attributes,
    };
    let wrong = if message.body.is_empty() {
        Some("The message body is empty.")
    } else if message.size() > LARGEST {
        Some("One or more parameters are invalid. Reason: Message must be shorter than 1048576 bytes.")
    } else if message.attributes.len() > 10 {
        Some("Number of message attributes must not exceed 10.")
    } else if message.delay > Duration::from_secs(900) {
        Some("DelaySeconds must be >= 0 and <= 900.")
    } else if queue.fifo && message.group.is_none() {
        Some("The request must contain the parameter MessageGroupId.")
    } else if queue.fifo && message.dedup.is_none() && !queue.options.content_deduplication {
        Some(
            "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly",
        )
    } else {
        None
    };
    if let Some(wrong) = wrong {
        return Err(Refusal::new("InvalidParameterValue", wrong));
    }
    let legal = |c: char| c >= ' ' || ['\t', '\n', '\r'].contains(&c);
    if !message
        .body
        .chars()
        .all(|c| legal(c) && c != '\u{fffe}' && c != '\u{ffff}')
    {
        return Err(Refusal::new(
            "InvalidMessageContents",
            "Invalid binary character was found in the message body",
        ));
    }
    let fifo = queue.fifo;
    let (id, number) = queue.send(message, serial, now);
    queue.changed.notify_waiters();
    let mut done = json!({ "MessageId": id, "MD5OfMessageBody": body_md5 });
    if fifo {
        done["SequenceNumber"] = json!(format!("{number:020}"));
    }
    Ok(done)
}

pub(super) fn delete(state: &mut State, url: &str, entry: &OfHandle, now: Instant) -> Result {
    let queue = queue(state, url)?;
    let result = queue.delete(&entry.receipt_handle, now);
    queue.changed.notify_waiters();
    result.map_err(|handle| bad(&handle, "The receipt handle has expired"))?;
    Ok(json!({}))
}

pub(super) fn change(state: &mut State, url: &str, entry: &OfHandle, now: Instant) -> Result {
    let queue = queue(state, url)?;
    let visibility = seconds(entry.visibility_timeout);
    if visibility > LONGEST {
        return Err(Refusal::new(
            "InvalidParameterValue",
            "VisibilityTimeout must be between 0 and 43200",
        ));
    }
    let result = queue.change(&entry.receipt_handle, visibility, now);
    queue.changed.notify_waiters();
    result.map_err(|handle| {
        bad(
            &handle,
            "Message does not exist or is not available for visibility timeout change.",
        )
    })?;
    Ok(json!({}))
}

fn bad(handle: &Handle, words: &str) -> Refusal {
    match handle {
        Handle::Invalid => Refusal::new("ReceiptHandleIsInvalid", "The input receipt handle is invalid."),
        Handle::NotInFlight => Refusal::new("MessageNotInflight", "The message referred to isn't in flight."),
        Handle::Stale => Refusal::new("InvalidParameterValue", words),
        Handle::TooLong => Refusal::new(
            "InvalidParameterValue",
            "Total VisibilityTimeout for the message is beyond the limit [43200 seconds].",
        ),
    }
}
