//! One receive, in a task of its own.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::types::MessageSystemAttributeName;
use bytes::Bytes;
use dispatch_core::{Delivery, Settler, random_id};
use dispatch_sqs_client::{SqsError, judge};
use tokio::time::Instant;

use super::{
    hold::{Held, in_order, secure},
    pace::Ask,
    settler::{SqsSettler, delete, release},
    shared::Shared,
    wire::{is_intact, take},
};

/// A receive that has come back.
#[derive(Debug)]
pub(super) struct Poll {
    pub(super) began: Instant,
    pub(super) ask: Ask,
    /// How many it might bring.
    pub(super) asked: usize,
    /// How many it brought, whatever became of them.
    pub(super) count: usize,
    pub(super) result: Result<Vec<Held>, SqsError>,
}

/// What a receive has brought.
struct Found {
    count: usize,
    at: Instant,
    deliveries: Vec<Delivery>,
    /// The groups and handles of what is to be worked on, as they came, where the queue is a FIFO one.
    order: Vec<(u64, Bytes)>,
    /// Older than `retention`.
    old: Vec<Delivery>,
    /// Not what they were when they were sent.
    broken: Vec<Delivery>,
}

/// What a receive brings that asked for a moment only is ours for so long, unless the visibility is shorter still.
const BRIEF: Duration = Duration::from_secs(5);

/// Receives up to `asked`. What may not be handed on is settled here.
pub(super) async fn poll(shared: Arc<Shared>, settler: Arc<SqsSettler>, asked: usize, ask: Ask) -> Poll {
    let began = Instant::now();
    let mut poll = Poll {
        began,
        ask,
        asked,
        count: 0,
        result: Ok(Vec::new()),
    };
    match receive(&shared, &settler, asked, ask).await {
        Ok(found) => {
            poll.count = found.count;
            let brief = ask.brief && shared.config.visibility_timeout.0 > BRIEF;
            let ours = found
                .deliveries
                .into_iter()
                .map(|delivery| Held::new(delivery, found.at));
            // The ones do not wait for the others: their time runs.
            let (ours, (), ()) = tokio::join!(
                prepare(&shared, &settler, ours.collect(), brief),
                delete(&settler, found.old),
                release(&settler, found.broken),
            );
            let (ours, behind) = in_order(&found.order, ours);
            release(&settler, behind).await;
            poll.result = Ok(ours);
        }
        Err(error) => {
            shared.heard(&error).await;
            poll.result = Err(error);
        }
    }
    poll
}

/// Makes of messages what can be worked on; ours all the while.
async fn prepare(shared: &Shared, settler: &SqsSettler, mut ours: Vec<Held>, brief: bool) -> Vec<Held> {
    let held = || *shared.held.borrow();
    if brief && !ours.is_empty() && !held() {
        ours = secure(settler, ours, BRIEF).await;
    }
    #[cfg(feature = "sqs-s3")]
    if let Some(payloads) = shared.payloads.as_ref().filter(|_| !held()) {
        ours = payloads.fetch_all(settler, ours).await;
    }
    if held() {
        release(settler, ours.drain(..).map(|held| held.delivery).collect()).await;
    }
    ours
}

async fn receive(
    shared: &Shared,
    settler: &Arc<SqsSettler>,
    asked: usize,
    Ask { wait, brief }: Ask,
) -> Result<Found, SqsError> {
    let mut found = Found {
        count: 0,
        at: Instant::now(),
        deliveries: Vec::new(),
        order: Vec::new(),
        old: Vec::new(),
        broken: Vec::new(),
    };
    let client = shared.client().await?;
    let seconds = |period: Duration| i32::try_from(period.as_secs()).unwrap_or(i32::MAX);
    let visibility = shared.config.visibility_timeout.0;
    let visibility = if brief { visibility.min(BRIEF) } else { visibility };
    let request = client
        .receiver(wait)
        .receive_message()
        .queue_url(&client.queue.url)
        .max_number_of_messages(i32::try_from(asked).unwrap_or(10))
        .wait_time_seconds(seconds(wait))
        .visibility_timeout(seconds(visibility))
        .message_system_attribute_names(MessageSystemAttributeName::All)
        .message_attribute_names("All")
        // The SDK's own repetition of a receive whose answer was lost then brings the same messages.
        .set_receive_request_attempt_id(shared.fifo.then(random_id).map(|id| id.to_string()));
    let mut cut = shared.cut.subscribe();
    shared.meters.receives.add(1);
    let answer = tokio::select! {
        biased;
        answer = request.send() => answer.map_err(|error| judge("ReceiveMessage", client.queue.name(), error))?,
        // SQS may hand a message to a connection that has ended; it is visible again in a moment.
        _ = cut.wait_for(|cut| *cut) => return Ok(found),
    };
    found.at = Instant::now();
    let received = shared.millis(found.at);
    let queue = client.queue.name();
    let as_settler = Arc::clone(settler) as Arc<dyn Settler>;
    let messages = answer.messages.unwrap_or_default();
    found.count = messages.len();
    if messages.is_empty() {
        shared.meters.empty_receives.add(1);
        if !wait.is_zero() {
            shared.look_at_in_flight(&client, brief).await;
        }
    }
    found.deliveries.reserve(found.count);
    for message in messages {
        let intact = !shared.config.verify_md5 || is_intact(&message);
        let Some(taken) = take(message, &client.origin, received, |id| shared.offsets().get(id)) else {
            tracing::error!(queue, "a message without id or handle is left alone");
            continue;
        };
        let too_old = shared.is_too_old(taken.first_received);
        let delivery = Delivery::new(taken.message, taken.token, Arc::clone(&as_settler));
        if shared.fifo && !too_old {
            let token = delivery.receipt.token();
            found.order.push((token.fence, token.handle.clone()));
        }
        if !intact {
            tracing::error!(queue, id = %delivery.message.id(), "the body is not what its MD5 says: given back");
            found.broken.push(delivery);
        } else if too_old {
            found.old.push(delivery);
        } else {
            found.deliveries.push(delivery);
        }
    }
    if !found.old.is_empty() {
        shared.meters.expired.add(found.old.len() as u64);
        let all = shared.meters.expired.get();
        tracing::warn!(
            queue,
            messages = found.old.len(),
            all,
            "older than `retention`: deleted without being worked on"
        );
    }
    Ok(found)
}
