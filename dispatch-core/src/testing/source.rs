//! The battery that every Source passes, switched by what it says it can do.
//!
//! ```
//! use dispatch_core::{Message, testing::{MemorySource, source::{Bench, source_battery}}};
//!
//! #[tokio::main(flavor = "current_thread", start_paused = true)]
//! async fn main() {
//!     source_battery(async || {
//!         let source = MemorySource::new();
//!         let queue = source.queue();
//!         Bench::new(source, move |payloads| {
//!             payloads.into_iter().for_each(|payload| queue.push(Message::new(payload)));
//!             Box::pin(async {})
//!         })
//!     })
//!     .await;
//! }
//! ```

use std::{collections::HashSet, fmt, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::timeout;

use crate::{Delivery, Disposition, Order, Received, Reply, SettleError, Settlement, Source};

/// How long a statement waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a statement watches that nothing happens.
const QUIET: Duration = Duration::from_millis(300);

/// A fresh, empty source, and a way to put messages where it finds them.
pub struct Bench {
    source: Box<dyn Source>,
    publish: Box<dyn Fn(Vec<Bytes>) -> BoxFuture<'static, ()> + Send>,
    /// What ends the input of a bounded source.
    end: Box<dyn Fn() + Send>,
    fenced: bool,
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bench")
    }
}

impl Bench {
    /// `publish` returns once the messages are where the source will find them.
    pub fn new(source: impl Source, publish: impl Fn(Vec<Bytes>) -> BoxFuture<'static, ()> + Send + 'static) -> Self {
        Self {
            source: Box::new(source),
            publish: Box::new(publish),
            end: Box::new(|| {}),
            fenced: true,
        }
    }

    /// How the input of a bounded source is ended, where it does not end with what was published.
    #[must_use]
    pub fn ending(mut self, end: impl Fn() + Send + 'static) -> Self {
        self.end = Box::new(end);
        self
    }

    /// For a broker that takes the token of an earlier delivery for that of the latest one.
    #[must_use]
    pub fn without_fencing(mut self) -> Self {
        self.fenced = false;
        self
    }

    async fn publish(&self, count: usize) -> Vec<Bytes> {
        let payloads: Vec<_> = (0..count).map(|n| Bytes::from(format!("{{\"n\":{n}}}"))).collect();
        (self.publish)(payloads.clone()).await;
        payloads
    }

    /// Receives until there are `count`.
    async fn receive(&mut self, count: usize, max: usize) -> Vec<Delivery> {
        let mut all = Vec::new();
        while all.len() < count {
            let received = timeout(PATIENCE, self.source.receive(max))
                .await
                .expect("messages come while some wait");
            match received.expect("receive works") {
                Received::Batch(batch) => {
                    assert!(!batch.is_empty(), "a batch holds at least one delivery");
                    assert!(
                        batch.len() <= max,
                        "a batch holds at most what was asked for: {} of {max}",
                        batch.len()
                    );
                    all.extend(batch);
                }
                Received::End => panic!("the input ended with {} of {count} received", all.len()),
                Received::Health(_) => {}
            }
        }
        all
    }

    async fn settle(&self, delivery: Delivery, disposition: Disposition) -> Result<(), SettleError> {
        let (token, settler) = delivery.receipt.into_parts();
        let mut results = settler.settle(vec![Settlement { token, disposition }]).await;
        assert_eq!(results.len(), 1, "each settlement has its answer");
        results.pop().expect("one")
    }

    async fn ack(&self, delivery: Delivery) {
        self.settle(delivery, Disposition::Ack(Reply::default()))
            .await
            .expect("an ack under a live lease holds");
    }

    async fn is_quiet(&mut self) -> bool {
        loop {
            match timeout(QUIET, self.source.receive(10)).await {
                Err(_) | Ok(Ok(Received::End)) => return true,
                Ok(Ok(Received::Batch(_)) | Err(_)) => return false,
                Ok(Ok(Received::Health(_))) => {}
            }
        }
    }
}

fn payloads(deliveries: &[Delivery]) -> HashSet<Bytes> {
    deliveries
        .iter()
        .map(|delivery| delivery.message.payload.clone())
        .collect()
}

/// Runs every statement that the source's capabilities allow, each on a fresh bench.
///
/// # Panics
/// At the first statement that does not hold, with a sentence that says which.
pub async fn source_battery(make: impl AsyncFn() -> Bench) {
    everything_comes_once_and_acked_messages_do_not_come_again(make().await).await;
    a_dropped_receive_loses_nothing(make().await).await;
    settling_works_after_close(make().await).await;
    let (capabilities, fenced) = {
        let bench = make().await;
        (bench.source.capabilities(), bench.fenced)
    };
    if capabilities.order == Order::Whole {
        what_comes_in_order_comes_as_it_was_sent(make().await).await;
    }
    if capabilities.bounded {
        a_bounded_input_ends_once_all_is_settled(make().await).await;
    }
    if capabilities.redelivers && capabilities.lease.is_some() && fenced {
        the_token_of_an_earlier_delivery_changes_nothing(make().await).await;
    }
    if capabilities.redelivers {
        a_released_delivery_comes_again(make().await).await;
        a_dropped_delivery_comes_again(make().await).await;
        a_nacked_delivery_comes_again(make().await, capabilities.nack_delay.allows(QUIET * 2)).await;
    }
    if capabilities.counts_redeliveries {
        a_nack_with_a_counted_attempt_raises_the_number(make().await).await;
    }
    if capabilities.extends {
        a_live_lease_can_be_extended(make().await).await;
    }
}

async fn everything_comes_once_and_acked_messages_do_not_come_again(mut bench: Bench) {
    let sent = bench.publish(25).await;
    let received = bench.receive(25, 10).await;
    assert_eq!(
        payloads(&received),
        sent.into_iter().collect(),
        "every message comes, byte for byte"
    );
    for delivery in received {
        bench.ack(delivery).await;
    }
    assert!(bench.is_quiet().await, "an acked message does not come again");
}

async fn what_comes_in_order_comes_as_it_was_sent(mut bench: Bench) {
    let sent = bench.publish(25).await;
    let received = bench.receive(25, 4).await;
    let came: Vec<_> = received
        .iter()
        .map(|delivery| delivery.message.payload.clone())
        .collect();
    assert_eq!(came, sent, "a source in order hands out what was sent first first");
    for delivery in received {
        bench.ack(delivery).await;
    }
}

async fn a_bounded_input_ends_once_all_is_settled(mut bench: Bench) {
    bench.publish(3).await;
    let mut received = bench.receive(3, 3).await;
    (bench.end)();
    let last = received.pop().expect("three");
    for delivery in received {
        bench.ack(delivery).await;
    }
    if bench.source.capabilities().redelivers {
        // It may come again: the end is not the end yet.
        bench.settle(last, Disposition::Release).await.expect("release works");
        let again = bench.receive(1, 1).await.remove(0);
        bench.ack(again).await;
    } else {
        bench.ack(last).await;
    }
    let end = async {
        loop {
            match bench.source.receive(1).await.expect("receive works") {
                Received::End => return,
                Received::Batch(batch) => panic!("{} come again after their ack", batch.len()),
                Received::Health(_) => {}
            }
        }
    };
    timeout(PATIENCE, end)
        .await
        .expect("a bounded source says when its input has ended");
}

async fn the_token_of_an_earlier_delivery_changes_nothing(mut bench: Bench) {
    bench.publish(1).await;
    let first = bench.receive(1, 1).await.remove(0);
    let (old, settler) = (first.receipt.token().clone(), bench.source.settler());
    bench.settle(first, Disposition::Release).await.expect("release works");
    let again = bench.receive(1, 1).await.remove(0);

    let ack = Settlement {
        token: old,
        disposition: Disposition::Ack(Reply::default()),
    };
    let answers = settler.settle(vec![ack]).await;
    assert_eq!(answers.len(), 1, "each settlement has its answer");

    bench
        .settle(again, Disposition::Release)
        .await
        .expect("an ack under an earlier delivery's token does not end the lease of the latest one");
    let third = bench.receive(1, 1).await.remove(0);
    bench.ack(third).await;
}

async fn a_dropped_receive_loses_nothing(mut bench: Bench) {
    for _ in 0..5 {
        drop(timeout(Duration::from_millis(20), bench.source.receive(1)).await);
    }
    let sent = bench.publish(3).await;
    let received = bench.receive(3, 2).await;
    assert_eq!(
        payloads(&received),
        sent.into_iter().collect(),
        "asking, giving up and asking again loses nothing"
    );
    for delivery in received {
        bench.ack(delivery).await;
    }
}

async fn settling_works_after_close(mut bench: Bench) {
    bench.publish(1).await;
    let delivery = bench.receive(1, 1).await.remove(0);
    bench.source.close().await.expect("close works");
    bench.ack(delivery).await;
}

async fn a_released_delivery_comes_again(mut bench: Bench) {
    bench.publish(1).await;
    let first = bench.receive(1, 1).await.remove(0);
    let (payload, attempt) = (first.message.payload.clone(), first.message.attempt);
    bench.settle(first, Disposition::Release).await.expect("release works");
    let again = bench.receive(1, 1).await.remove(0);
    assert_eq!(again.message.payload, payload, "a released message comes again");
    if bench.source.capabilities().counts_redeliveries {
        assert_eq!(again.message.attempt, attempt, "a release counts no attempt");
    }
    bench.ack(again).await;
}

async fn a_dropped_delivery_comes_again(mut bench: Bench) {
    bench.publish(1).await;
    drop(bench.receive(1, 1).await);
    let again = bench.receive(1, 1).await.remove(0);
    bench.ack(again).await;
}

async fn a_nacked_delivery_comes_again(mut bench: Bench, can_wait: bool) {
    bench.publish(1).await;
    let first = bench.receive(1, 1).await.remove(0);
    let delay = can_wait.then_some(QUIET * 2);
    bench
        .settle(
            first,
            Disposition::Nack {
                delay,
                attempts: Vec::new(),
            },
        )
        .await
        .expect("nack works");
    if can_wait {
        assert!(bench.is_quiet().await, "a nacked message waits for its delay");
    }
    let again = bench.receive(1, 1).await.remove(0);
    bench.ack(again).await;
}

async fn a_nack_with_a_counted_attempt_raises_the_number(mut bench: Bench) {
    bench.publish(1).await;
    let first = bench.receive(1, 1).await.remove(0);
    assert_eq!(first.message.attempt, 1, "the first delivery is attempt 1");
    let error = crate::Error::retry("battery");
    let attempt = crate::Attempt::failed(1, std::time::SystemTime::now(), Duration::ZERO, &error);
    let nack = Disposition::Nack {
        delay: None,
        attempts: vec![attempt],
    };
    bench.settle(first, nack).await.expect("nack works");
    let again = bench.receive(1, 1).await.remove(0);
    assert_eq!(
        again.message.attempt, 2,
        "after one failed attempt the next is number 2"
    );
    bench.ack(again).await;
}

async fn a_live_lease_can_be_extended(mut bench: Bench) {
    bench.publish(1).await;
    let delivery = bench.receive(1, 1).await.remove(0);
    let lease = bench
        .source
        .capabilities()
        .lease
        .expect("a source that extends says how long its leases are");
    let results = bench
        .source
        .settler()
        .extend(vec![delivery.receipt.token().clone()], lease)
        .await;
    assert!(
        matches!(results.as_slice(), [Ok(())]),
        "a live lease can be extended: {results:?}"
    );
    bench.ack(delivery).await;
    let stale = bench
        .source
        .settler()
        .extend(vec![crate::Token::new(u64::MAX / 2, 7)], lease)
        .await;
    assert_eq!(stale.len(), 1, "each extension has its answer");
}
