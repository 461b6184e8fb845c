use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use dispatch_core::{
    Capabilities, Class, Disposition, Received, SettleError, Settlement, Settler, Source, Token,
    testing::{Faults, FaultySource},
};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_handler_ten_times_slower_than_the_lease_has_its_message_once() {
    let source = MemorySource::ending(numbered(20)).leasing(Duration::from_secs(3));
    let queue = source.queue();
    let sink = MemorySink::slow(Duration::from_secs(30), |_| Ok(()));

    let summary = pipeline(source, &sink)
        .concurrency(4)
        .prefetch(16)
        .timeout(Duration::from_secs(60))
        .run()
        .await
        .unwrap();

    assert_eq!((summary.received, summary.delivered), (20, 20));
    assert!(sink.calls().values().all(|calls| *calls == 1));
    // At each half of the lease, for what is worked on and what waits alike: 4 for 30 s, 4 for 60 s, …
    assert!((1_000..=1_300).contains(&queue.extended()), "{}", queue.extended());
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_counted_and_its_settlement_changes_nothing() {
    for cancel in [false, true] {
        let source = MemorySource::ending(numbered(1)).leasing(Duration::from_secs(4));
        let queue = source.queue();
        let sink = MemorySink::slow(Duration::from_secs(10), |_| Ok(()));
        let pipeline = pipeline(source, &sink).cancel_on_lost_lease(cancel).build().unwrap();
        let handle = pipeline.handle();
        let run = tokio::spawn(pipeline.run());
        sink.called(1).await;

        queue.expire("m0");
        let summary = run.await.unwrap().unwrap();

        assert_eq!(handle.stats().lease_lost.load(Relaxed), 1, "cancel: {cancel}");
        assert_eq!(
            (summary.received, sink.count()),
            (2, if cancel { 1 } else { 2 }),
            "cancel: {cancel}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_fails_is_tried_again_while_the_lease_is_kept() {
    let faults = Faults::default();
    faults.fail("settle", 3, Class::Unavailable);
    let memory = MemorySource::ending(numbered(1)).leasing(Duration::from_secs(2));
    let sink = MemorySink::new();

    let summary = Pipeline::builder("test")
        .source(FaultySource::new(memory, faults.clone()))
        .sink(sink.clone())
        .run()
        .await
        .unwrap();

    assert!(faults.are_spent());
    assert_eq!((summary.received, sink.count()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_keeps_failing_is_told_as_long_as_the_lease_is_ours() {
    // Extended, the lease outlasts the failures; not extended, it ends: the message comes again, and the first ack is given up.
    for extends in [true, false] {
        let faults = Faults::default();
        faults.fail("settle", if extends { 30 } else { 1_000 }, Class::Unavailable);
        if !extends {
            faults.fail("extend", 1_000, Class::Unavailable);
        }
        let memory = MemorySource::ending(numbered(1)).leasing(Duration::from_secs(20));
        let sink = MemorySink::new();
        let pipeline = Pipeline::builder("test")
            .source(FaultySource::new(memory, faults.clone()))
            .sink(sink.clone())
            .build()
            .unwrap();
        let handle = pipeline.handle();
        let began = tokio::time::Instant::now();
        let run = tokio::spawn(pipeline.run());
        let failed = || handle.stats().settle_failed.load(Relaxed);
        let retried = || handle.stats().settle_retried.load(Relaxed);

        if extends {
            let summary = run.await.unwrap().unwrap();

            assert_eq!((summary.received, sink.count(), failed(), retried()), (1, 1, 0, 30));
        } else {
            while failed() == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }

            assert!(began.elapsed() >= Duration::from_secs(20), "{:?}", began.elapsed());
            assert!(retried() >= 7, "{} times", retried());
            handle.stop_now();
            drop(run.await);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn acks_that_failed_together_are_told_again_apart() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let source = Stubborn(MemorySource::ending(numbered(8)), Arc::clone(&told));
    let sink = MemorySink::new();

    let pipeline = Pipeline::builder("test")
        .source(source)
        .sink(sink.clone())
        .build()
        .unwrap();
    pipeline.run().await.unwrap();

    let times: HashSet<_> = told.lock().unwrap().iter().copied().collect();
    assert!(times.len() > 2, "{times:?}");
}

/// Fails the first settlement of each message, and notes when it is told of them.
struct Stubborn(MemorySource, Arc<Mutex<Vec<tokio::time::Instant>>>);

struct StubbornSettler(
    Arc<dyn Settler>,
    Arc<Mutex<Vec<tokio::time::Instant>>>,
    Mutex<HashSet<u64>>,
);

#[async_trait::async_trait]
impl Settler for StubbornSettler {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        let mut answers = Vec::new();
        for settlement in batch {
            self.1.lock().unwrap().push(tokio::time::Instant::now());
            if self.2.lock().unwrap().insert(settlement.token.number) {
                answers.push(Err(SettleError::Failed(Error::unavailable("not yet"))));
            } else {
                answers.extend(self.0.settle(vec![settlement]).await);
            }
        }
        answers
    }
}

#[async_trait::async_trait]
impl Source for Stubborn {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(StubbornSettler(self.0.settler(), Arc::clone(&self.1), Mutex::default()))
    }
    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        self.0.receive(max).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_nack_that_is_told_again_has_its_delay_still() {
    for delay in [Duration::from_millis(12_345), Duration::from_secs(299)] {
        let faults = Faults::default();
        faults.fail("settle", 3, Class::Unavailable);
        let memory = MemorySource::ending(numbered(1));
        let queue = memory.queue();
        let tried = std::sync::atomic::AtomicBool::new(false);
        let sink = MemorySink::answering(move |_| if tried.swap(true, Relaxed) { Ok(()) } else { no("once") });

        let policy = RetryPolicy {
            stay: Duration::ZERO,
            ..every(delay)
        };
        let source = FaultySource::new(memory, faults.clone());
        let pipeline = Pipeline::builder("test").source(source).sink(sink).retry(policy);
        pipeline.run().await.unwrap();

        assert!(faults.are_spent());
        let told = queue
            .settled()
            .into_iter()
            .find_map(|(_, disposition)| match disposition {
                Disposition::Nack { delay, .. } => Some(delay),
                _ => None,
            });
        assert_eq!(told, Some(Some(delay)));
    }
}

/// A source whose nacks take a while, and which notes when it is told to extend.
struct SlowNacks(MemorySource, Arc<AtomicBool>);

struct SlowSettler(Arc<dyn Settler>, Arc<AtomicBool>, AtomicBool);

#[async_trait::async_trait]
impl Source for SlowNacks {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(SlowSettler(
            self.0.settler(),
            Arc::clone(&self.1),
            AtomicBool::new(false),
        ))
    }
    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        self.0.receive(max).await
    }
}

#[async_trait::async_trait]
impl Settler for SlowSettler {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        if batch.iter().any(|settlement| !settlement.disposition.is_final()) {
            self.2.store(true, Relaxed);
            tokio::time::sleep(Duration::from_secs(3)).await;
            self.2.store(false, Relaxed);
        }
        self.0.settle(batch).await
    }
    async fn extend(&self, batch: Vec<Token>, by: Duration) -> Vec<Result<(), SettleError>> {
        self.1.fetch_or(self.2.load(Relaxed), Relaxed);
        self.0.extend(batch, by).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_back_is_not_made_to_stay() {
    let source = MemorySource::ending(numbered(1)).leasing(Duration::from_secs(4));
    let late = Arc::new(AtomicBool::new(false));
    let sink = MemorySink::answering(|message| if message.attempt == 1 { no("first") } else { Ok(()) });

    let summary = Pipeline::builder("test")
        .source(SlowNacks(source, Arc::clone(&late)))
        .sink(sink.clone())
        .retry(every(Duration::from_secs(60)))
        .run()
        .await
        .unwrap();

    assert_eq!((summary.nacked, summary.delivered), (1, 1));
    assert!(
        !late.load(Relaxed),
        "a lease was extended while its message was given back"
    );
}

#[tokio::test(start_paused = true)]
async fn a_nack_or_a_release_that_fails_is_told_again() {
    let faults = Faults::default();
    let memory = MemorySource::ending(numbered(1));
    let answers = std::sync::atomic::AtomicU32::new(0);
    let sink = MemorySink::answering(move |_| match answers.fetch_add(1, Relaxed) {
        0 => no("once"),
        _ => Ok(()),
    });
    faults.fail("settle", 3, Class::Unavailable);

    let summary = Pipeline::builder("test")
        .source(FaultySource::new(memory, faults.clone()))
        .sink(sink.clone())
        // Longer than what is waited here, so that the source is told.
        .retry(every(Duration::from_secs(10)))
        .run()
        .await
        .unwrap();

    assert!(faults.are_spent());
    assert_eq!((summary.received, summary.nacked, summary.delivered), (2, 1, 1));
}

/// Answers for nothing.
struct Mute(MemorySource);

struct Silence(Arc<dyn Settler>);

#[async_trait::async_trait]
impl Settler for Silence {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        self.0.settle(batch).await;
        Vec::new()
    }
}

#[async_trait::async_trait]
impl Source for Mute {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(Silence(self.0.settler()))
    }
    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        self.0.receive(max).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_settler_that_does_not_answer_is_counted_as_failed() {
    let sink = MemorySink::new();
    let pipeline = Pipeline::builder("test")
        .source(Mute(MemorySource::ending(numbered(2))))
        .sink(sink.clone())
        .build()
        .unwrap();
    let handle = pipeline.handle();

    pipeline.run().await.unwrap();

    assert_eq!((sink.count(), handle.stats().settle_failed.load(Relaxed)), (2, 2));
}

/// Takes back whatever is to be extended.
struct Withdrawing(MemorySource);

struct Withdrawer(Arc<dyn Settler>);

#[async_trait::async_trait]
impl Settler for Withdrawer {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        self.0.settle(batch).await
    }
    async fn extend(&self, batch: Vec<Token>, _: Duration) -> Vec<Result<(), SettleError>> {
        batch.iter().map(|_| Err(SettleError::Withdrawn)).collect()
    }
}

#[async_trait::async_trait]
impl Source for Withdrawing {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(Withdrawer(self.0.settler()))
    }
    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        self.0.receive(max).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_withdrawn_is_dropped_whatever_becomes_of_lost_leases() {
    let source = MemorySource::ending(numbered(3)).leasing(Duration::from_secs(4));
    let queue = source.queue();
    let sink = MemorySink::slow(Duration::from_secs(60), |_| Ok(()));
    let pipeline = Pipeline::builder("test")
        .source(Withdrawing(source))
        .sink(sink.clone())
        .concurrency(2)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let begun = tokio::time::Instant::now();
    tokio::spawn(pipeline.run());

    while queue.settled().len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // Looked for at each quarter of the lease, once it has come to its half.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let settled = queue.settled();
    assert!(
        settled[..2]
            .iter()
            .all(|(_, how)| *how == dispatch_core::Disposition::Release),
        "{settled:?}"
    );
    assert_eq!((sink.count(), handle.stats().lease_lost.load(Relaxed)), (0, 0));
    handle.stop_now();
}
