use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dispatch_core::{MemoryStore, Message, Source as _};
use dispatch_sources::sqsd_cron::{Misfire, SqsdCronSource, SqsdCronSourceConfig};
use tokio::time::{Instant, timeout_at};

use crate::{ack, context, memory, receive};

const TWO_TASKS: &str = "version: 1\ncron:\n  - {name: often, url: /often, schedule: \"* * * * *\"}\n  - {name: seldom, url: /seldom, schedule: \"*/5 * * * *\"}\n";

/// 2026-01-01T00:00:10Z and moving with tokio's clock.
fn clock() -> Arc<dyn Fn() -> SystemTime + Send + Sync> {
    let (wall, run) = (UNIX_EPOCH + Duration::from_secs(1_767_225_610), Instant::now());
    Arc::new(move || wall + run.elapsed())
}

fn source(
    directory: &Path,
    store: &Arc<MemoryStore>,
    clock: &Arc<dyn Fn() -> SystemTime + Send + Sync>,
    change: impl FnOnce(&mut SqsdCronSourceConfig),
) -> SqsdCronSource {
    let mut config = SqsdCronSourceConfig::new("cron.yaml");
    change(&mut config);
    SqsdCronSource::with_clock(&config, &context(directory, store.clone()), clock.clone()).unwrap()
}

fn header<'a>(message: &'a Message, name: &str) -> &'a str {
    message.headers().get(&format!("beanstalk.sqsd.{name}")).unwrap()
}

/// Task and time of all that comes within `time`.
async fn run(source: &mut SqsdCronSource, time: Duration) -> Vec<String> {
    let end = Instant::now() + time;
    let mut fired = Vec::new();
    while let Ok(mut batch) = timeout_at(end, receive(source, 1)).await {
        let delivery = batch.remove(0);
        let (name, at) = (
            header(&delivery.message, "task_name"),
            header(&delivery.message, "scheduled_time"),
        );
        fired.push(format!("{name} {}", &at[14..16]));
        ack(delivery).await;
    }
    fired.sort();
    fired
}

#[tokio::test(start_paused = true)]
async fn each_task_makes_its_message_when_its_time_comes() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("cron.yaml"), TWO_TASKS).unwrap();
    let mut source = source(directory.path(), &memory(), &clock(), |_| ());

    let first = receive(&mut source, 1).await.remove(0);

    assert_eq!(first.message.id(), "p:source:often@2026-01-01T00:01:00Z");
    assert_eq!(&first.message.payload[..], b"elasticbeanstalk scheduled job");
    for (name, value) in [
        ("path", "/often"),
        ("task_name", "often"),
        ("scheduled_time", "2026-01-01 00:01:00 UTC"),
    ] {
        assert_eq!(header(&first.message, name), value);
    }
    ack(first).await;
    let rest = run(&mut source, Duration::from_secs(310)).await;
    assert_eq!(
        rest,
        ["often 02", "often 03", "often 04", "often 05", "often 06", "seldom 05"]
    );
    source.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn however_many_processes_have_the_file_each_slot_fires_once() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("cron.yaml"), TWO_TASKS).unwrap();
    let (store, clock) = (memory(), clock());
    let mut sources: Vec<_> = (0..3)
        .map(|_| source(directory.path(), &store, &clock, |_| ()))
        .collect();

    let runs = sources.iter_mut().map(|source| run(source, Duration::from_secs(295)));
    let mut fired: Vec<_> = futures::future::join_all(runs).await.into_iter().flatten().collect();
    fired.sort();

    assert_eq!(
        fired,
        ["often 01", "often 02", "often 03", "often 04", "often 05", "seldom 05"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_nobody_could_fire_follows_the_policy() {
    for (misfire, expected) in [
        (Misfire::Once, &["often 09", "seldom 05"][..]),
        (Misfire::Skip, &["often 09"]),
        (
            Misfire::All,
            &[
                "often 02",
                "often 03",
                "often 04",
                "often 05",
                "often 06",
                "often 07",
                "often 08",
                "often 09",
                "seldom 05",
            ],
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cron.yaml"), TWO_TASKS).unwrap();
        let (store, clock) = (memory(), clock());
        // A slot of each task is on record before: the 00:00 of `seldom` by hand, as a process before would have left it.
        let slot = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        dispatch_core::Store::slots(&*store)
            .take("p:source:seldom", slot)
            .await
            .unwrap();
        let mut before = source(directory.path(), &store, &clock, |_| ());
        assert_eq!(run(&mut before, Duration::from_secs(55)).await, ["often 01"]);
        before.close().await.unwrap();
        tokio::time::sleep(Duration::from_secs(8 * 60 + 5)).await;

        let mut after = source(directory.path(), &store, &clock, |config| config.misfire = misfire);
        let fired = run(&mut after, Duration::from_secs(10)).await;

        assert_eq!(fired, expected, "{misfire:?}");
        after.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_file_is_followed_and_a_wrong_one_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cron.yaml");
    let task = |name: &str, schedule: &str| format!("  - {{name: {name}, url: /x, schedule: \"{schedule}\"}}\n");
    let mut source = source(directory.path(), &memory(), &clock(), |_| ());

    // Not there: nothing happens until it appears.
    assert!(run(&mut source, Duration::from_secs(100)).await.is_empty());
    fs::write(&file, format!("version: 1\ncron:\n{}", task("a", "* * * * *"))).unwrap();
    assert_eq!(run(&mut source, Duration::from_secs(60)).await, ["a 02"]);

    fs::write(&file, "version: 7\n").unwrap();
    assert_eq!(run(&mut source, Duration::from_secs(60)).await, ["a 03"]);

    // A new pattern has missed nothing, though its last slot has passed and an older one is on record.
    fs::write(
        &file,
        format!(
            "version: 1\ncron:\n{}{}",
            task("a", "*/2 * * * *"),
            task("b", "*/3 * * * *")
        ),
    )
    .unwrap();
    assert_eq!(
        run(&mut source, Duration::from_secs(180)).await,
        ["a 04", "a 06", "b 06"]
    );

    fs::remove_file(&file).unwrap();
    assert!(run(&mut source, Duration::from_secs(300)).await.is_empty());
    source.close().await.unwrap();
}

#[test]
fn a_wrong_file_is_an_error_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("cron.yaml"),
        "version: 1\ncron: [{name: a, url: /a}]\n",
    )
    .unwrap();
    let config = SqsdCronSourceConfig::new("cron.yaml");

    let error = SqsdCronSource::new(&config, &context(directory.path(), memory())).unwrap_err();

    assert_eq!(error.field.as_deref(), Some("file"));
    assert!(
        error.message.contains("cron.yaml: task \"a\" has no schedule"),
        "{error}"
    );
}
