//! One receive, in a task of its own.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use aws_sdk_sqs::types::MessageSystemAttributeName;
use dispatch_core::{Delivery, Settler, random_id};
use dispatch_sqs_client::{SqsError, judge};
use tokio::time::{Instant, timeout};

#[cfg(feature = "sqs-s3")]
use super::settler::nack;
use super::{
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
    pub(super) result: Result<Vec<Delivery>, SqsError>,
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
        Ok((count, deliveries)) => {
            poll.count = count;
            let brief = ask.brief && shared.config.visibility_timeout.0 > BRIEF;
            if shared.held.load(Relaxed) {
                release(&settler, deliveries).await;
            } else if brief && !deliveries.is_empty() {
                poll.result = Ok(secure(&shared, &settler, deliveries).await);
            } else {
                poll.result = Ok(deliveries);
            }
        }
        Err(error) => {
            shared.heard(&error).await;
            poll.result = Err(error);
        }
    }
    poll
}

/// Makes messages ours for the whole visibility that were so for a moment. Those that could not be go back.
async fn secure(shared: &Shared, settler: &SqsSettler, deliveries: Vec<Delivery>) -> Vec<Delivery> {
    let tokens: Vec<_> = deliveries
        .iter()
        .map(|delivery| delivery.receipt.token().clone())
        .collect();
    let extend = settler.extend(tokens, shared.config.visibility_timeout.0);
    // With what is left of the moment a late answer would prove nothing.
    let Ok(answers) = timeout(BRIEF * 3 / 4, extend).await else {
        tracing::warn!(
            messages = deliveries.len(),
            "visibility not extended in time: given back"
        );
        return Vec::new();
    };
    let ours = deliveries
        .into_iter()
        .zip(answers)
        .filter_map(|(delivery, answer)| match answer {
            Ok(()) => Some(delivery),
            Err(error) => {
                tracing::warn!(id = %delivery.message.id(), %error, "visibility not extended: given back");
                None
            }
        });
    ours.collect()
}

async fn receive(
    shared: &Shared,
    settler: &Arc<SqsSettler>,
    asked: usize,
    Ask { wait, brief }: Ask,
) -> Result<(usize, Vec<Delivery>), SqsError> {
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
        _ = cut.wait_for(|cut| *cut) => return Ok((0, Vec::new())),
    };
    let received = shared.millis(Instant::now());
    let queue = client.queue.name();
    let as_settler = Arc::clone(settler) as Arc<dyn Settler>;
    let messages = answer.messages.unwrap_or_default();
    let count = messages.len();
    if count == 0 {
        shared.meters.empty_receives.add(1);
        if !wait.is_zero() {
            shared.look_at_in_flight(&client, brief).await;
        }
    }
    let (mut deliveries, mut old, mut broken) = (Vec::with_capacity(count), Vec::new(), Vec::new());
    for message in messages {
        let intact = !shared.config.verify_md5 || is_intact(&message);
        let Some(taken) = take(message, &client.origin, received, |id| shared.offsets().get(id)) else {
            tracing::error!(queue, "a message without id or handle is left alone");
            continue;
        };
        let too_old = shared.is_too_old(taken.first_received);
        let delivery = Delivery::new(taken.message, taken.token, Arc::clone(&as_settler));
        if !intact {
            tracing::error!(queue, id = %delivery.message.id(), "the body is not what its MD5 says: given back");
            broken.push(delivery);
        } else if too_old {
            old.push(delivery);
        } else {
            deliveries.push(delivery);
        }
    }
    if !old.is_empty() {
        shared.meters.expired.add(old.len() as u64);
        let all = shared.meters.expired.get();
        tracing::warn!(
            queue,
            messages = old.len(),
            all,
            "older than `retention`: deleted without being worked on"
        );
        delete(settler, old).await;
    }
    release(settler, broken).await;
    #[cfg(feature = "sqs-s3")]
    if let Some(payloads) = &shared.payloads {
        let limit = shared.config.visibility_timeout.0 / 2;
        let (fetched, missing) = payloads.fetch_all(&client, deliveries, limit).await;
        nack(settler, missing).await;
        deliveries = fetched;
    }
    Ok((count, deliveries))
}
