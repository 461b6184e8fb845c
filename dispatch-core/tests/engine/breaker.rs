use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use dispatch_core::{
    Disposition,
    layer::{BreakerLayer, BreakerSettings, KeyFn},
};

use super::*;

#[tokio::test(start_paused = true)]
async fn an_unavailable_sink_closes_the_gate_and_probes_open_it_again() {
    let down = Arc::new(AtomicBool::new(true));
    let source = MemorySource::new();
    let queue = source.queue();
    numbered(200).into_iter().for_each(|message| queue.push(message));
    let sink = MemorySink::answering({
        let down = Arc::clone(&down);
        move |_| {
            if down.load(SeqCst) {
                Err(Error::unavailable("refused"))
            } else {
                Ok(())
            }
        }
    });
    let pipeline = pipeline(source, &sink).concurrency(10).prefetch(10).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    // Open: nothing is fetched, what was fetched went back, at most the window was touched.
    let fetched = queue.received();
    assert!(fetched <= 20, "{fetched}");
    assert_eq!(
        (handle.status().breaker, queue.out(), queue.waiting()),
        ("open", 0, 200)
    );
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(queue.received(), fetched);

    // Still down: each probing costs few calls.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let calls: u32 = sink.calls().values().sum();
    assert!(calls <= 40, "{calls} calls to a sink that is down");

    down.store(false, SeqCst);
    sink.took(200).await;
    assert_eq!(handle.status().breaker, "closed");
    assert!(
        sink.messages().iter().all(|message| message.attempt == 1),
        "no attempt was counted"
    );
    handle.drain();
    assert_balanced(&run.await.unwrap().unwrap());
}

/// A breaker for each host.
fn by_host() -> BreakerLayer {
    let key: KeyFn = Arc::new(|message| message.headers().get("host").map(Into::into));
    BreakerLayer::keyed(BreakerSettings::default(), key)
}

fn to_host(host: &str, count: usize) -> Vec<Message> {
    let message = |n| Message::with_id(format!("{host}-{n}"), host.to_owned()).header("host", host);
    (0..count).map(message).collect()
}

fn calls_to(sink: &MemorySink, host: &str) -> u32 {
    let calls = sink.calls();
    let of_host = calls.iter().filter(|(id, _)| id.starts_with(host));
    of_host.map(|(_, count)| count).sum()
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_down_holds_up_no_other() {
    for poor in [false, true] {
        let began = tokio::time::Instant::now();
        let messages = to_host("down", 200)
            .into_iter()
            .chain((0..20).flat_map(|host| to_host(&format!("up{host}"), 100)));
        let source = MemorySource::ending(messages);
        let source = if poor { source.poor() } else { source };
        let sink = MemorySink::slow(Duration::from_millis(5), move |message| {
            if message.payload == "down" && began.elapsed() < Duration::from_secs(600) {
                Err(Error::unavailable("refused"))
            } else {
                Ok(())
            }
        });
        let pipeline = pipeline(source, &sink)
            .concurrency(10)
            .prefetch(10)
            .stack(|stack| stack.breaker = Some(by_host()))
            .build()
            .unwrap();
        let handle = pipeline.handle();
        let run = tokio::spawn(pipeline.run());

        sink.took(2_000).await;
        let (others, status) = (began.elapsed(), handle.status());
        tokio::time::sleep(Duration::from_secs(500)).await;
        let calls = calls_to(&sink, "down");
        let summary = run.await.unwrap().unwrap();

        assert!(others < Duration::from_secs(5), "the others took {others:?}");
        assert_eq!(
            (status.breaker, status.components.iter().all(|part| part.connected)),
            ("by_key", true)
        );
        // What was under way when it opened, then three at 1 s, 2 s, 4 s, ... and each 30 s.
        assert!(calls <= 10 + 3 * 25, "{calls} calls to a host that is down");
        assert_eq!((summary.delivered, summary.dead_lettered), (2_200, 0), "poor: {poor}");
        let first = sink.messages().iter().all(|message| message.attempt == 1);
        assert!(first, "no attempt was counted");
        assert_balanced(&summary);
    }
}

#[tokio::test(start_paused = true)]
async fn the_messages_of_an_open_breaker_wait_for_as_long_as_it_is_open() {
    let source = MemorySource::new();
    let queue = source.queue();
    let sink = MemorySink::answering(|_| Err(Error::unavailable("refused")));
    let pipeline = pipeline(source, &sink)
        .stack(|stack| stack.breaker = Some(by_host()))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    to_host("down", 1).into_iter().for_each(|message| queue.push(message));
    // It opens for 1 s, 2 s, 4 s and 8 s: at 7 s for the fourth time.
    tokio::time::sleep(Duration::from_secs(8)).await;
    queue.push(Message::with_id("late", "x").header("host", "down"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    handle.drain();
    run.await.unwrap().unwrap();

    let delays: Vec<_> = (queue.settled().into_iter())
        .filter_map(|(id, disposition)| match disposition {
            Disposition::Nack { delay, attempts } => {
                Some((id.to_string(), delay?.as_secs_f64().round(), attempts.len()))
            }
            _ => None,
        })
        .collect();
    let expected = [
        ("down-0", 1.0, 1),
        ("down-0", 2.0, 1),
        ("down-0", 4.0, 1),
        ("down-0", 8.0, 1),
        ("late", 7.0, 0),
    ];
    assert_eq!(delays, expected.map(|(id, delay, tried)| (id.to_owned(), delay, tried)));
}

#[tokio::test(start_paused = true)]
async fn as_many_probes_as_are_set_are_made_for_each_key() {
    let source = MemorySource::new();
    let queue = source.queue();
    for host in ["a", "b"] {
        to_host(host, 50).into_iter().for_each(|message| queue.push(message));
    }
    let down = Arc::new(AtomicBool::new(true));
    let sink = MemorySink::slow(Duration::from_millis(300), {
        let down = Arc::clone(&down);
        move |_| {
            if down.load(SeqCst) {
                Err(Error::unavailable("refused"))
            } else {
                Ok(())
            }
        }
    });
    let pipeline = pipeline(source, &sink)
        .concurrency(100)
        .stack(|stack| stack.breaker = Some(by_host()))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    // All of them find it down and open it for 1 s; then the probes of each key are under way.
    tokio::time::sleep(Duration::from_millis(1_400)).await;
    assert_eq!((calls_to(&sink, "a"), calls_to(&sink, "b")), (50 + 3, 50 + 3));
    down.store(false, SeqCst);
    sink.took(100).await;
    handle.drain();

    assert_balanced(&run.await.unwrap().unwrap());
}
