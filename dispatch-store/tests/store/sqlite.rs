use std::{path::Path, sync::Arc, time::Duration};

use dispatch_core::{
    Class, Error, Message, Store,
    config::{StoreConfig, StoreContext},
    store::{Completion, Item, Outcome, Stale},
    testing::store::store_battery,
};
use dispatch_store::{SqliteConfig, sql::Synchronous};
use tempfile::{TempDir, tempdir};

use crate::{claim, item, next};

pub(crate) fn open_with(directory: &Path, change: impl FnOnce(&mut SqliteConfig)) -> Arc<dyn Store> {
    let mut config = SqliteConfig::default();
    change(&mut config);
    config
        .build(&StoreContext {
            base_dir: directory.to_owned(),
        })
        .unwrap()
}

pub(crate) fn open(directory: &TempDir) -> Arc<dyn Store> {
    open_with(directory.path(), |_| {})
}

async fn refusal(store: &Arc<dyn Store>) -> Error {
    store.probe().await.expect_err("a broken place is refused")
}

#[tokio::test]
async fn sqlite_passes_the_battery() {
    let directory = tempdir().unwrap();

    store_battery(open(&directory)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_passes_the_battery_without_waiting_for_the_disk() {
    let directory = tempdir().unwrap();

    store_battery(open_with(directory.path(), |config| {
        config.synchronous = Synchronous::Normal
    }))
    .await;
}

#[tokio::test]
async fn what_was_enqueued_is_there_after_a_restart() {
    let directory = tempdir().unwrap();
    let first = open(&directory);
    first.queue().enqueue("q", vec![item("a"), item("b")]).await.unwrap();
    let leased = first.queue().claim("q", claim(1)).await.unwrap();
    first.close().await.unwrap();

    let second = open(&directory);
    let found = second.queue().claim("q", claim(10)).await.unwrap();
    let done = Completion {
        lease: leased[0].lease,
        outcome: Outcome::Done,
    };
    let settled = second.queue().settle("q", vec![done]).await.unwrap();

    assert_eq!(found.len(), 1, "what is leased stays leased over a restart");
    assert_eq!(settled, [Ok(())], "a lease outlives the process that took it");
}

/// They leave the file packed end to end, long ones apart.
#[tokio::test]
async fn payloads_of_any_length_and_bytes_come_out_as_they_went_in() {
    let directory = tempdir().unwrap();
    let store = open(&directory);
    let every_byte = || (0..=255_u8).rev().cycle();
    let lengths = [0, 1, 256, 4096, 4097, 0, 300_000, 5, 4097, 0];
    let payloads = lengths.map(|length| every_byte().take(length).collect::<Vec<u8>>());
    let items = payloads.iter().map(|payload| {
        let mut message = Message::new(payload.clone());
        message.headers_mut().insert("name", "a \"quoted\" \u{1F980}");
        Item::of(&message)
    });
    let items: Vec<Item> = items.collect();
    store.queue().enqueue("q", items.clone()).await.unwrap();

    let claimed = store.queue().claim("q", claim(usize::MAX)).await.unwrap();

    let came: Vec<_> = claimed.iter().map(|claimed| claimed.item.payload.to_vec()).collect();
    assert!(
        came == payloads,
        "lengths {:?}",
        came.iter().map(Vec::len).collect::<Vec<_>>()
    );
    assert!(
        claimed
            .iter()
            .zip(&items)
            .all(|(came, went)| came.item.headers == went.headers && came.item.id == went.id)
    );
}

#[tokio::test]
async fn a_closed_store_opens_again_at_the_next_use() {
    let directory = tempdir().unwrap();
    let store = open(&directory);
    store.queue().enqueue("q", vec![item("a")]).await.unwrap();
    store.close().await.unwrap();

    assert_eq!(store.queue().claim("q", claim(1)).await.unwrap().len(), 1);
}

#[test]
fn a_store_outlives_the_runtime_that_used_it_first() {
    let directory = tempdir().unwrap();
    let store = open(&directory);
    let run = |payload| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(store.queue().enqueue("q", vec![item(payload)]))
            .map(drop)
    };

    assert!(run("a").is_ok());
    assert!(run("b").is_ok(), "the second runtime opens the file anew");
}

#[tokio::test]
async fn a_failing_write_spoils_no_other() {
    let directory = tempdir().unwrap();
    // Room for the schema and a little more.
    let store = open_with(directory.path(), |config| config.max_pages = Some(60));
    store.probe().await.unwrap();
    let mut huge = item("huge");
    huge.payload = vec![7; 1 << 20].into();

    let (small, huge, other) = tokio::join!(
        store.queue().enqueue("q", vec![item("small")]),
        store.queue().enqueue("q", vec![huge]),
        store.queue().enqueue("q", vec![item("other")]),
    );

    assert!(small.is_ok() && other.is_ok(), "writes in the same group are kept");
    let full = huge.expect_err("a full disk refuses what does not fit");
    assert_eq!(full.class(), Class::Unavailable, "{}", full.report());
    assert!(full.report().contains("disk is full"), "{}", full.report());
    assert_eq!(
        store.queue().claim("q", claim(10)).await.unwrap().len(),
        2,
        "work goes on"
    );
}

#[tokio::test]
async fn two_handles_on_one_file_share_the_work() {
    let directory = tempdir().unwrap();
    let (one, two) = (open(&directory), open(&directory));
    one.probe().await.unwrap();

    let waiting = next(&two, "q");
    let sending = one.queue().enqueue("q", vec![item("a")]);
    let (claimed, sent) = tokio::join!(waiting, sending);
    let again = one.queue().claim("q", claim(1)).await.unwrap();
    let done = Completion {
        lease: claimed[0].lease,
        outcome: Outcome::Done,
    };
    let settled = one.queue().settle("q", vec![done.clone()]).await.unwrap();
    let stale = two.queue().settle("q", vec![done]).await.unwrap();

    sent.unwrap();
    assert_eq!(again.len(), 0, "a lease holds for every process");
    assert_eq!((settled, stale), (vec![Ok(())], vec![Err(Stale)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_handles_may_start_at_once() {
    let directory = tempdir().unwrap();
    let stores: Vec<_> = (0..4).map(|_| open(&directory)).collect();

    let started = futures::future::join_all(stores.iter().map(|store| store.probe())).await;
    let writes = stores.iter().map(|store| store.queue().enqueue("q", vec![item("a")]));
    let written = futures::future::join_all(writes).await;

    assert!(started.iter().all(Result::is_ok), "{started:?}");
    assert!(written.iter().all(Result::is_ok), "{written:?}");
}

#[tokio::test]
async fn a_missing_directory_is_named_with_its_remedy() {
    let store = open_with(Path::new("/nowhere/at/all"), |_| {});

    let error = refusal(&store).await.report();

    assert!(
        error.contains("no directory /nowhere/at/all") && error.contains("create it"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_with_its_remedy() {
    let directory = tempdir().unwrap();
    std::fs::write(
        directory.path().join("dispatch.db"),
        "a diary, not a database. ".repeat(400),
    )
    .unwrap();

    let error = refusal(&open(&directory)).await;

    assert_eq!(error.class(), Class::Permanent, "{}", error.report());
    let report = error.report();
    assert!(
        report.contains("dispatch.db") && report.contains("not a SQLite database"),
        "{report}"
    );
}

#[tokio::test]
async fn a_damaged_file_is_named_with_its_remedy() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dispatch.db");
    let store = open(&directory);
    let items = (0..500).map(|number| item(&format!("{number}").repeat(100))).collect();
    store.queue().enqueue("q", items).await.unwrap();
    store.close().await.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();

    let error = match open(&directory).queue().claim("q", claim(1)).await {
        Ok(claimed) => panic!("claimed {} from a damaged file", claimed.len()),
        Err(error) => error,
    };

    assert_eq!(error.class(), Class::Permanent, "{}", error.report());
    assert!(error.report().contains("damaged"), "{}", error.report());
}

#[tokio::test]
async fn a_newer_schema_is_refused_in_words() {
    let directory = tempdir().unwrap();
    let store = open(&directory);
    store.probe().await.unwrap();
    store.close().await.unwrap();
    let file = format!("sqlite://{}", directory.path().join("dispatch.db").display());
    let raw = sea_orm::Database::connect(file).await.unwrap();
    let future = "INSERT INTO dispatch_migration VALUES (99, 0)";
    sea_orm::ConnectionTrait::execute_unprepared(&raw, future)
        .await
        .unwrap();
    raw.close().await.unwrap();

    let error = refusal(&open(&directory)).await;

    assert_eq!(error.class(), Class::Permanent);
    assert!(error.report().contains("schema version 99"), "{}", error.report());
}

#[tokio::test]
async fn a_file_that_another_process_holds_is_waited_for_and_then_unavailable() {
    let directory = tempdir().unwrap();
    let store = open_with(directory.path(), |config| {
        config.busy_timeout = Duration::from_millis(50).into()
    });
    store.probe().await.unwrap();
    let file = format!("sqlite://{}", directory.path().join("dispatch.db").display());
    let raw = sea_orm::Database::connect(file).await.unwrap();
    sea_orm::ConnectionTrait::execute_unprepared(&raw, "BEGIN IMMEDIATE")
        .await
        .unwrap();

    let error = store
        .queue()
        .enqueue("q", vec![item("a")])
        .await
        .expect_err("the lock is held");
    sea_orm::ConnectionTrait::execute_unprepared(&raw, "ROLLBACK")
        .await
        .unwrap();
    let after = store.queue().enqueue("q", vec![item("a")]).await;

    assert_eq!(error.class(), Class::Unavailable, "{}", error.report());
    assert!(error.report().contains("busy_timeout"), "{}", error.report());
    assert!(after.is_ok(), "work goes on once the lock is free");
}
