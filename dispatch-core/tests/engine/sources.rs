use dispatch_core::{
    Capabilities, Class, Received, Settler, Source,
    testing::{Faults, FaultySource},
};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_is_asked_again_for_ever_and_shows_it() {
    let faults = Faults::default();
    faults.fail("probe", 5, Class::Unavailable);
    faults.fail("receive", 30, Class::Unavailable);
    let memory = MemorySource::new();
    let queue = memory.queue();
    queue.push(Message::new("x"));
    let sink = MemorySink::new();
    let pipeline = Pipeline::builder("test")
        .source(FaultySource::new(memory, faults.clone()))
        .sink(sink.clone())
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    tokio::time::sleep(Duration::from_millis(1)).await;
    let status = handle.status();
    let source = status
        .components
        .iter()
        .find(|component| component.label == "source")
        .unwrap();
    assert!(
        !status.ready
            && source
                .error
                .as_deref()
                .is_some_and(|error| error.contains("injected: probe"))
    );
    sink.took(1).await;
    assert!(handle.status().ready && faults.are_spent());

    handle.drain();
    assert!(run.await.unwrap().unwrap().finished);
}

#[tokio::test(start_paused = true)]
async fn several_sources_take_turns_and_a_dead_one_stops_nobody() {
    let faults = Faults::default();
    faults.fail("probe", 1_000, Class::Unavailable);
    let (one, two) = (MemorySource::new(), MemorySource::new());
    for n in 0..100 {
        one.queue().push(Message::new(format!("one-{n}")));
        two.queue().push(Message::new(format!("two-{n}")));
    }
    let sink = MemorySink::new();
    let pipeline = Pipeline::builder("test")
        .source(FaultySource::new(MemorySource::new(), faults))
        .source(one)
        .source(two)
        .sink(sink.clone())
        .concurrency(5)
        .prefetch(0)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    sink.took(200).await;

    let early: Vec<_> = sink.texts().into_iter().take(100).collect();
    let ones = early.iter().filter(|text| text.starts_with("one")).count();
    assert!((40..=60).contains(&ones), "{ones} of 100 from the first");
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn pause_stops_receiving_and_resume_goes_on() {
    let source = MemorySource::new();
    let queue = source.queue();
    let sink = MemorySink::new();
    let pipeline = pipeline(source, &sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    queue.push(Message::new("before"));
    sink.took(1).await;

    handle.pause();
    tokio::time::sleep(Duration::from_millis(10)).await;
    queue.push(Message::new("while"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((queue.received(), queue.holds(), handle.status().paused), (1, 1, true));
    handle.resume();
    sink.took(2).await;

    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_after_long_idling_is_picked_up_at_once() {
    let source = MemorySource::new();
    let queue = source.queue();
    let sink = MemorySink::new();
    let pipeline = pipeline(source, &sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let pushed = tokio::time::Instant::now();

    queue.push(Message::new("x"));
    sink.took(1).await;

    assert!(pushed.elapsed() < Duration::from_millis(2), "{:?}", pushed.elapsed());
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_until_the_last_of_its_sources_has_ended() {
    let (ending, open) = (MemorySource::ending(numbered(3)), MemorySource::new());
    let queue = open.queue();
    let sink = MemorySink::new();
    let pipeline = Pipeline::builder("test")
        .source(ending)
        .source(open)
        .sink(sink.clone())
        .build()
        .unwrap();
    let run = tokio::spawn(pipeline.run());
    sink.took(3).await;
    tokio::time::sleep(Duration::from_secs(60)).await;

    queue.push(Message::new("late"));
    sink.took(4).await;
    assert!(!run.is_finished());
    queue.end();

    assert_eq!(run.await.unwrap().unwrap().delivered, 4);
}

#[tokio::test(start_paused = true)]
async fn what_a_source_says_when_it_is_opened_ends_the_run_before_anything_is_received() {
    struct Nowhere(MemorySource);

    #[async_trait::async_trait]
    impl Source for Nowhere {
        fn capabilities(&self) -> Capabilities {
            self.0.capabilities()
        }
        fn settler(&self) -> Arc<dyn Settler> {
            self.0.settler()
        }
        async fn open(&mut self) -> Result<(), Error> {
            Err(Error::unavailable("no such queue"))
        }
        async fn receive(&mut self, max: usize) -> Result<Received, Error> {
            self.0.receive(max).await
        }
    }
    let source = MemorySource::ending(numbered(1));
    let queue = source.queue();

    let run = Pipeline::builder("test")
        .source(Nowhere(source))
        .sink(MemorySink::new())
        .run();
    let error = run.await.unwrap_err();

    assert_eq!(
        (error.to_string().as_str(), queue.received()),
        ("source: no such queue", 0)
    );
}
