//! A sink that is gone for good, as standard output is whose reader has closed it.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use dispatch_core::{Disposition, Fanout, Sink, sink_fn};

use super::*;

/// Takes `most` messages, then is gone.
fn going(most: usize) -> impl Sink {
    let taken = Arc::new(AtomicUsize::new(0));
    sink_fn(move |_: Message| {
        let taken = Arc::clone(&taken);
        async move {
            if taken.fetch_add(1, SeqCst) < most {
                Ok(())
            } else {
                Err(Error::gone("nobody reads"))
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_gone_ends_the_run_and_loses_nothing() {
    for shards in [1, 2] {
        let source = MemorySource::new();
        let queue = source.queue();
        numbered(500).into_iter().for_each(|message| queue.push(message));
        let store = Arc::new(MemoryStore::new());

        let run = Pipeline::builder("test")
            .source(source)
            .sink(going(3))
            .store(store.clone())
            .concurrency(64)
            .prefetch(64)
            .shards(shards)
            .run();
        let summary = tokio::time::timeout(Duration::from_secs(60), run)
            .await
            .unwrap()
            .unwrap();

        assert_eq!((summary.delivered, summary.finished), (3, false));
        assert_eq!(summary.sink_gone.as_deref(), Some("nobody reads"));
        assert_eq!((summary.parked, summary.dead_lettered, summary.nacked), (0, 0, 0));
        assert_eq!((queue.waiting(), queue.out()), (497, 0));
        assert!(letters(&store).await.is_empty());
        let backs = queue
            .settled()
            .into_iter()
            .filter(|(_, how)| *how == Disposition::Release);
        assert_eq!(backs.count() as u64, summary.released);
        assert_balanced(&summary);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fanout_is_gone_with_one_of_its_sinks() {
    let busy = MemorySink::answering(|_| no("busy"));
    let source = MemorySource::new();
    let queue = source.queue();
    queue.push(Message::new("x"));

    let sink = Fanout::new(vec![Arc::new(busy), Arc::new(going(0))]);
    let summary = Pipeline::builder("test").source(source).sink(sink).run().await.unwrap();

    assert_eq!(
        (summary.sink_gone.as_deref(), queue.waiting()),
        (Some("nobody reads"), 1)
    );
}
