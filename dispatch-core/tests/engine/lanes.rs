use std::collections::HashMap;

use dispatch_core::{layer::KeyFn, pipeline::Lanes};

use super::*;

fn by_key(order: bool) -> Lanes {
    let key: KeyFn = Arc::new(|message| message.key().cloned());
    Lanes { key, order }
}

#[tokio::test(start_paused = true)]
async fn the_order_of_each_key_is_kept_through_retries() {
    for poor in [false, true] {
        let messages =
            (0..600).map(|n| Message::with_id(format!("m{n}"), n.to_string()).with_key(format!("k{}", n % 7)));
        let source = MemorySource::ending(messages);
        let source = if poor { source.poor() } else { source };
        let sink = MemorySink::slow(Duration::from_millis(3), |message| {
            let n: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
            if n.is_multiple_of(10) && message.attempt < 3 {
                no("tenth")
            } else {
                Ok(())
            }
        });

        let summary = pipeline(source, &sink)
            .concurrency(64)
            .lanes(by_key(true))
            .retry(every(Duration::from_secs(5)))
            .stack(|stack| stack.breaker = None)
            .run()
            .await
            .unwrap();

        let mut last = HashMap::new();
        for message in sink.messages() {
            let n: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
            let before = last.insert(message.key().cloned(), n);
            assert!(
                before.is_none_or(|before| before < n),
                "{n} after {before:?}, poor: {poor}"
            );
        }
        assert_eq!(summary.delivered, 600);
        assert_balanced(&summary);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_head_blocks_only_its_own_key() {
    let messages = ["a-1", "a-2", "b-1", "b-2"].map(|text| Message::with_id(text, text).with_key(&text[..1]));
    let sink = MemorySink::answering(|message| {
        if message.payload == "a-1" && message.attempt == 1 {
            no("head")
        } else {
            Ok(())
        }
    });

    pipeline(MemorySource::ending(messages), &sink)
        .lanes(by_key(true))
        .retry(every(Duration::from_secs(60)))
        .run()
        .await
        .unwrap();

    assert_eq!(sink.texts(), ["b-1", "b-2", "a-1", "a-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_hot_key_does_not_hold_up_the_cold_ones() {
    // 900 of one key ahead of 100 others, one place at the sink: the others wait for their turns, not for the 900.
    let hot = (0..900).map(|n| Message::new(format!("hot-{n}")).with_key("hot"));
    let cold = (0..100).map(|n| Message::new(format!("cold-{n}")).with_key(format!("cold{n}")));
    let sink = MemorySink::slow(Duration::from_millis(1), |_| Ok(()));

    pipeline(MemorySource::ending(hot.chain(cold)), &sink)
        .concurrency(1)
        .prefetch(1_000)
        .lanes(by_key(false))
        .run()
        .await
        .unwrap();

    let last_cold = sink.texts().iter().rposition(|text| text.starts_with("cold")).unwrap();
    assert!(last_cold <= 202, "the last cold message was number {last_cold}");
}
