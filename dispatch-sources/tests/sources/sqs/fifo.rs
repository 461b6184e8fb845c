use std::collections::HashMap;

use dispatch_core::{Delivery, Disposition, Error, Order, Received, SettleError, Settlement, Source as _};
use dispatch_sources::sqs::fake::{FakeMessage, Fault};

use super::*;

fn fake() -> Fake {
    let fake = Fake::new();
    fake.create_queue("q.fifo", QueueOptions::default());
    fake
}

fn put(fake: &Fake, group: &str, body: impl ToString) {
    let body = body.to_string();
    let message = FakeMessage::new(body.clone())
        .group(group)
        .dedup(format!("{group}/{body}"));
    fake.send_message("q.fifo", message);
}

fn source(fake: &Fake) -> SqsSource {
    source_of(fake, "q.fifo", |config| config.pollers = 4)
}

#[tokio::test(start_paused = true)]
async fn the_order_of_each_group_is_kept_while_one_in_ten_fails() {
    let fake = fake();
    for n in 0..600 {
        put(&fake, &format!("g{}", n % 7), n);
    }
    let sink = MemorySink::slow(Duration::from_millis(30), |message| {
        let n: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        if n.is_multiple_of(10) && message.attempt < 3 {
            Err(Error::retry("tenth"))
        } else {
            Ok(())
        }
    });
    let pipeline = pipeline(source(&fake), &sink)
        .concurrency(32)
        .retry(every(Duration::from_secs(20)))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    until("all are deleted", || fake.deleted("q.fifo") == 600).await;
    handle.drain();
    let summary = run.await.unwrap().unwrap();

    let mut last = HashMap::new();
    for message in sink.messages() {
        let n: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        let before = last.insert(message.key().cloned(), n);
        assert!(before.is_none_or(|before| before < n), "{n} after {before:?}");
    }
    assert_eq!((summary.delivered, summary.nacked), (600, 120));
}

#[tokio::test(start_paused = true)]
async fn groups_do_not_wait_for_each_other() {
    let fake = fake();
    for group in ["a", "b", "c"] {
        (0..3).for_each(|n| put(&fake, group, n));
    }
    let sink = MemorySink::slow(10 * SECOND, |_| Ok(()));
    let pipeline = pipeline(source(&fake), &sink)
        .concurrency(8)
        .prefetch(8)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let began = tokio::time::Instant::now();
    let run = tokio::spawn(pipeline.run());

    sink.took(9).await;

    assert_eq!((began.elapsed().as_secs(), sink.most_at_once()), (30, 3));
    handle.drain();
    run.await.unwrap().unwrap();
}

async fn receive(source: &mut SqsSource, count: usize) -> Vec<Delivery> {
    match source.receive(count).await.unwrap() {
        Received::Batch(batch) => batch,
        Received::End => panic!("ended"),
        Received::Health(health) => panic!("{health:?}"),
    }
}

fn acked(delivery: Delivery) -> Settlement {
    Settlement {
        token: delivery.receipt.into_parts().0,
        disposition: Disposition::DeadLetter(Vec::new()),
    }
}

#[tokio::test(start_paused = true)]
async fn none_is_deleted_before_the_one_ahead_of_it() {
    let fake = fake();
    (0..3).for_each(|n| put(&fake, "a", n));
    put(&fake, "b", 0);
    let mut source = source(&fake);
    let mut deliveries = receive(&mut source, 10).await;
    assert_eq!(deliveries.len(), 4);
    let (last, rest) = (deliveries.remove(2), deliveries);
    fake.fail("DeleteMessageBatch", 1, Fault::entries([0]));

    // Of the group a the first fails; its second must not go, nor its third in a call of its own; b is b.
    let mut batch: Vec<_> = rest.into_iter().map(acked).collect();
    let head = batch[0].clone();
    let answers = source.settler().settle(std::mem::take(&mut batch)).await;
    let later = source.settler().settle(vec![acked(last)]).await;

    assert!(
        matches!(
            answers[..],
            [Err(SettleError::Failed(_)), Err(SettleError::Failed(_)), Ok(())]
        ),
        "{answers:?}"
    );
    assert!(matches!(later[..], [Err(SettleError::Failed(_))]), "{later:?}");
    assert_eq!(fake.deleted("q.fifo"), 1);

    assert!(source.settler().settle(vec![head]).await[0].is_ok());
    assert_eq!(fake.deleted("q.fifo"), 2);
}

#[tokio::test]
async fn a_delete_that_is_told_again_is_counted() {
    let fake = fake();
    let server = fake.serve().await;
    (0..3).for_each(|n| put(&fake, "a", n));
    fake.fail("DeleteMessageBatch", 2, Fault::entries([0]));
    let meter = Meter::default().of("source");
    let mut config = config(&fake, "q.fifo");
    config.endpoint_url = Some(server.url());
    config.wait_time = Some(period(1));
    let source = SqsSource::metered(config, &meter).unwrap();
    let pipeline = pipeline(source, &MemorySink::new()).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    until("all are deleted", || read(&meter, "dispatch_sqs_deleted_total") == 3).await;

    assert_eq!(read(&meter, "dispatch_sqs_delete_retried_total"), 2);
    assert_eq!(fake.deleted("q.fifo"), 3);
    // Those behind the one that failed were held up with it, here.
    assert!(handle.stats().settle_retried.load(std::sync::atomic::Ordering::Relaxed) >= 2);
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_group_on_a_standard_queue_orders_nothing() {
    let fake = super::fake();
    for n in 0..4 {
        fake.send_message("q", FakeMessage::new(n.to_string()).group("fair"));
    }
    let source = source_of(&fake, "q", |_| ());
    assert_eq!(source.capabilities().order, Order::None);
    let sink = MemorySink::slow(10 * SECOND, |_| Ok(()));
    let pipeline = pipeline(source, &sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    sink.took(4).await;

    assert_eq!(sink.most_at_once(), 4);
    assert_eq!(sink.messages()[0].key().map(|key| key.as_str()), Some("fair"));
    handle.drain();
    run.await.unwrap().unwrap();
}
