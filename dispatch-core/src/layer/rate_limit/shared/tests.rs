use std::sync::atomic::AtomicU64;

use tower::{Layer as _, Service as _};

use super::*;
use crate::{
    Class, MemoryStore, Message, Reply,
    layer::RateLimitLayer,
    testing::{Faults, FaultyStore, Logs},
};

const SECOND: Duration = Duration::from_secs(1);

/// One process: a layer over the store, and how many attempts have passed it.
struct Process {
    layer: RateLimitLayer,
    passed: Arc<AtomicU64>,
}

impl Process {
    fn new(rate: SharedRate, store: &Arc<dyn Store>) -> Self {
        Self {
            layer: RateLimitLayer::shared(rate.store(Arc::clone(store))),
            passed: Arc::default(),
        }
    }

    async fn attempt(&self) {
        let passed = Arc::clone(&self.passed);
        let mut service = self.layer.layer(tower::service_fn(move |_: Message| {
            passed.fetch_add(1, Relaxed);
            async { Ok::<_, Error>(Reply::default()) }
        }));
        service.call(Message::new("x")).await.unwrap();
    }

    fn passed(&self) -> u64 {
        self.passed.load(Relaxed)
    }

    /// As many attempts as pass, by 40 at once.
    async fn press(&self, span: Duration) {
        self.press_with(40, span).await;
    }

    async fn press_with(&self, callers: usize, span: Duration) {
        let one = async || loop {
            self.attempt().await;
            // Where nothing is limited, time would stand still.
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let all = futures::future::join_all((0..callers).map(|_| one()));
        assert!(timeout(span, all).await.is_err());
    }
}

/// Closed, so that four which have each lost the store do not add up to the rate by themselves.
fn rate(count: u32) -> SharedRate {
    SharedRate::new("r", count, SECOND).on_error(OnStoreError::Closed)
}

fn faulty() -> (Arc<dyn Store>, Faults) {
    let faults = Faults::default();
    let store = FaultyStore::new(Arc::new(MemoryStore::new()), faults.clone());
    (Arc::new(store), faults)
}

#[tokio::test(start_paused = true)]
async fn four_processes_keep_one_rate_within_two_percent_and_none_starves() {
    for (count, seconds) in [(10, 100), (100, 30), (3_000, 10)] {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let processes: Vec<_> = (0..4).map(|_| Process::new(rate(count), &store)).collect();

        let all = processes.iter().map(|process| process.press(seconds * SECOND));
        futures::future::join_all(all).await;

        let passed: Vec<_> = processes.iter().map(Process::passed).collect();
        let (total, right) = (passed.iter().sum::<u64>(), u64::from(count * seconds));
        assert!(
            total.abs_diff(right) <= right / 50,
            "{passed:?} of {right} at {count}/s"
        );
        assert!(
            passed.iter().all(|own| *own >= right / 8),
            "{passed:?} of {right} at {count}/s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_needs_little_leaves_the_rest_to_the_others() {
    for burst in [1, 2, 5, 20] {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let processes: Vec<_> = (0..4).map(|_| Process::new(rate(1_000), &store)).collect();
        let now_and_then = async |process: &Process| {
            let bursts = async || loop {
                futures::future::join_all((0..burst).map(|_| process.attempt())).await;
                tokio::time::sleep(Duration::from_millis(90)).await;
            };
            assert!(timeout(10 * SECOND, bursts()).await.is_err());
        };

        tokio::join!(
            processes[0].press(10 * SECOND),
            now_and_then(&processes[1]),
            now_and_then(&processes[2]),
            now_and_then(&processes[3])
        );

        let passed: Vec<_> = processes.iter().map(Process::passed).collect();
        let total = passed.iter().sum::<u64>();
        assert!(
            (9_800..=10_200).contains(&total) && passed[1..].iter().all(|own| *own >= burst * 60),
            "{passed:?} in bursts of {burst}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_waits_the_store_is_not_asked() {
    let (store, faults) = faulty();
    let process = Process::new(rate(1_000), &store);
    process.press(SECOND).await;
    let asked = faults.calls("take_rate");

    tokio::time::sleep(60 * SECOND).await;

    assert!((45..=75).contains(&asked), "by pieces, not one by one: {asked}");
    assert_eq!(faults.calls("take_rate"), asked);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_fails_it_does_as_told_and_says_so_once() {
    let table = [
        (OnStoreError::Closed, 0..=0),
        (OnStoreError::LocalShare(0.5), 195..=210),
        (OnStoreError::default(), 95..=110),
        // 40 callers, each once a millisecond.
        (OnStoreError::Open, 100_000..=161_000),
    ];
    for (on_error, expected) in table {
        let (logs, _guard) = Logs::gather();
        let (store, faults) = faulty();
        faults.fail("take_rate", usize::from(u16::MAX), Class::Unavailable);
        let process = Process::new(rate(100).on_error(on_error), &store);

        process.press(4 * SECOND).await;

        let passed = process.passed();
        assert!(expected.contains(&passed), "{passed} with {on_error:?}");
        assert_eq!(logs.count("WARN", "shared rate has lost its store"), 1, "{on_error:?}");
        let asked = faults.calls("take_rate");
        assert!((3..=15).contains(&asked), "asked {asked} times with {on_error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_is_shared_again() {
    for on_error in [OnStoreError::Open, OnStoreError::Closed, OnStoreError::LocalShare(0.5)] {
        let (logs, _guard) = Logs::gather();
        let (store, faults) = faulty();
        faults.fail("take_rate", 3, Class::Unavailable);
        let processes: Vec<_> = (0..4)
            .map(|_| Process::new(rate(100).on_error(on_error), &store))
            .collect();
        let press = |span| futures::future::join_all(processes.iter().map(move |process| process.press(span)));
        // One of them has met all the faults, or three have met one each.
        press(3 * SECOND).await;
        let before: u64 = processes.iter().map(Process::passed).sum();

        press(30 * SECOND).await;

        let total = processes.iter().map(Process::passed).sum::<u64>() - before;
        assert!(faults.are_spent());
        assert!((2_940..=3_060).contains(&total), "{total} with {on_error:?}");
        let [lost, back] = ["lost its store", "its store again"].map(|part| logs.count("WARN", part));
        assert!(lost >= 1 && lost == back, "{lost} {back} with {on_error:?}");
    }
}

/// Takes so long to answer.
#[derive(Debug)]
struct Slow(MemoryStore, Duration);

#[async_trait::async_trait]
impl Store for Slow {
    fn dead_letters(&self) -> &dyn crate::store::DeadLetters {
        &self.0
    }
    fn reservations(&self) -> &dyn crate::store::Reservations {
        &self.0
    }
    fn slots(&self) -> &dyn crate::store::Slots {
        &self.0
    }
    fn queue(&self) -> &dyn crate::store::Queue {
        &self.0
    }
    fn positions(&self) -> &dyn crate::store::Positions {
        &self.0
    }
    fn rates(&self) -> &dyn crate::store::Rates {
        self
    }
    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl crate::store::Rates for Slow {
    async fn take(&self, name: &str, span: Duration, burst: Duration) -> Result<Taken, Error> {
        tokio::time::sleep(self.1).await;
        self.0.rates().take(name, span, burst).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_fails() {
    let store: Arc<dyn Store> = Arc::new(Slow(MemoryStore::new(), 60 * SECOND));
    let process = Process::new(rate(100).on_error(OnStoreError::Open), &store);
    let started = Instant::now();

    process.attempt().await;

    let waited = started.elapsed();
    assert!(waited >= PATIENCE && waited < 2 * PATIENCE, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_slows_no_rate() {
    for (millis, callers, count) in [(5, 1, 300), (5, 40, 3_000), (40, 1, 300), (40, 40, 3_000)] {
        let store: Arc<dyn Store> = Arc::new(Slow(MemoryStore::new(), Duration::from_millis(millis)));
        let process = Process::new(rate(count), &store);
        // Until it knows how slow.
        process.press_with(callers, 2 * SECOND).await;
        let before = process.passed();

        process.press_with(callers, 10 * SECOND).await;

        let (passed, right) = (process.passed() - before, u64::from(count) * 10);
        assert!(
            passed.abs_diff(right) <= right / 50,
            "{passed} of {right} by {callers} over {millis} ms"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttled_answer_holds_its_process_alone() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let [held, free] = [(); 2].map(|()| Process::new(rate(100), &store));
    let mut throttled = held.layer.layer(tower::service_fn(async |_: Message| {
        Err::<Reply, _>(Error::throttled(Some(9 * SECOND), "slow down"))
    }));
    throttled.call(Message::new("x")).await.unwrap_err();

    tokio::join!(held.press(8 * SECOND), free.press(8 * SECOND));

    assert_eq!(held.passed(), 0);
    assert!((790..=810).contains(&free.passed()), "{}", free.passed());
    held.press(2 * SECOND).await;
    assert!((90..=110).contains(&held.passed()), "{}", held.passed());
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_costs_a_cell_at_most() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let process = Process::new(rate(1).burst(1), &store);
    let started = Instant::now();
    process.attempt().await;
    let mut dropped = tokio_test::task::spawn(process.attempt());
    assert!(dropped.poll().is_pending());
    tokio::time::sleep(SECOND / 2).await;
    drop(dropped);

    process.attempt().await;

    assert_eq!(started.elapsed().as_secs(), 1);
}
