use std::sync::Mutex;

use tokio::time::Instant;

use super::*;
use crate::{Reply, lock::lock};

async fn arrivals(layer: RateLimitLayer, keys: &[&'static str], span: Duration) -> Vec<(Duration, &'static str)> {
    let started = Instant::now();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let inner = tower::service_fn({
        let seen = Arc::clone(&seen);
        move |message: Message| {
            let key = message
                .headers()
                .get("k")
                .and_then(|key| ["a", "b"].into_iter().find(|own| *own == key))
                .unwrap_or("");
            lock(&seen).push((started.elapsed(), key));
            async { Ok::<_, Error>(Reply::default()) }
        }
    });
    let service = layer.layer(inner);
    let callers = keys.iter().flat_map(|key| std::iter::repeat_n(*key, 40)).map(|key| {
        let service = service.clone();
        async move {
            while started.elapsed() < span {
                service.clone().call(Message::new("x").header("k", key)).await.unwrap();
            }
        }
    });
    drop(tokio::time::timeout_at(started + span, futures::future::join_all(callers.collect::<Vec<_>>())).await);
    std::mem::take(&mut *lock(&seen))
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_kept_within_one_percent_and_no_span_holds_more_than_rate_and_burst() {
    for (rate, burst) in [(10, 2), (100, 2), (10_000, 100)] {
        let span = Duration::from_secs(60);
        let times: Vec<_> = arrivals(RateLimitLayer::new(rate, Duration::from_secs(1), None), &[""], span).await;

        let expected = f64::from(rate) * span.as_secs_f64();
        let count = times.len() as f64;
        assert!(
            (count - expected).abs() <= expected * 0.01 + f64::from(burst),
            "{count} of {expected} at {rate}/s"
        );
        for width in [1, 7, 50, 400] {
            for window in times.windows(width + 1) {
                let lasted = (window[width].0 - window[0].0).as_secs_f64();
                assert!(
                    width as f64 + 1.0 <= f64::from(rate) * lasted + f64::from(burst) + 1e-6,
                    "{width} in {lasted}s at {rate}/s"
                );
            }
        }
        // A timer of the runtime rings at whole milliseconds.
        let two = Duration::from_secs(2) / rate;
        let longest = times.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap();
        assert!(longest <= two.max(Duration::from_millis(1)), "{longest:?} at {rate}/s");
    }
}

/// E14: each key has its own rate among ten thousand, and those that are idle go.
#[tokio::test(start_paused = true)]
async fn ten_thousand_keys_keep_their_own_rates_and_idle_ones_are_forgotten() {
    const KEYS: usize = 10_000;
    const SPAN: u32 = 20;
    let second = Duration::from_secs(1);
    let names: Vec<smol_str::SmolStr> = (0..KEYS).map(|key| key.to_string().into()).collect();
    let rate = |key: usize| u32::try_from(1 + key % 3).unwrap();
    let rates = names
        .iter()
        .enumerate()
        .map(|(key, name)| (name.clone(), rate(key), second));
    let by_key: KeyFn = Arc::new(|message| message.key().cloned());
    let layer = RateLimitLayer::keyed_with(1, second, Some(1), rates, by_key);
    let passed: Arc<Vec<_>> = Arc::new((0..KEYS).map(|_| std::sync::atomic::AtomicU32::new(0)).collect());
    let service = layer.clone().layer(tower::service_fn({
        let passed = Arc::clone(&passed);
        move |message: Message| {
            let key = message.key().and_then(|key| key.parse().ok());
            if let Some(passed) = key.and_then(|key: usize| passed.get(key)) {
                passed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            async { Ok::<_, Error>(Reply::default()) }
        }
    }));
    let callers = names.iter().map(|name| {
        let (service, message) = (service.clone(), Message::new("x").with_key(name.clone()));
        async move {
            loop {
                service.clone().call(message.clone()).await.unwrap();
            }
        }
    });

    let callers: futures::stream::FuturesUnordered<_> = callers.collect();
    let all = futures::StreamExt::for_each(callers, |never: std::convert::Infallible| async move { match never {} });
    drop(tokio::time::timeout(SPAN * second, all).await);

    for (key, passed) in passed.iter().enumerate() {
        let (passed, expected) = (passed.load(std::sync::atomic::Ordering::Relaxed), rate(key) * SPAN);
        // Two more are the burst's.
        assert!(
            (expected..=expected + 2).contains(&passed),
            "{passed} of {expected} for key {key}"
        );
    }
    let kept = || match &*layer.limits {
        Limits::Keyed { limiters, .. } => limiters.len(),
        _ => unreachable!(),
    };
    assert_eq!(kept(), KEYS);
    tokio::time::advance(10 * second).await;
    for key in 0..KEYS {
        service.clone().call(Message::new("x").with_key("0")).await.unwrap();
        service
            .clone()
            .call(Message::new("x").with_key(format!("new {key}")))
            .await
            .unwrap();
        tokio::time::advance(2 * second).await;
    }
    assert!(kept() <= 3_000, "{} of {} keys are kept", kept(), 2 * KEYS);
}

#[tokio::test(start_paused = true)]
async fn keys_do_not_share_their_rates() {
    let key: KeyFn = Arc::new(|message| message.headers().get("k").map(Into::into));
    let layer = RateLimitLayer::keyed_with(
        10,
        Duration::from_secs(1),
        None,
        [("b".into(), 50, Duration::from_secs(1))],
        key,
    );

    let times = arrivals(layer, &["a", "b"], Duration::from_secs(10)).await;

    let count = |key| times.iter().filter(|(_, own)| *own == key).count();
    assert!(
        (99..=102).contains(&count("a")) && (498..=502).contains(&count("b")),
        "{} {}",
        count("a"),
        count("b")
    );
}

#[tokio::test(start_paused = true)]
async fn a_throttled_answer_holds_the_key_for_everybody() {
    let inner = tower::service_fn(|message: Message| async move {
        if message.payload == "first" {
            Err(Error::throttled(Some(Duration::from_secs(9)), "slow down"))
        } else {
            Ok(Reply::default())
        }
    });
    let mut service = RateLimitLayer::new(1_000, Duration::from_secs(1), None).layer(inner);
    let started = Instant::now();
    service.call(Message::new("first")).await.unwrap_err();

    service.call(Message::new("second")).await.unwrap();

    assert_eq!(started.elapsed().as_secs(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_waiter_costs_nothing() {
    let mut service =
        RateLimitLayer::new(1, Duration::from_secs(1), Some(1)).layer(tower::service_fn(|_: Message| async {
            Ok::<_, Error>(Reply::default())
        }));
    let started = Instant::now();
    service.call(Message::new("x")).await.unwrap();
    let mut dropped = tokio_test::task::spawn(service.call(Message::new("x")));
    assert!(dropped.poll().is_pending());
    drop(dropped);

    service.call(Message::new("x")).await.unwrap();

    assert_eq!(started.elapsed().as_millis(), 1_000);
}

#[test]
fn an_idle_key_costs_at_most_256_bytes() {
    // Its value, the Arc's two counts, and the map's slot with an inline key.
    let bytes = size_of::<Limiter>() + 16 + size_of::<(smol_str::SmolStr, Arc<Limiter>)>() + 1;

    assert!(bytes <= 256, "{bytes}");
}
