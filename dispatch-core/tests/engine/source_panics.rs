use std::sync::atomic::Ordering::Relaxed;

use dispatch_core::{
    Capabilities, Received, Settler, Source,
    testing::{Logs, MemoryQueue},
};

use super::*;

/// Panics in these calls, counted from 1, and is a good source in all others.
struct Panics {
    inner: MemorySource,
    receives: &'static [u32],
    probes: &'static [u32],
    made: (u32, u32),
    /// Whether it was connected since its last panic.
    connected: bool,
}

impl Panics {
    const fn of(inner: MemorySource, receives: &'static [u32], probes: &'static [u32]) -> Self {
        Self {
            inner,
            receives,
            probes,
            made: (0, 0),
            connected: false,
        }
    }
}

#[async_trait::async_trait]
impl Source for Panics {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn settler(&self) -> Arc<dyn Settler> {
        self.inner.settler()
    }
    async fn probe(&mut self) -> Result<(), Error> {
        self.made.0 += 1;
        assert!(!self.probes.contains(&self.made.0), "as it connects");
        self.connected = true;
        Ok(())
    }
    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        self.made.1 += 1;
        if !self.connected {
            // Nothing more comes, so that the test fails at once.
            return Ok(Received::End);
        }
        let received = self.inner.receive(max.min(1)).await;
        if self.receives.contains(&self.made.1) {
            self.connected = false;
            panic!("as it receives, call {}", self.made.1);
        }
        received
    }
}

struct Outcome {
    summary: Summary,
    texts: Vec<String>,
    errors: u64,
    logs: Logs,
}

/// Runs ten messages to their end.
async fn run(receives: &'static [u32], probes: &'static [u32]) -> Outcome {
    let (logs, _guard) = Logs::gather();
    let sink = MemorySink::new();
    let pipeline = Pipeline::builder("test")
        .source(Panics::of(MemorySource::ending(numbered(10)), receives, probes))
        .sink(sink.clone())
        .concurrency(1)
        .prefetch(0)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::time::timeout(Duration::from_secs(600), pipeline.run());
    let summary = run.await.expect("the source goes on").unwrap();
    let mut texts = sink.texts();
    texts.sort();
    Outcome {
        summary,
        texts,
        errors: handle.stats().source_errors.load(Relaxed),
        logs,
    }
}

fn assert_all_delivered(outcome: &Outcome) {
    let all: Vec<_> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!((outcome.summary.delivered, &outcome.texts), (10, &all));
    assert!(outcome.summary.finished);
    assert_balanced(&outcome.summary);
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_receiving_loses_nothing_and_the_source_goes_on() {
    let outcome = run(&[3], &[]).await;

    assert_all_delivered(&outcome);
    assert_eq!(outcome.errors, 1);
    assert_eq!(outcome.logs.count("ERROR", "panicked: as it receives, call 3"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_as_it_connects_is_connected_again() {
    let outcome = run(&[], &[1, 2]).await;

    assert_all_delivered(&outcome);
    assert_eq!(outcome.errors, 2);
    assert_eq!(outcome.logs.count("ERROR", "panicked: as it connects"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_waited_out_and_connecting_again_may_panic_too() {
    let started = tokio::time::Instant::now();

    let outcome = run(&[1, 2], &[2]).await;

    assert_all_delivered(&outcome);
    assert_eq!(outcome.errors, 3);
    assert!(
        started.elapsed() >= Duration::from_millis(350),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_that_always_panics_stops_nobody_else_and_drains() {
    let other = MemorySource::new();
    let queue: MemoryQueue = other.queue();
    let sink = MemorySink::new();
    let pipeline = Pipeline::builder("test")
        .source(Panics::of(MemorySource::new(), &[], ALWAYS))
        .source(other)
        .sink(sink.clone())
        .shards(2)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    tokio::time::sleep(Duration::from_secs(1)).await;

    queue.push(Message::new("x"));
    let took = tokio::time::timeout(Duration::from_secs(60), sink.took(1));
    took.await.expect("the other source goes on");

    let status = handle.status();
    assert!(!status.ready);
    assert!(
        status
            .components
            .iter()
            .any(|part| part.error.as_deref() == Some("panicked: as it connects"))
    );
    handle.drain();
    assert!(run.await.unwrap().unwrap().finished);
}

const ALWAYS: &[u32] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20];

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_as_it_is_opened_ends_the_run_with_an_error() {
    struct Broken(MemorySource);

    #[async_trait::async_trait]
    impl Source for Broken {
        fn capabilities(&self) -> Capabilities {
            self.0.capabilities()
        }
        fn settler(&self) -> Arc<dyn Settler> {
            self.0.settler()
        }
        async fn open(&mut self) -> Result<(), Error> {
            panic!("as it opens")
        }
        async fn receive(&mut self, max: usize) -> Result<Received, Error> {
            self.0.receive(max).await
        }
    }

    let error = Pipeline::builder("test")
        .source(Broken(MemorySource::new()))
        .sink(MemorySink::new())
        .run()
        .await
        .unwrap_err();

    assert_eq!(error.to_string(), "source: panicked: as it opens");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_as_it_closes_is_no_clean_end() {
    struct Clumsy(MemorySource);

    #[async_trait::async_trait]
    impl Source for Clumsy {
        fn capabilities(&self) -> Capabilities {
            self.0.capabilities()
        }
        fn settler(&self) -> Arc<dyn Settler> {
            self.0.settler()
        }
        async fn receive(&mut self, max: usize) -> Result<Received, Error> {
            self.0.receive(max).await
        }
        async fn close(&mut self) -> Result<(), Error> {
            panic!("as it closes")
        }
    }

    let summary = Pipeline::builder("test")
        .source(Clumsy(MemorySource::ending(numbered(3))))
        .sink(MemorySink::new())
        .run()
        .await
        .unwrap();

    assert_eq!((summary.delivered, summary.finished), (3, false));
}
