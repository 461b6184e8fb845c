//! What is between two places while it is withdrawn.

use dispatch_core::{
    Commands, Received, Source as _,
    store::QueueSource,
    telemetry::Meter,
    testing::{Faults, FaultyStore},
};

use super::{
    waiting::{ask, ids, task},
    *,
};

/// A source that has claimed three, of which none was asked for yet.
async fn landed() -> (Faults, Arc<FaultyStore>, QueueSource, Commands) {
    let (faults, commands) = (Faults::default(), Commands::default());
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), faults.clone()));
    let items = ["one", "two", "three"].map(task);
    store.queue().enqueue("q", items.into()).await.unwrap();
    let mut source = QueueSource::new(store.clone(), "q").answering(&commands, &Meter::default());
    {
        let mut receive = std::pin::pin!(source.receive(9));
        assert!(futures::poll!(&mut receive).is_pending());
    }
    while store.queue().depth("q").await.unwrap().leased < 3 {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    (faults, store, source, commands)
}

#[tokio::test(start_paused = true)]
async fn what_has_landed_is_taken_out_however_long_the_store_is_looked_through() {
    let (faults, store, mut source, commands) = landed().await;
    faults.hold("waiting");

    let withdrawn = ask(&commands, "withdraw", r#"{"uuid": "two"}"#).await;
    let received = source.receive(9).await.unwrap();
    faults.let_go("waiting");

    assert!(withdrawn.error.is_some(), "it goes on behind its answer: {withdrawn:?}");
    let Received::Batch(batch) = received else {
        panic!("{received:?}")
    };
    let got: Vec<_> = batch.iter().map(|delivery| delivery.message.id().as_str()).collect();
    assert_eq!(got, ["one", "three"]);
    assert_eq!(store.queue().depth("q").await.unwrap().leased, 2);
}

#[tokio::test(start_paused = true)]
async fn what_goes_back_while_it_is_asked_for_is_taken_out() {
    // Given back by a hold, or by who has received it.
    for by_hold in [true, false] {
        let (faults, store, mut source, commands) = landed().await;
        faults.hold("queue_settle");
        let received = tokio::time::Instant::now();
        let giving_back = tokio::spawn(async move {
            if by_hold {
                source.hold().await.unwrap();
            } else {
                let Received::Batch(batch) = source.receive(9).await.unwrap() else {
                    panic!("three have landed")
                };
                source.give_back(batch, received).await;
            }
            source
        });
        while faults.calls("queue_settle") == 0 {
            tokio::task::yield_now().await;
        }

        ask(&commands, "withdraw", r#"{"uuid": "two"}"#).await;
        faults.let_go("queue_settle");

        let _source = giving_back.await.unwrap();
        let left = async || store.queue().depth("q").await.unwrap();
        while left().await.leased > 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let waiting = ask(&commands, "waiting", "{}").await;
        assert_eq!(
            ids(&waiting.queued),
            ["one", "three"].map(str::to_owned).into(),
            "{by_hold}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_after_it_was_asked_for_is_taken_out() {
    let (_faults, store, mut source, commands) = landed().await;
    let received = tokio::time::Instant::now();
    let Received::Batch(batch) = source.receive(9).await.unwrap() else {
        panic!("three have landed")
    };

    ask(&commands, "withdraw", r#"{"uuid": "two"}"#).await;
    source.give_back(batch, received).await;

    while store.queue().depth("q").await.unwrap().leased > 0 {
        tokio::task::yield_now().await;
    }
    let waiting = ask(&commands, "waiting", "{}").await;
    assert_eq!(ids(&waiting.queued), ["one", "three"].map(str::to_owned).into());
}
