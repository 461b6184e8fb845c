//! What each call does.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{
    Call, Fake, Fault, QueueOptions, REGION, State,
    queue::{FakeMessage, Handle, LONGEST, Queue, md5_hex},
    tasks::{arn, name_of, seconds},
    wire::{
        Answer, Batch, CancelMove, ListMoves, Named, OfHandle, OfQueue, Receive, Received, Refusal, Result, Send,
        StartMove, WithId, query_code,
    },
};

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| Refusal::new("SerializationException", error.to_string()))
}

fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

fn queue<'s>(state: &'s mut State, url: &str) -> Result<&'s mut Queue> {
    state.queues.get_mut(name(url)).ok_or_else(Refusal::no_queue)
}

/// The longest body and attributes of a message, and of a batch.
const LARGEST: usize = 1 << 20;

impl Fake {
    /// Answers one request.
    pub(super) async fn call(&self, target: &str, body: &[u8]) -> Answer {
        let operation = target.rsplit('.').next().unwrap_or_default();
        let number = {
            let mut state = self.state();
            self.run_moves(&mut state);
            let count = state.requests.entry(operation.to_owned()).or_default();
            *count += 1;
            *count
        };
        let call = Call {
            operation: operation.to_owned(),
            number,
        };
        let mut detail = None;
        match self.0.faults.of(&call) {
            Some(Fault::Status(status)) => {
                return Answer::Http {
                    status,
                    headers: Vec::new(),
                    body: b"<html>no</html>".to_vec(),
                };
            }
            Some(Fault::Error { code, status }) => {
                let text = "ordered".to_owned();
                return self.refuse(&Refusal { status, code, text });
            }
            Some(Fault::Throttled(after)) => {
                let mut answer = self.refuse(&Refusal::new("RequestThrottled", "ordered"));
                if let (Answer::Http { headers, .. }, Some(after)) = (&mut answer, after) {
                    headers.push(("x-amz-retry-after", after.as_millis().to_string()));
                }
                return answer;
            }
            Some(Fault::Stall) => std::future::pending().await,
            Some(Fault::Slow(wait)) => tokio::time::sleep(wait).await,
            Some(Fault::Reset) => return Answer::Reset,
            Some(Fault::LostAnswer) => {
                drop(self.answer(operation, body, None).await);
                return Answer::Reset;
            }
            Some(fault @ (Fault::Entries { .. } | Fault::WrongMd5)) => detail = Some(fault),
            None => {}
        }
        match self.answer(operation, body, detail).await {
            Ok(body) => Answer::Http {
                status: 200,
                headers: Vec::new(),
                body,
            },
            Err(refusal) => self.refuse(&refusal),
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Answer {
        let body = json!({ "__type": format!("com.amazonaws.sqs#{}", refusal.code), "message": refusal.text });
        let mut headers = Vec::new();
        if !self.0.faults.omits_query_errors() {
            let fault = if refusal.status < 500 { "Sender" } else { "Receiver" };
            headers.push(("x-amzn-query-error", format!("{};{fault}", query_code(&refusal.code))));
        }
        Answer::Http {
            status: refusal.status,
            headers,
            body: body.to_string().into_bytes(),
        }
    }

    async fn answer(&self, operation: &str, body: &[u8], fault: Option<Fault>) -> Result<Vec<u8>> {
        if operation == "ReceiveMessage" {
            let answer = self.receive(read(body)?).await?;
            return if fault == Some(Fault::WrongMd5) {
                wrong_md5(&answer)
            } else {
                Ok(answer)
            };
        }
        let mut state = self.state();
        let now = self.now(&state);
        let state = &mut *state;
        let answer = match operation {
            "CreateQueue" => self.create(state, read(body)?),
            "DeleteQueue" => {
                let of: OfQueue = read(body)?;
                state.queues.remove(name(&of.queue_url)).ok_or_else(Refusal::no_queue)?;
                self.0.moved.notify_waiters();
                Ok(json!({}))
            }
            "GetQueueUrl" => {
                let named: Named = read(body)?;
                queue(state, &named.queue_name)?;
                Ok(json!({ "QueueUrl": self.queue_url(&named.queue_name) }))
            }
            "GetQueueAttributes" => {
                let of: OfQueue = read(body)?;
                let queue = queue(state, &of.queue_url)?;
                queue.tick(now);
                Ok(json!({ "Attributes": attributes(queue) }))
            }
            "PurgeQueue" => {
                let of: OfQueue = read(body)?;
                queue(state, &of.queue_url)?.purge();
                Ok(json!({}))
            }
            "SendMessage" => {
                let of: OfQueue = read(body)?;
                send(state, &of.queue_url, read(body)?, now)
            }
            "SendMessageBatch" => {
                let batch: Batch<Send> = read(body)?;
                let size: usize = batch.entries.iter().map(|entry| entry.entry.message_body.len()).sum();
                if size > LARGEST {
                    return Err(Refusal::new(
                        "BatchRequestTooLong",
                        "Batch requests cannot be longer than 1048576 bytes.",
                    ));
                }
                each(state, batch, fault.as_ref(), |state, url, entry| {
                    send(state, url, entry, now)
                })
            }
            "DeleteMessage" => {
                let of: OfQueue = read(body)?;
                delete(state, &of.queue_url, &read(body)?, now)
            }
            "DeleteMessageBatch" => each(state, read(body)?, fault.as_ref(), |state, url, entry| {
                delete(state, url, &entry, now)
            }),
            "ChangeMessageVisibility" => {
                let of: OfQueue = read(body)?;
                change(state, &of.queue_url, &read(body)?, now)
            }
            "ChangeMessageVisibilityBatch" => each(state, read(body)?, fault.as_ref(), |state, url, entry| {
                change(state, url, &entry, now)
            }),
            "StartMessageMoveTask" => {
                let start: StartMove = read(body)?;
                let source = of_arn(state, &start.source_arn)?;
                if state
                    .tasks
                    .iter()
                    .any(|task| task.source == source && task.status == "RUNNING")
                {
                    let text = "There is already a task running. Only one active task is allowed for a source queue arn at a given time.";
                    return Err(Refusal::new("UnsupportedOperation", text));
                }
                let destination = match &start.destination_arn {
                    Some(arn) => Some(of_arn(state, arn)?),
                    None => None,
                };
                let handle = self.start_move(state, &source, destination, start.max_number_of_messages_per_second);
                Ok(json!({ "TaskHandle": handle }))
            }
            "ListMessageMoveTasks" => {
                let list: ListMoves = read(body)?;
                let source = of_arn(state, &list.source_arn)?;
                Ok(json!({ "Results": self.moves_of(state, &source, list.max_results.unwrap_or(1)) }))
            }
            "CancelMessageMoveTask" => {
                let cancel: CancelMove = read(body)?;
                let task = state
                    .tasks
                    .iter_mut()
                    .find(|task| task.handle == cancel.task_handle && task.status == "RUNNING");
                let task = task.ok_or_else(|| Refusal::new("ResourceNotFoundException", "The task does not exist."))?;
                task.status = "CANCELLED";
                Ok(json!({ "ApproximateNumberOfMessagesMoved": task.moved }))
            }
            other => Err(Refusal::new("InvalidAction", format!("this has no {other}"))),
        };
        answer.map(|answer| answer.to_string().into_bytes())
    }

    fn create(&self, state: &mut State, named: Named) -> Result {
        let mut options = QueueOptions::default();
        if let Some(visibility) = named
            .attributes
            .get("VisibilityTimeout")
            .and_then(|text| text.parse().ok())
        {
            options.visibility = seconds(visibility);
        }
        options.content_deduplication = named
            .attributes
            .get("ContentBasedDeduplication")
            .is_some_and(|text| text == "true");
        if let Some(policy) = named.attributes.get("RedrivePolicy") {
            let policy: Value = read(policy.as_bytes())?;
            let target = policy["deadLetterTargetArn"].as_str().and_then(name_of);
            let most = &policy["maxReceiveCount"];
            let most = most.as_u64().or_else(|| most.as_str()?.parse().ok());
            if let (Some(target), Some(most)) = (target, most) {
                options = options.redrive(target, u32::try_from(most).unwrap_or(u32::MAX));
            }
        }
        let entry = state.queues.entry(named.queue_name.clone());
        entry.or_insert_with(|| Queue::new(&named.queue_name, options));
        Ok(json!({ "QueueUrl": self.queue_url(&named.queue_name) }))
    }

    /// Waits for messages as long as the request says.
    async fn receive(&self, ask: Receive) -> Result<Vec<u8>> {
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

fn wrong_md5(answer: &[u8]) -> Result<Vec<u8>> {
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

fn attributes(queue: &Queue) -> Value {
    let mut attributes = json!({
        "QueueArn": arn(&queue.name),
        "ApproximateNumberOfMessages": queue.visible().to_string(),
        "ApproximateNumberOfMessagesNotVisible": (queue.in_flight() + queue.with_others).to_string(),
        "ApproximateNumberOfMessagesDelayed": (queue.hidden() - queue.in_flight()).to_string(),
        "VisibilityTimeout": queue.options.visibility.as_secs().to_string(),
        "MaximumMessageSize": LARGEST.to_string(),
    });
    if queue.fifo {
        attributes["FifoQueue"] = json!("true");
    }
    if let Some((to, most)) = &queue.options.redrive {
        attributes["RedrivePolicy"] =
            json!(json!({ "deadLetterTargetArn": arn(to), "maxReceiveCount": most }).to_string());
    }
    attributes
}

fn of_arn(state: &mut State, arn: &str) -> Result<String> {
    let known = name_of(arn).filter(|name| state.queues.contains_key(*name));
    known.map(str::to_owned).ok_or_else(|| {
        Refusal::new(
            "ResourceNotFoundException",
            format!("The resource {arn} does not exist in {REGION}."),
        )
    })
}

/// Answers each entry of a batch.
fn each<E>(
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

fn send(state: &mut State, url: &str, send: Send, now: Instant) -> Result {
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

fn delete(state: &mut State, url: &str, entry: &OfHandle, now: Instant) -> Result {
    let queue = queue(state, url)?;
    let result = queue.delete(&entry.receipt_handle, now);
    queue.changed.notify_waiters();
    result.map_err(|handle| bad(&handle, "The receipt handle has expired"))?;
    Ok(json!({}))
}

fn change(state: &mut State, url: &str, entry: &OfHandle, now: Instant) -> Result {
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
