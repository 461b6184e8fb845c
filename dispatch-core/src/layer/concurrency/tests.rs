use std::sync::atomic::Ordering;

use super::*;
use crate::Reply;

/// A service that says how many of its calls ran at once, at most.
#[derive(Debug, Clone, Default)]
struct Gauge {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gauge {
    async fn run(self) -> Result<Reply, Error> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(Reply::default())
    }
}

#[tokio::test]
async fn never_more_at_once_than_the_limit() {
    let gauge = Gauge::default();
    let inner = tower::service_fn({
        let gauge = gauge.clone();
        move |_: Message| gauge.clone().run()
    });
    let service = ConcurrencyLayer::new(7).layer(inner);

    let calls = (0..1_000).map(|_| service.clone().call(Message::new("x")));
    futures::future::join_all(calls.collect::<Vec<_>>()).await;

    assert_eq!(gauge.most.load(Ordering::SeqCst), 7);
}

/// E16: on two threads, some attempts dropped midway; no permit is lost, none is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permits_are_neither_lost_nor_made_when_waits_are_dropped() {
    let gauge = Gauge::default();
    let inner = tower::service_fn({
        let gauge = gauge.clone();
        move |_: Message| gauge.clone().run()
    });
    let layer = ConcurrencyLayer::new(3);
    let service = layer.layer(inner);

    let workers = (0..16).map(|worker| {
        let mut service = service.clone();
        tokio::spawn(async move {
            for number in 0..2_000 {
                let mut call = Box::pin(service.call(Message::new("x")));
                if (worker + number) % 5 == 0 {
                    // Polled once, then dropped: running or waiting.
                    drop(futures::poll!(&mut call));
                } else {
                    call.await.unwrap();
                }
            }
        })
    });
    futures::future::join_all(workers)
        .await
        .into_iter()
        .for_each(Result::unwrap);

    assert!(gauge.most.load(Ordering::SeqCst) >= 2, "{gauge:?}");
    let Permits::Global(places) = &*layer.permits else {
        unreachable!()
    };
    assert_eq!(places.spare.load(SeqCst) + places.semaphore.available_permits(), 3);
    assert_eq!(places.waiting.load(SeqCst), 0);
}

#[tokio::test]
async fn each_key_has_its_own_limit_and_idle_keys_are_forgotten() {
    let key: KeyFn = Arc::new(|message| message.key().cloned());
    let layer = ConcurrencyLayer::keyed_with(1, [("load".into(), 2)].into(), key);
    let gauge = Gauge::default();
    let inner = tower::service_fn({
        let gauge = gauge.clone();
        move |_: Message| gauge.clone().run()
    });
    let service = layer.layer(inner);

    let calls = (0..30).map(|n| {
        service
            .clone()
            .call(Message::new("x").with_key(if n % 3 == 0 { "query" } else { "load" }))
    });
    futures::future::join_all(calls.collect::<Vec<_>>()).await;
    for n in 0..5_000 {
        service
            .clone()
            .call(Message::new("x").with_key(format!("once-{n}")))
            .await
            .unwrap();
    }

    assert_eq!(gauge.most.load(Ordering::SeqCst), 3);
    let Permits::Keyed(KeyedPermits { semaphores, .. }) = &*layer.permits else {
        panic!("keyed")
    };
    assert!(semaphores.len() <= 1_025, "{} keys kept", semaphores.len());
}

/// E16: a million calls, by two threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_calls_never_exceed_the_limit_of_all_or_of_a_key() {
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    let by_key: KeyFn = Arc::new(|message| message.key().cloned());
    for (layer, most) in [
        (ConcurrencyLayer::new(5), [5, 0, 0, 0]),
        (
            ConcurrencyLayer::keyed_with(2, [("d".into(), 4)].into(), by_key),
            [2, 2, 2, 4],
        ),
    ] {
        let keyed = most[1] > 0;
        let gauges: Arc<[Gauge; 4]> = Arc::default();
        let inner = tower::service_fn({
            let gauges = Arc::clone(&gauges);
            move |message: Message| {
                let key = KEYS.iter().position(|own| message.key().is_some_and(|key| key == own));
                gauges[key.filter(|_| keyed).unwrap_or(0)].clone().run()
            }
        });
        let service = layer.layer(inner);
        let callers = (0..40).map(|caller| {
            let mut service = service.clone();
            let message = Message::new("x").with_key(KEYS[caller % 4]);
            tokio::spawn(async move {
                for _ in 0..25_000 / 2 {
                    service.call(message.clone()).await.unwrap();
                }
            })
        });

        let ended = futures::future::join_all(callers.collect::<Vec<_>>()).await;

        ended.into_iter().for_each(Result::unwrap);
        for (key, most) in most.into_iter().enumerate().filter(|(_, most)| *most > 0) {
            let seen = gauges[key].most.load(Ordering::SeqCst);
            assert!((2..=most).contains(&seen), "{seen} of {most} at once, {}", KEYS[key]);
        }
    }
}

#[tokio::test]
async fn a_dropped_waiter_and_a_dropped_call_give_their_permits_back() {
    let inner = tower::service_fn(|message: Message| async move {
        if message.attempt > 1 {
            std::future::pending::<()>().await
        }
        Ok::<_, Error>(Reply::default())
    });
    let mut service = ConcurrencyLayer::new(1).layer(inner);
    let mut running = tokio_test::task::spawn(service.call(Message::new("x").with_attempt(2)));
    assert!(running.poll().is_pending());
    let mut waiting = tokio_test::task::spawn(service.call(Message::new("x")));
    assert!(waiting.poll().is_pending());

    drop(waiting);
    drop(running);

    service.call(Message::new("x")).await.unwrap();
}
