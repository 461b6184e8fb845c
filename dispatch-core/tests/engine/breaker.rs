use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

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
