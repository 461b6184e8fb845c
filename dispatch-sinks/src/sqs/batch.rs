//! Messages that are sent at the same time share a request.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use dispatch_core::{
    Class, Classify as _, Error, Headers, Reply,
    telemetry::{self, Origin},
};
use dispatch_sqs_client::judge;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    SqsError, SqsSinkError,
    entry::{Entry, LARGEST},
    error::of_entry,
    shared::Shared,
};

/// The most entries of a request (SendMessageBatch).
const BATCH: usize = 10;
/// So many requests at once; on a FIFO queue one, or they could overtake each other.
const REQUESTS: usize = 32;

/// An entry, and who waits for its outcome.
struct Waiting {
    entry: Entry,
    answer: oneshot::Sender<Result<Reply, Error>>,
}

/// Gathers entries in a task of its own, which is started with the first.
#[derive(Debug)]
pub(super) struct Batcher {
    shared: Arc<Shared>,
    task: Mutex<Option<mpsc::UnboundedSender<Waiting>>>,
}

impl Batcher {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            task: Mutex::default(),
        }
    }

    /// Hands entries in, in their order; what is returned brings their outcomes.
    pub(super) fn put(&self, entries: impl IntoIterator<Item = Entry>) -> Vec<oneshot::Receiver<Result<Reply, Error>>> {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        let put = |entry| {
            let (answer, outcome) = oneshot::channel();
            let mut waiting = Waiting { entry, answer };
            // A task that is gone went with its runtime; this one has its own.
            loop {
                let sender = task.get_or_insert_with(|| {
                    let (sender, receiver) = mpsc::unbounded_channel();
                    tokio::spawn(gather(Arc::clone(&self.shared), receiver));
                    sender
                });
                match sender.send(waiting) {
                    Ok(()) => return outcome,
                    Err(mpsc::error::SendError(back)) => {
                        waiting = back;
                        *task = None;
                    }
                }
            }
        };
        entries.into_iter().map(put).collect()
    }
}

/// Sends full batches at once, others when their oldest has lingered.
async fn gather(shared: Arc<Shared>, mut receiver: mpsc::UnboundedReceiver<Waiting>) {
    let most = if shared.fifo { 1 } else { REQUESTS };
    let linger = shared.config.linger.0;
    let mut waiting: VecDeque<(Instant, Waiting)> = VecDeque::new();
    let mut requests = JoinSet::new();
    let mut open = true;
    while open || !waiting.is_empty() || !requests.is_empty() {
        let due = waiting.front().map(|(since, _)| *since + linger);
        let is_due = is_full(&waiting) || !open || due.is_some_and(|due| Instant::now() >= due);
        if is_due && !waiting.is_empty() && requests.len() < most {
            let batch = take(&mut waiting, shared.fifo);
            requests.spawn(send(Arc::clone(&shared), batch));
            continue;
        }
        tokio::select! {
            next = receiver.recv(), if open => match next {
                Some(next) => waiting.push_back((Instant::now(), next)),
                None => open = false,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && !is_due => {}
            Some(failed) = requests.join_next(), if !requests.is_empty() => {
                hold_back(&mut waiting, &failed.unwrap_or_default());
            }
        }
    }
}

fn is_full(waiting: &VecDeque<(Instant, Waiting)>) -> bool {
    waiting.len() >= BATCH || waiting.iter().map(|(_, waiting)| waiting.entry.size).sum::<usize>() >= LARGEST
}

/// As many as one request takes; on a FIFO queue one of a group, for those behind it must not overtake one that fails.
/// Those whose caller has left are not sent.
fn take(waiting: &mut VecDeque<(Instant, Waiting)>, fifo: bool) -> Vec<Waiting> {
    waiting.retain(|(_, next)| !next.answer.is_closed());
    let (mut batch, mut size) = (Vec::<Waiting>::with_capacity(BATCH), 0);
    let mut at = 0;
    while let Some((_, next)) = waiting.get(at).filter(|_| batch.len() < BATCH) {
        let grouped = fifo && batch.iter().any(|taken| taken.entry.group == next.entry.group);
        if grouped {
            at += 1;
            continue;
        }
        size += next.entry.size;
        if size > LARGEST && !batch.is_empty() {
            break;
        }
        batch.extend(waiting.remove(at).map(|(_, next)| next));
    }
    batch
}

/// Gives those of a FIFO group back whose head was not sent: their callers send them again, after it.
fn hold_back(waiting: &mut VecDeque<(Instant, Waiting)>, failed: &[String]) {
    if failed.is_empty() {
        return;
    }
    for (since, next) in std::mem::take(waiting) {
        if next.entry.group.as_ref().is_some_and(|group| failed.contains(group)) {
            let error = Error::retry("the message ahead of it in its group was not sent").with_code("group");
            drop(next.answer.send(Err(error)));
        } else {
            waiting.push_back((since, next));
        }
    }
}

/// Sends one batch and tells each caller; gives the FIFO groups whose message was not sent and may be later.
async fn send(shared: Arc<Shared>, batch: Vec<Waiting>) -> Vec<String> {
    if batch.is_empty() {
        return Vec::new();
    }
    let groups: Vec<_> = batch
        .iter()
        .map(|next| next.entry.group.clone().filter(|_| shared.fifo))
        .collect();
    let (entries, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|next| (next.entry, next.answer)).unzip();
    let outcomes = match call(&shared, entries.clone()).await {
        Ok(outcomes) => outcomes,
        // Some servers refuse a batch for one bad entry.
        Err(SqsSinkError::Message { .. }) if entries.len() > 1 => {
            let mut outcomes = Vec::new();
            for entry in entries {
                outcomes.extend(match call(&shared, vec![entry]).await {
                    Ok(outcomes) => outcomes,
                    Err(error) => vec![Err(error.into())],
                });
            }
            outcomes
        }
        Err(error) => shared_by(entries.len(), error.into()),
    };
    let mut failed = Vec::new();
    for ((answer, outcome), group) in answers.into_iter().zip(outcomes).zip(groups) {
        // What is never sent holds nobody up.
        if outcome.as_ref().is_err_and(|error| error.class() != Class::Permanent) {
            failed.extend(group);
        }
        // Who has left is told nothing.
        drop(answer.send(outcome));
    }
    failed
}

/// The same failure for each of several.
fn shared_by(count: usize, error: Error) -> Vec<Result<Reply, Error>> {
    let (class, code, text) = (error.class(), error.code().cloned(), error.report());
    let again = |_| {
        let error = Error::new(class, text.clone());
        Err(match &code {
            Some(code) => error.with_code(code.clone()),
            None => error,
        })
    };
    (0..count).map(again).collect()
}

async fn call(shared: &Shared, entries: Vec<Entry>) -> Result<Vec<Result<Reply, Error>>, SqsSinkError> {
    const OPERATION: &str = "SendMessageBatch";
    let queue = shared.queue().await?;
    let count = entries.len();
    let span = telemetry::tracer().map(|tracer| {
        let parents: Vec<_> = entries.iter().filter_map(|entry| entry.traceparent.clone()).collect();
        tracer.batch(&parents, count, &Origin::new("aws_sqs", queue.name()))
    });
    let built: Result<Vec<_>, _> = entries
        .into_iter()
        .enumerate()
        .map(|(number, entry)| entry.build(number))
        .collect();
    let built = built.map_err(|error| SqsSinkError::Unfit(error.report()))?;
    let request = queue.sqs.send_message_batch().queue_url(&queue.url);
    let answer = request.set_entries(Some(built)).send().await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let error = shared.heard(judge(OPERATION, queue.name(), error)).await;
            if let Some(span) = &span {
                span.end(Err(&Error::new(error.class(), error.to_string())));
            }
            return Err(error);
        }
    };
    if let Some(span) = &span {
        // What SQS did not take of it is on the spans of those messages.
        span.end(Ok(()));
    }
    let silent = || {
        SqsSinkError::Sqs(SqsError::Server {
            operation: OPERATION,
            queue: queue.name().to_owned(),
            code: "no answer for an entry".to_owned(),
        })
    };
    let mut outcomes: Vec<Result<Reply, Error>> = (0..count).map(|_| Err(silent().into())).collect();
    let mut set = |id: &str, outcome| {
        if let Some(place) = id.parse::<usize>().ok().and_then(|number| outcomes.get_mut(number)) {
            *place = outcome;
        }
    };
    for entry in answer.failed {
        let error = of_entry(queue.name(), &entry.code, entry.message.as_deref(), entry.sender_fault);
        set(&entry.id, Err(error.into()));
    }
    for entry in answer.successful {
        let mut headers = Headers::new();
        headers.append("sqs-message-id", entry.message_id);
        if let Some(number) = entry.sequence_number {
            headers.append("sqs-sequence-number", number);
        }
        let payload = bytes::Bytes::new();
        set(&entry.id, Ok(Reply::with_headers(payload, headers)));
    }
    Ok(outcomes)
}
