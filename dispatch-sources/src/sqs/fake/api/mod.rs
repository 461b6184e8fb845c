//! What each call does.

mod entries;
mod receive;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::{
    entries::{change, delete, each, send},
    receive::wrong_md5,
};
use super::{
    Call, Fake, Fault, QueueOptions, REGION, State,
    queue::Queue,
    tasks::{arn, name_of, seconds},
    wire::{Answer, Batch, CancelMove, ListMoves, Named, OfQueue, Refusal, Result, Send, StartMove, query_code},
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
