//! A message of the Store's own queue that is given up on: its letter and the end of its lease are one step.

use std::{
    collections::BTreeMap,
    sync::{Mutex, atomic::Ordering::Relaxed},
};

use dispatch_core::{
    Class,
    pipeline::{Handle, parked_queue},
    store::{Item, QueueSource},
    testing::{Faults, FaultyStore},
};
use tokio::task::JoinHandle;

use super::{lanes::by_key, *};

/// A queue whose Store is told to fail, and what has become of its messages.
struct Bench {
    memory: Arc<MemoryStore>,
    store: Arc<dyn Store>,
    faults: Faults,
}

struct Run {
    handle: Handle,
    ended: JoinHandle<Result<Summary, Error>>,
}

impl Bench {
    async fn filled(messages: impl IntoIterator<Item = Message>) -> Self {
        let (memory, faults) = (Arc::new(MemoryStore::new()), Faults::default());
        let items = messages.into_iter().map(|message| Item::of(&message)).collect();
        memory.queue().enqueue("q", items).await.unwrap();
        Self {
            store: Arc::new(FaultyStore::new(memory.clone(), faults.clone())),
            memory,
            faults,
        }
    }

    fn start(&self, sink: &MemorySink, change: impl FnOnce(PipelineBuilder) -> PipelineBuilder) -> Run {
        let source = QueueSource::new(Arc::clone(&self.store), "q");
        let builder = Pipeline::builder("test")
            .source(source)
            .sink(sink.clone())
            .store(Arc::clone(&self.store))
            .stack(|stack| stack.breaker = None);
        let pipeline = change(builder).build().unwrap();
        Run {
            handle: pipeline.handle(),
            ended: tokio::spawn(pipeline.run()),
        }
    }

    /// Waits until nothing is in the queue, and so many letters are there.
    async fn emptied(&self, count: usize) -> Vec<DeadLetter> {
        let emptied = async {
            loop {
                let depth = self.memory.queue().depth("q").await.unwrap();
                let letters = letters(&self.memory).await;
                if depth.ready + depth.delayed + depth.leased == 0 && letters.len() >= count {
                    return letters;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3_600), emptied).await.unwrap()
    }
}

impl Run {
    async fn drained(self) -> Summary {
        self.handle.drain();
        self.ended.await.unwrap().unwrap()
    }
}

fn refusing() -> MemorySink {
    MemorySink::answering(|_| Err(Error::permanent("no such account").with_code("404")))
}

#[tokio::test(start_paused = true)]
async fn a_letter_goes_with_the_end_of_its_lease() {
    let message = Message::with_id("m", &b"\xff\x00raw"[..]).header("x-of", "queue");
    let bench = Bench::filled([message]).await;
    let sink = refusing();
    let run = bench.start(&sink, |pipeline| pipeline);

    let letters = bench.emptied(1).await;
    let summary = run.drained().await;

    let letter = &letters[0];
    assert_eq!(
        (
            letters.len(),
            letter.id.as_str(),
            letter.source.as_str(),
            letter.reason.as_str()
        ),
        (1, "m", "source", "permanent")
    );
    assert_eq!((&letter.payload[..], letter.attempts.len()), (&b"\xff\x00raw"[..], 1));
    assert_eq!(
        (bench.faults.calls("queue_settle"), bench.faults.calls("bury")),
        (1, 0),
        "one step, no trip more"
    );
    assert_eq!((summary.dead_lettered, sink.calls()["m"]), (1, 1));
    assert_balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_fails_for_a_while_is_made_again_and_the_task_is_not() {
    let bench = Bench::filled(numbered(3)).await;
    bench.faults.fail("queue_settle", 3, Class::Unavailable);
    let sink = refusing();
    let run = bench.start(&sink, |pipeline| pipeline);
    let counts = Arc::clone(run.handle.stats());

    sink.called(3).await;
    while bench.faults.calls("queue_settle") == 0 || run.handle.status().ready {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(counts.dead_lettered.load(Relaxed), 0, "counted when it is written");
    let letters = bench.emptied(3).await;
    while !run.handle.status().ready {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let summary = run.drained().await;

    assert!(bench.faults.are_spent());
    assert_eq!((letters.len(), summary.dead_lettered), (3, 3));
    assert!(sink.calls().values().all(|calls| *calls == 1), "{:?}", sink.calls());
    assert_eq!(bench.faults.calls("bury"), 0);
    assert_balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_buried_is_given_back_and_comes_again() {
    for (class, times) in [(Class::Unavailable, 6), (Class::Permanent, 1)] {
        let bench = Bench::filled(numbered(1)).await;
        bench.faults.fail("queue_settle", times, class);
        let sink = refusing();
        let run = bench.start(&sink, |pipeline| pipeline);

        let letters = bench.emptied(1).await;
        let summary = run.drained().await;

        assert!(bench.faults.are_spent(), "{class:?}");
        assert_eq!((letters.len(), sink.calls()["m0"]), (1, 2), "{class:?}");
        assert_eq!(letters[0].attempts.len(), 2, "{class:?}: every attempt is known");
        assert_eq!((summary.dead_lettered, summary.nacked), (1, 1), "{class:?}");
        assert_balanced(&summary);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_and_each_letter_is_there_once_however_settlements_fail() {
    let bench = Bench::filled(numbered(300)).await;
    for class in [Class::Unavailable, Class::Permanent, Class::Retry, Class::Unavailable] {
        bench.faults.fail("queue_settle", 3, class);
    }
    let delivered: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let sink = {
        let delivered = Arc::clone(&delivered);
        MemorySink::slow(Duration::from_millis(3), move |message| {
            let n: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
            match n % 3 {
                0 => Err(Error::permanent("bad")),
                1 if message.attempt == 1 => no("later"),
                _ => {
                    *delivered.lock().unwrap().entry(message.id().to_string()).or_default() += 1;
                    Ok(())
                }
            }
        })
    };
    let run = bench.start(&sink, |pipeline| {
        pipeline.concurrency(7).retry(RetryPolicy {
            stay: Duration::ZERO,
            ..every(Duration::from_secs(2))
        })
    });

    let letters = bench.emptied(100).await;
    let summary = run.drained().await;

    assert!(bench.faults.are_spent());
    let mut ids: Vec<_> = letters.iter().map(|letter| letter.id.to_string()).collect();
    ids.sort_unstable();
    let mut expected: Vec<_> = (0..300).step_by(3).map(|n| format!("m{n}")).collect();
    expected.sort_unstable();
    assert_eq!(ids, expected, "each letter exactly once");
    assert_eq!(delivered.lock().unwrap().len(), 200, "nothing is lost");
    assert_eq!((summary.dead_lettered, bench.faults.calls("bury")), (100, 0));
    assert_balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn a_parked_message_names_the_source_it_came_from() {
    let (memory, faults) = (Arc::new(MemoryStore::new()), Faults::default());
    let store = Arc::new(FaultyStore::new(memory.clone(), faults.clone()));
    let sink = MemorySink::answering(|_| no("always"));

    let summary = pipeline(MemorySource::ending(numbered(1)).poor(), &sink)
        .store(store)
        .retry(RetryPolicy {
            max_attempts: 2,
            ..every(Duration::from_secs(60))
        })
        .run()
        .await
        .unwrap();

    let letters = letters(&memory).await;
    assert_eq!(
        (letters.len(), letters[0].source.as_str(), letters[0].reason.as_str()),
        (1, "source", "exhausted")
    );
    assert_eq!(letters[0].attempts.len(), 2);
    assert_eq!((faults.calls("queue_settle"), faults.calls("bury")), (1, 0));
    let depth = memory.queue().depth(&parked_queue("test")).await.unwrap();
    assert_eq!(depth.ready + depth.delayed + depth.leased, 0);
    assert_balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn the_queue_of_another_store_is_told_after_the_letter() {
    let bench = Bench::filled(numbered(1)).await;
    let letters_store = Arc::new(MemoryStore::new());
    let run = bench.start(&refusing(), |pipeline| pipeline.store(letters_store.clone()));

    bench.emptied(0).await;
    let summary = run.drained().await;

    assert_eq!(
        (letters(&letters_store).await.len(), letters(&bench.memory).await.len()),
        (1, 0)
    );
    assert_eq!((summary.dead_lettered, bench.faults.calls("queue_settle")), (1, 1));
}

/// Those behind it in its lane wait until it is known that it does not come again.
#[tokio::test(start_paused = true)]
async fn a_lane_goes_on_once_its_head_is_buried() {
    let messages = (0..3).map(|n| Message::with_id(format!("m{n}"), n.to_string()).with_key("k"));
    let bench = Bench::filled(messages).await;
    bench.faults.fail("queue_settle", 6, Class::Unavailable);
    let (seen, counts) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None::<Handle>)));
    let sink = {
        let (seen, counts) = (Arc::clone(&seen), Arc::clone(&counts));
        MemorySink::answering(move |message| {
            let buried = counts
                .lock()
                .unwrap()
                .as_ref()
                .map_or(0, |handle: &Handle| handle.stats().dead_lettered.load(Relaxed));
            seen.lock().unwrap().push((message.id().to_string(), buried));
            if message.id() == "m0" {
                Err(Error::permanent("bad"))
            } else {
                Ok(())
            }
        })
    };
    let run = bench.start(&sink, |pipeline| pipeline.lanes(by_key(true)));
    *counts.lock().unwrap() = Some(run.handle.clone());

    bench.emptied(1).await;
    let summary = run.drained().await;

    let seen = seen.lock().unwrap().clone();
    let seen: Vec<_> = seen.iter().map(|(id, buried)| (id.as_str(), *buried)).collect();
    assert_eq!(seen, [("m0", 0), ("m0", 0), ("m1", 1), ("m2", 1)]);
    assert_eq!((summary.dead_lettered, summary.delivered), (1, 2));
}
