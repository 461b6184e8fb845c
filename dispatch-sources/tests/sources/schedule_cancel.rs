//! `overlap = "cancel"`: a slot takes the place of an earlier one.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use dispatch_core::{
    BoxError, Disposition, MemoryStore, Message, Pipeline, Source as _, Store as _,
    pipeline::Handle,
    sink_fn,
    store::Item,
    testing::source::{Bench, source_battery},
};
use dispatch_sources::schedule::{Overlap, ScheduleSource};
use tokio::time::{Instant, sleep};

use crate::{
    ack, memory, receive,
    schedule::{every, slot},
};

const MINUTE: Duration = Duration::from_secs(60);
/// Within which an attempt hears of a later slot, and what the test's own steps take.
const HEARD: Duration = Duration::from_millis(3_100);

fn cancelling(store: &Arc<MemoryStore>) -> ScheduleSource {
    every(store, MINUTE.as_secs(), 0, |config| config.overlap = Overlap::Cancel)
}

/// What the sinks of several processes did.
#[derive(Default)]
struct Diary {
    /// Each attempt's message, its beginning and its end.
    attempts: Mutex<Vec<(String, Duration, Option<Duration>)>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Attempt<'a>(&'a Diary, usize, Instant);

impl<'a> Attempt<'a> {
    fn begin(diary: &'a Diary, message: &Message, start: Instant) -> Self {
        let mut attempts = diary.attempts.lock().unwrap();
        attempts.push((message.id().to_string(), start.elapsed(), None));
        diary.most.fetch_max(diary.now.fetch_add(1, SeqCst) + 1, SeqCst);
        Self(diary, attempts.len() - 1, start)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, SeqCst);
        self.0.attempts.lock().unwrap()[self.1].2 = Some(self.2.elapsed());
    }
}

/// Runs a process whose every attempt takes so long.
fn run(store: &Arc<MemoryStore>, takes: Duration, diary: &Arc<Diary>) -> Handle {
    let (diary, start) = (diary.clone(), Instant::now());
    let sink = sink_fn(move |message: Message| {
        let diary = diary.clone();
        async move {
            let _attempt = Attempt::begin(&diary, &message, start);
            sleep(takes).await;
            Ok::<_, BoxError>(())
        }
    });
    let pipeline = Pipeline::builder("p")
        .source(cancelling(store))
        .sink(sink)
        .store(store.clone())
        .timeout(100 * MINUTE)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    tokio::spawn(pipeline.run());
    handle
}

#[tokio::test(start_paused = true)]
async fn each_slot_cancels_the_one_before_it_in_whichever_process_that_is() {
    for processes in [1, 3] {
        let (store, diary) = (memory(), Arc::<Diary>::default());
        let handles: Vec<_> = (0..processes).map(|_| run(&store, 10 * MINUTE, &diary)).collect();

        sleep(20 * MINUTE + MINUTE / 2).await;

        let attempts = diary.attempts.lock().unwrap().clone();
        assert_eq!(diary.most.load(SeqCst), 1, "never two at work: {attempts:?}");
        assert_eq!(attempts.len(), 20, "{attempts:?}");
        for (number, (id, begun, ended)) in (1..).zip(&attempts) {
            let slot = MINUTE * number;
            assert_eq!(id, &format!("p:source@2026-01-01T00:{number:02}:00Z"));
            assert!((slot..slot + HEARD).contains(begun), "{id} begun at {begun:?}");
            let next = slot + MINUTE;
            assert!(
                number == 20 || ended.is_some_and(|ended| (next..next + HEARD).contains(&ended)),
                "{id} ended at {ended:?}"
            );
        }
        let lost: u64 = handles
            .iter()
            .map(|handle| handle.stats().lease_lost.load(SeqCst))
            .sum();
        assert_eq!(lost, 0);
        for handle in handles {
            handle.stop_now();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_ends_before_the_next_slot_is_left_alone() {
    let (store, diary) = (memory(), Arc::<Diary>::default());
    let handle = run(&store, MINUTE * 9 / 10, &diary);

    sleep(10 * MINUTE + MINUTE / 2).await;

    assert_eq!((handle.status().received, handle.status().delivered), (10, 9));
    handle.stop_now();
}

#[tokio::test(start_paused = true)]
async fn messages_that_only_wait_are_replaced() {
    let store = memory();
    let mut source = cancelling(&store);
    assert!(tokio::time::timeout(MINUTE / 2, source.receive(1)).await.is_err());

    sleep(5 * MINUTE).await;
    source.hold().await.unwrap();

    assert_eq!(store.queue().depth("schedule:p:source").await.unwrap().ready, 1);
    assert_eq!(slot(&receive(&mut source, 1).await[0]), "00:05:00Z");
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_of_an_earlier_slot_does_not_come_again() {
    let nack = Disposition::Nack {
        delay: Some(Duration::from_secs(5)),
        attempts: Vec::new(),
    };
    for given_back in [nack, Disposition::Release] {
        let store = memory();
        let mut source = cancelling(&store);
        let first = receive(&mut source, 1).await.remove(0);
        let settler = source.settler();
        let (token, _) = first.receipt.into_parts();
        // At work until after the next slot.
        for _ in 0..3 {
            sleep(Duration::from_secs(21)).await;
            settler.extend(vec![token.clone()], Duration::from_secs(4)).await;
        }

        let settlement = dispatch_core::Settlement {
            token,
            disposition: given_back.clone(),
        };
        let settled = settler.settle(vec![settlement]).await;
        let second = receive(&mut source, 1).await.remove(0);

        assert!(settled[0].is_ok(), "{settled:?}");
        assert_eq!(slot(&second), "00:02:00Z");
        ack(second).await;
        let depth = store.queue().depth("schedule:p:source").await.unwrap();
        assert_eq!((depth.ready, depth.delayed, depth.leased), (0, 0, 0), "{given_back:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_process_had_at_work_does_not_come_after_a_later_slot() {
    let (store, start) = (memory(), Instant::now());
    let (mut first, mut second) = (cancelling(&store), cancelling(&store));
    let (token, _) = receive(&mut first, 1).await.remove(0).receipt.into_parts();
    sleep(Duration::from_secs(25)).await;
    first
        .settler()
        .extend(vec![token.clone()], Duration::from_secs(4))
        .await;
    sleep(Duration::from_secs(20)).await;
    first.settler().extend(vec![token], Duration::from_secs(4)).await;
    drop(first);

    let next = receive(&mut second, 1).await;

    // The lease that the dead process made longer last, at 105 s, runs out at 135 s.
    assert_eq!((slot(&next[0]), start.elapsed().as_secs()), ("00:02:00Z", 135));
}

#[tokio::test(start_paused = true)]
async fn the_battery_holds() {
    source_battery(async || {
        let store = memory();
        let source = every(&store, 24 * 3_600, 10, |config| config.overlap = Overlap::Cancel);
        Bench::new(source, move |payloads| {
            let store = store.clone();
            Box::pin(async move {
                let items = payloads
                    .into_iter()
                    .map(|payload| Item::of(&Message::new(payload)))
                    .collect();
                store.queue().enqueue("schedule:p:source", items).await.unwrap();
            })
        })
    })
    .await;
}
