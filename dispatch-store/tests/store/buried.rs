//! The letter and the end of its lease on a server that ends in the middle: there is no middle.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use dispatch_core::{
    Attempt, Delivery, Disposition, Error, Message, Pipeline, Received, Reply, Settlement, Source as _, Store,
    pipeline::Summary,
    random_id,
    store::{DeadLetter, DeadLetterFilter, Item, QueueSource},
    testing::MemorySink,
};
use sea_orm::{ConnectionTrait, DatabaseBackend, Statement, TransactionTrait};

use crate::postgres::{Server, name_connections};

/// What takes a lock that the settlement needs, in the place where it writes the letter and where it forgets the message.
const PLACES: [&str; 2] = [
    "LOCK TABLE {s}.dispatch_dead IN EXCLUSIVE MODE",
    "SELECT FROM {s}.dispatch_item FOR UPDATE",
];

async fn letters(store: &Arc<dyn Store>) -> Vec<DeadLetter> {
    let all = DeadLetterFilter::default();
    store.dead_letters().list(&all, 0, 100).await.unwrap()
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(60), found).await {
        Ok(found) => found,
        Err(_) => panic!("{what}"),
    }
}

/// Ends those connections of this name that wait for a lock; how many there were.
async fn kill_waiting(server: &Server, name: &str) -> Option<()> {
    let kill = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}' AND wait_event_type = 'Lock'"
    );
    let kill = Statement::from_string(DatabaseBackend::Postgres, kill);
    let killed = server.admin.query_all_raw(kill).await.unwrap();
    (!killed.is_empty()).then_some(())
}

async fn buried_over_a_crash(server: &Server, place: &str) -> (Summary, u32) {
    let (name, queue) = (random_id(), random_id());
    let store = server.open_with(|config| name_connections(config, &name));
    let other = server.open();
    let items = vec![Item::of(&Message::with_id("m", "x"))];
    store.queue().enqueue(&queue, items).await.unwrap();
    other.probe().await.unwrap();
    let sink = MemorySink::answering(|_| Err(Error::permanent("no such account")));
    let pipeline = Pipeline::builder("test")
        .source(QueueSource::new(Arc::clone(&store), queue.as_str()))
        .sink(sink.clone())
        .store(Arc::clone(&store))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let lock = server.admin.begin().await.unwrap();
    lock.execute_unprepared(&place.replace("{s}", &server.schema))
        .await
        .unwrap();
    let run = tokio::spawn(pipeline.run());

    eventually("the settlement waits for the lock", async || {
        kill_waiting(server, &name).await
    })
    .await;
    let depth = other.queue().depth(&queue).await.unwrap();
    assert_eq!((letters(&other).await.len(), depth.leased), (0, 1), "{place}: neither");
    lock.rollback().await.unwrap();
    eventually("the letter is kept once the server is back", async || {
        letters(&other).await.pop()
    })
    .await;
    let depth = other.queue().depth(&queue).await.unwrap();
    assert_eq!((depth.ready, depth.delayed, depth.leased), (0, 0, 0), "{place}: both");
    handle.drain();
    let summary = run.await.unwrap().unwrap();
    assert_eq!(letters(&other).await.len(), 1, "{place}");
    let all = other.dead_letters().purge(&DeadLetterFilter::default()).await;
    assert_eq!(all.unwrap(), 1);
    for store in [store, other] {
        store.close().await.unwrap();
    }
    (summary, sink.calls()["m"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_leaves_the_letter_or_the_message_and_never_both() {
    let Some(server) = Server::find("a_crash_leaves_the_letter_or_the_message_and_never_both").await else {
        return;
    };
    for place in PLACES {
        let (summary, calls) = buried_over_a_crash(&server, place).await;

        assert_eq!(
            (summary.dead_lettered, calls),
            (1, 1),
            "{place}: the task is not run again"
        );
    }
    let store = server.open();
    server.end(store).await;
}

/// A zero byte is no text to PostgreSQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_is_refused_for_good_holds_up_nothing_that_came_with_it() {
    let Some(server) = Server::find("a_letter_that_is_refused_for_good_holds_up_nothing_that_came_with_it").await
    else {
        return;
    };
    let store = server.open();
    let items = ["done", "bad", "good"].map(|id| Item::of(&Message::with_id(id, "x")));
    store.queue().enqueue("q", items.into()).await.unwrap();
    let mut source = QueueSource::new(Arc::clone(&store), "q");
    let Received::Batch(deliveries) = source.receive(3).await.unwrap() else {
        panic!("three wait")
    };
    let settlement = |delivery: Delivery| {
        let message = delivery.message.clone();
        let code = if message.id() == "bad" { "4\u{0}04" } else { "404" };
        let failed = Attempt::failed(
            1,
            SystemTime::now(),
            Duration::ZERO,
            &Error::permanent("no").with_code(code),
        );
        let letter = DeadLetter {
            number: 0,
            pipeline: "p".into(),
            source: "source".into(),
            id: message.id().clone(),
            payload: message.payload.clone(),
            headers: message.headers().clone(),
            metadata: message.metadata().clone(),
            key: None,
            reason: "permanent".into(),
            attempts: vec![failed],
            trace_id: None,
            config_hash: "".into(),
            created_at: message.created_at(),
            died_at: SystemTime::now(),
            replayed_at: None,
        };
        let disposition = match message.id().as_str() {
            "done" => Disposition::Ack(Reply::default()),
            _ => Disposition::Bury(Arc::new(letter)),
        };
        let token = delivery.receipt.into_parts().0;
        (message.id().to_string(), Settlement { token, disposition })
    };
    let (ids, batch): (Vec<_>, Vec<_>) = deliveries.into_iter().map(settlement).unzip();

    let results = source.settler().settle(batch).await;

    let results: Vec<_> = ids
        .iter()
        .map(String::as_str)
        .zip(results.iter().map(Result::is_ok))
        .collect();
    assert_eq!(results, [("done", true), ("bad", false), ("good", true)]);
    let kept: Vec<_> = letters(&store)
        .await
        .iter()
        .map(|letter| letter.id.to_string())
        .collect();
    assert_eq!(kept, ["good"]);
    assert_eq!(store.queue().depth("q").await.unwrap().leased, 1);
    source.close().await.unwrap();
    server.end(store).await;
}
