//! Four that share one rate, each through a store of its own over the same place, as four processes do.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use dispatch_core::{
    Message, Pipeline, Store,
    layer::{OnStoreError, SharedRate},
    testing::{MemorySink, MemorySource},
};
use tokio::time::{Instant, timeout_at};

const RATE: u32 = 500;
const SPAN: Duration = Duration::from_secs(4);

/// How many attempts passed each of them, under a load that all of them cannot work off, in `SPAN`; and
/// what of it was left when the first one did.
struct Pressed {
    passed: Vec<u64>,
    left: Duration,
}

async fn press(stores: Vec<Arc<dyn Store>>) -> Pressed {
    let began = Arc::<OnceLock<Instant>>::default();
    for store in &stores {
        store.probe().await.unwrap();
    }
    let end = Instant::now() + SPAN;
    let processes = stores.into_iter().enumerate().map(|(number, store)| {
        let passed = Arc::new(AtomicU64::new(0));
        let (seen, began) = (Arc::clone(&passed), Arc::clone(&began));
        let sink = MemorySink::answering(move |_| {
            began.get_or_init(Instant::now);
            seen.fetch_add(1, Relaxed);
            Ok(())
        });
        let enough = (0..u64::from(RATE) * 2 * SPAN.as_secs()).map(|number| Message::new(number.to_string()));
        let rate = SharedRate::new("far side", RATE, Duration::from_secs(1));
        let pipeline = Pipeline::builder(format!("p{number}"))
            .source(MemorySource::ending(enough))
            .sink(sink)
            .store(store)
            // Four local shares would add up to the rate, too.
            .shared_rate(rate.on_error(OnStoreError::Closed));
        tokio::spawn(async move {
            let ended = timeout_at(end, pipeline.run()).await;
            assert!(ended.is_err(), "there was not enough to do: {ended:?}");
            passed.load(Relaxed)
        })
    });
    let passed = futures::future::join_all(processes.collect::<Vec<_>>()).await;
    Pressed {
        passed: passed.into_iter().map(Result::unwrap).collect(),
        left: end - *began.get().unwrap(),
    }
}

/// Nothing passes before its time by the store's clock, so the upper bound holds on the busiest machine. Below, a machine
/// that does not run these tasks for longer than they have cells at hand loses the rate of that moment: this is room for
/// some such moments, and a rate that is not shared would be four times as much.
fn assert_shared(Pressed { passed, left }: &Pressed) {
    let [most, right] = [SPAN, *left].map(|span| f64::from(RATE) * span.as_secs_f64());
    let (total, burst) = (passed.iter().sum::<u64>() as f64, 5.0);
    assert!(
        total <= most * 1.02 + burst && total >= right * 0.9,
        "{passed:?}: {total} of {right}"
    );
    assert!(
        passed.iter().all(|own| *own as f64 >= right / 16.0),
        "one of them starves: {passed:?}"
    );
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_handles_of_a_file_share_a_rate() {
    let directory = tempfile::tempdir().unwrap();

    let pressed = press((0..4).map(|_| crate::sqlite::open(&directory)).collect()).await;

    assert_shared(&pressed);
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_clients_of_a_server_share_a_rate() {
    let Some(server) = crate::postgres::Server::find("four_clients_of_a_server_share_a_rate").await else {
        return;
    };
    let stores: Vec<_> = (0..4).map(|_| server.open()).collect();

    let pressed = press(stores.clone()).await;

    assert_shared(&pressed);
    for store in &stores[1..] {
        store.close().await.unwrap();
    }
    server.end(Arc::clone(&stores[0])).await;
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_clients_of_redis_share_a_rate() {
    let Some(url) = crate::redis::server("four_clients_of_redis_share_a_rate") else {
        return;
    };
    let prefix = format!("test-{}", dispatch_core::random_id());

    let pressed = press((0..4).map(|_| crate::redis::open_as(&url, &prefix)).collect()).await;

    assert_shared(&pressed);
}
