//! What the far side's health and those who watch change, and what they do not.

use std::sync::{
    Mutex,
    atomic::{
        AtomicBool, AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};

use async_trait::async_trait;
use dispatch_core::{BoxError, Fanout, HealthCheck, Reply, Sink, pipeline::Phase, sink_fn, testing::Logs};
use tokio::sync::Notify;

use super::*;

/// A sink that takes everything, and whose far side is as well as one says.
struct Checked {
    sink: MemorySink,
    well: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
}

#[async_trait]
impl Sink for Checked {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        self.sink.send(message).await
    }

    fn health(&self) -> Vec<HealthCheck> {
        let (well, asked) = (self.well.clone(), self.asked.clone());
        let check = HealthCheck::new(move || {
            asked.fetch_add(1, SeqCst);
            let well = well.load(SeqCst);
            async move { if well { Ok(()) } else { Err(Error::unavailable("503")) } }
        });
        vec![check.every(Duration::from_secs(10)).healthy(2).unhealthy(3)]
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_received_while_the_far_side_is_not_well() {
    let (well, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let source = MemorySource::new();
    let queue = source.queue();
    numbered(1).into_iter().for_each(|message| queue.push(message));
    let sink = MemorySink::new();
    let checked = Checked {
        sink: sink.clone(),
        well: well.clone(),
        asked: asked.clone(),
    };
    // Within another sink, which hands the check on.
    let pipeline = Pipeline::builder("test")
        .source(source)
        .sink(Fanout::new(vec![Arc::new(checked)]))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    let health = |handle: &dispatch_core::pipeline::Handle| {
        let status = handle.status();
        let own = status
            .components
            .into_iter()
            .find(|part| part.label == "health")
            .unwrap();
        (own.connected, own.error, status.ready)
    };

    // Ill from the start: asked each second, nothing received.
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    assert_eq!((queue.received(), asked.load(SeqCst)), (0, 6));
    assert_eq!(health(&handle), (false, Some("503".into()), false));

    // An operator's resume does not make it well; two good answers do.
    handle.pause();
    handle.resume();
    well.store(true, SeqCst);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(queue.received(), 0);
    sink.took(1).await;
    assert_eq!(health(&handle), (true, None, true));

    // Two bad answers are a hiccup, three are not.
    well.store(false, SeqCst);
    tokio::time::sleep(Duration::from_millis(11_500)).await;
    assert!(health(&handle).0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(health(&handle), (false, Some("503".into()), false));
    numbered(1).into_iter().for_each(|message| queue.push(message));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(queue.received(), 1);

    // Well again, but paused in between: both must end.
    handle.pause();
    well.store(true, SeqCst);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((queue.received(), handle.status().paused), (1, true));
    handle.resume();
    sink.took(2).await;

    handle.drain();
    let ended = run.await.unwrap().unwrap();
    assert!(ended.finished);
    let before = asked.load(SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(asked.load(SeqCst), before, "checks end with the run");
}

#[tokio::test(start_paused = true)]
async fn an_ill_pipeline_drains_at_once() {
    let well = Arc::new(AtomicBool::new(false));
    let checked = Checked {
        sink: MemorySink::new(),
        well,
        asked: Arc::default(),
    };
    let pipeline = Pipeline::builder("test")
        .source(MemorySource::new())
        .sink(checked)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    tokio::time::sleep(Duration::from_secs(3)).await;

    handle.drain();

    assert!(run.await.unwrap().unwrap().finished);
}

#[tokio::test(start_paused = true)]
async fn what_is_being_worked_on_can_be_seen_until_the_end_of_a_drain() {
    for shards in [1, 3] {
        let (started, release) = (Arc::new(Mutex::new(0)), Arc::new(Notify::new()));
        let source = MemorySource::new();
        let queue = source.queue();
        let sink = sink_fn({
            let (started, release) = (started.clone(), release.clone());
            move |_| {
                let (started, release) = (started.clone(), release.clone());
                async move {
                    *started.lock().unwrap() += 1;
                    release.notified().await;
                    Ok::<_, BoxError>(())
                }
            }
        });
        let pipeline = Pipeline::builder("test")
            .source(source)
            .sink(sink)
            .timeout(Duration::from_secs(3_600))
            .concurrency(2 * shards)
            .prefetch(4)
            .shards(shards)
            .build()
            .unwrap();
        let handle = pipeline.handle();
        assert!(handle.in_progress().await.is_empty(), "before it runs");
        let run = tokio::spawn(pipeline.run());

        queue.push(Message::with_id("first", ""));
        tokio::time::sleep(Duration::from_secs(5)).await;
        for message in numbered(20) {
            queue.push(message);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;

        let all = handle.in_progress().await;
        assert_eq!(
            (all.len(), handle.concurrency()),
            (2 * shards, 2 * shards),
            "what waits is not listed"
        );
        assert_eq!(all[0].message.id(), "first");
        assert!(all.is_sorted_by_key(|one| one.started_at));

        // Several may ask at once, and while it drains.
        handle.drain();
        let (one, other) = tokio::join!(handle.in_progress(), handle.in_progress());
        assert_eq!((one.len(), other.len()), (2 * shards, 2 * shards), "{shards}");

        while *started.lock().unwrap() < 2 * shards {
            tokio::task::yield_now().await;
        }
        for _ in 0..2 * shards {
            release.notify_one();
        }
        run.await.unwrap().unwrap();
        assert!(handle.in_progress().await.is_empty(), "after it ran");
        assert_eq!(handle.status().phase, Phase::Ended);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_stuck_at_the_sink_is_told_once_and_counted() {
    let (logs, _guard) = Logs::gather();
    let minute = Duration::from_secs(60);
    let released = Arc::new(Notify::new());
    let sink = {
        let released = released.clone();
        sink_fn(move |_: Message| {
            let released = released.clone();
            async move {
                released.notified().await;
                Ok::<_, BoxError>(())
            }
        })
    };
    let source = MemorySource::new();
    let queue = source.queue();
    let pipeline = Pipeline::builder("test")
        .source(source)
        .sink(sink)
        .stack(|stack| stack.timeout = None)
        .stuck_after(Some(5 * minute))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let stuck = || handle.stats().stuck.load(Relaxed);
    let told = || logs.count("WARN", "message is started and not done");
    let run = tokio::spawn(pipeline.run());

    queue.push(Message::with_id("slow", ""));
    tokio::time::sleep(4 * minute).await;
    assert_eq!((stuck(), told()), (0, 0));
    tokio::time::sleep(20 * minute).await;
    assert_eq!((stuck(), told()), (1, 1));
    assert_eq!(logs.count("WARN", "id=slow attempt=1"), 1);

    released.notify_one();
    tokio::time::sleep(minute).await;
    assert_eq!((stuck(), told()), (0, 1));
    assert_eq!(logs.count("ERROR", "does not turn"), 0);
    handle.drain();
    run.await.unwrap().unwrap();
}
