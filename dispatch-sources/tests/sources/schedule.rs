use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dispatch_core::{
    Delivery, MemoryStore, Message, Source as _, Store as _,
    store::{Claim, Item},
    testing::source::{Bench, source_battery},
};
use dispatch_sources::schedule::{Misfire, Overlap, ScheduleSource, ScheduleSourceConfig};
use tokio::time::{Instant, timeout};

use crate::{ack, context, memory, receive};

/// 2026-01-01T00:00:00Z and `offset` seconds when it is made, and moving with tokio's clock.
fn clock(offset: u64) -> Arc<dyn Fn() -> SystemTime + Send + Sync> {
    let (wall, run) = (UNIX_EPOCH + Duration::from_secs(1_767_225_600 + offset), Instant::now());
    Arc::new(move || wall + run.elapsed())
}

pub(crate) fn every(
    store: &Arc<MemoryStore>,
    seconds: u64,
    offset: u64,
    change: impl FnOnce(&mut ScheduleSourceConfig),
) -> ScheduleSource {
    let mut config = ScheduleSourceConfig::every(Duration::from_secs(seconds));
    change(&mut config);
    ScheduleSource::with_clock(&config, &context(".".as_ref(), store.clone()), clock(offset)).unwrap()
}

pub(crate) fn slot(delivery: &Delivery) -> &str {
    delivery
        .message
        .metadata()
        .get("schedule_slot")
        .unwrap()
        .strip_prefix("2026-01-01T")
        .unwrap()
}

/// Receives and acks for as long as `time`.
async fn run(source: &mut ScheduleSource, time: Duration) -> Vec<String> {
    let mut slots = Vec::new();
    let end = Instant::now() + time;
    while let Ok(mut batch) = tokio::time::timeout_at(end, receive(source, 1)).await {
        let delivery = batch.remove(0);
        slots.push(slot(&delivery).to_owned());
        ack(delivery).await;
    }
    slots
}

#[tokio::test(start_paused = true)]
async fn each_slot_makes_a_message_when_it_comes() {
    let mut source = every(&memory(), 60, 10, |config| {
        config.payload = "tick".into();
        config.headers.insert("x".into(), "1".into());
    });
    let begin = Instant::now();

    let first = receive(&mut source, 1).await.remove(0);

    assert_eq!(begin.elapsed().as_secs(), 50);
    assert_eq!(first.message.id(), "p:source@2026-01-01T00:01:00Z");
    assert_eq!(
        (&first.message.payload[..], first.message.headers().get("x")),
        (&b"tick"[..], Some("1"))
    );
    ack(first).await;
    assert_eq!(
        run(&mut source, Duration::from_secs(150)).await,
        ["00:02:00Z", "00:03:00Z"]
    );
}

#[tokio::test(start_paused = true)]
async fn with_a_queue_slots_are_tasks_there() {
    for (policy, kept) in [("parallel", 3), ("queue_one", 1), ("discard", 1)] {
        let store = memory();
        let payload = format!(r#"{{"task": "a.b", "on_duplicate": "{policy}"}}"#);
        let mut source = every(&store, 60, 10, |config| {
            config.queue = Some("tasks".into());
            config.payload.clone_from(&payload);
        });

        let received = timeout(Duration::from_secs(190), source.receive(1)).await;

        assert!(received.is_err(), "{policy}: others work on them");
        let claim = Claim {
            max: 10,
            lease: Duration::from_secs(60),
            ordered: false,
            below: None,
        };
        let claimed = store.queue().claim("tasks", claim).await.unwrap();
        assert_eq!(claimed.len(), kept, "{policy}");
        let first = &claimed[0].item;
        assert_eq!(first.id, "p:source@2026-01-01T00:01:00Z", "{policy}");
        let mut published = Item::of(&Message::new(payload));
        dispatch_core::tasks::heed(&mut published).unwrap();
        assert_eq!(first.key, published.key, "{policy}: as somebody publishes its like");
        source.close().await.unwrap();
    }
}

#[test]
fn what_goes_into_a_queue_must_be_a_task() {
    for (queue, payload, overlap, field) in [
        ("", r#"{"task": "a.b"}"#, Overlap::Skip, "queue"),
        ("tasks", "tick", Overlap::Skip, "payload"),
        ("tasks", r#"{"task": "a.b", "delay": "soon"}"#, Overlap::Skip, "payload"),
        ("tasks", r#"{"control": "alive"}"#, Overlap::Skip, "payload"),
        ("tasks", r#"{"task": "a.b"}"#, Overlap::Queue, "overlap"),
    ] {
        let mut config = ScheduleSourceConfig::every(Duration::from_secs(60));
        (config.queue, config.payload, config.overlap) = (Some(queue.into()), payload.into(), overlap);

        let refused = ScheduleSource::new(&config, &context(".".as_ref(), memory())).unwrap_err();

        assert_eq!(refused.field.as_deref(), Some(field), "{payload}: {refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn jitter_delays_but_does_not_move_the_slot() {
    let mut source = every(&memory(), 60, 0, |config| config.jitter = Some("50s".parse().unwrap()));
    let begin = Instant::now();

    let first = receive(&mut source, 1).await.remove(0);

    assert_eq!(slot(&first), "00:01:00Z");
    assert!((60..110).contains(&begin.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn three_processes_fire_each_slot_once() {
    let store = memory();
    let minutes = Duration::from_secs(20 * 60);

    let mut sources: Vec<_> = (0..3)
        .map(|_| every(&store, 60, 0, |config| config.overlap = Overlap::Allow))
        .collect();
    let runs = futures::future::join_all(sources.iter_mut().map(|source| run(source, minutes))).await;

    let mut slots: Vec<_> = runs.concat();
    slots.sort();
    let expected: Vec<_> = (1..=20).map(|minute| format!("00:{minute:02}:00Z")).collect();
    assert!(slots == expected || slots == expected[..19], "{slots:?}");
}

/// It had reserved the slot, and those after it had to wait until that ran out.
#[tokio::test(start_paused = true)]
async fn a_process_that_dies_as_it_fires_costs_no_slot() {
    let store = memory();
    let second = Duration::from_secs(1);
    let mut sources: Vec<_> = (0..2)
        .map(|_| every(&store, 1, 0, |config| config.overlap = Overlap::Allow))
        .collect();
    let reservation = "schedule:p:source@2026-01-01T00:00:03Z";
    store
        .reservations()
        .reserve(reservation, "dead", 7 * second)
        .await
        .unwrap();

    let runs = futures::future::join_all(sources.iter_mut().map(|source| run(source, 15 * second))).await;

    let mut slots: Vec<_> = runs.concat();
    slots.sort();
    let expected: Vec<_> = (1..=15).map(|second| format!("00:00:{second:02}Z")).collect();
    assert!(slots == expected || slots == expected[..14], "{slots:?}");
}

#[tokio::test(start_paused = true)]
async fn missed_slots_follow_the_policy_after_a_restart() {
    for (misfire, expected) in [
        (Misfire::Once, &["00:30:00Z", "00:40:00Z"][..]),
        (Misfire::Skip, &["00:40:00Z"]),
        (Misfire::All, &["00:20:00Z", "00:30:00Z", "00:40:00Z"]),
    ] {
        let store = memory();
        let mut before = every(&store, 600, 0, |_| {});
        ack(receive(&mut before, 1).await.remove(0)).await;
        before.close().await.unwrap();

        let mut after = every(&store, 600, 35 * 60, |config| {
            config.misfire = misfire;
            config.overlap = Overlap::Queue;
        });

        assert_eq!(run(&mut after, Duration::from_secs(600)).await, expected, "{misfire:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_never_ran_has_missed_nothing() {
    let mut source = every(&memory(), 600, 59 * 60, |config| config.misfire = Misfire::All);

    assert_eq!(slot(&receive(&mut source, 1).await[0]), "01:00:00Z");
}

#[tokio::test(start_paused = true)]
async fn overlapping_slots_follow_the_policy() {
    for (overlap, at_once, later) in [
        (Overlap::Skip, &["00:01:00Z"][..], &["00:05:00Z"][..]),
        (
            Overlap::Queue,
            &["00:01:00Z"],
            &["00:02:00Z", "00:03:00Z", "00:04:00Z", "00:05:00Z"],
        ),
        (
            Overlap::Allow,
            &["00:01:00Z", "00:02:00Z", "00:03:00Z", "00:04:00Z"],
            &["00:05:00Z"],
        ),
    ] {
        let mut source = every(&memory(), 60, 0, |config| config.overlap = overlap);
        let mut working = Vec::new();
        let until = Instant::now() + Duration::from_secs(4 * 60 + 20);
        let extend = source.settler();
        while let Ok(received) = {
            // The driver's keeper: leases of what is being worked on do not end.
            let tokens = working
                .iter()
                .map(|delivery: &Delivery| delivery.receipt.token().clone())
                .collect();
            extend.extend(tokens, Duration::from_secs(3600)).await;
            tokio::time::timeout_at(until, receive(&mut source, 1)).await
        } {
            working.extend(received);
        }

        assert_eq!(working.iter().map(slot).collect::<Vec<_>>(), at_once, "{overlap:?}");
        for delivery in working {
            ack(delivery).await;
        }
        assert_eq!(run(&mut source, Duration::from_secs(60)).await, later, "{overlap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_fired_outlives_the_process() {
    let store = memory();
    let mut first = every(&store, 60, 0, |_| {});
    drop(receive(&mut first, 1).await);
    first.close().await.unwrap();
    drop(first);

    let mut second = every(&store, 60, 70, |_| {});
    let again = timeout(Duration::from_secs(45), receive(&mut second, 1)).await.unwrap();

    assert_eq!(slot(&again[0]), "00:01:00Z");
    assert_eq!(store.queue().depth("schedule:p:source").await.unwrap().leased, 1);
}

#[tokio::test(start_paused = true)]
async fn closing_fires_nothing_more() {
    let store = memory();
    let mut source = every(&store, 60, 0, |config| config.overlap = Overlap::Allow);
    ack(receive(&mut source, 1).await.remove(0)).await;

    source.close().await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;

    assert_eq!(store.queue().depth("schedule:p:source").await.unwrap().ready, 0);
}

#[test]
fn mistakes_name_their_field() {
    for (toml, field) in [
        ("", None),
        ("every = \"1m\"\ncron = \"* * * * *\"", Some("cron")),
        ("every = \"10ms\"", Some("every")),
        ("every = \"1m\"\njitter = \"2m\"", Some("jitter")),
        ("cron = \"* * * *\"", Some("cron")),
        ("cron = \"* * * * *\"\ntimezone = \"Berlin\"", Some("timezone")),
    ] {
        let config: ScheduleSourceConfig = toml::from_str(toml).unwrap();
        let error = ScheduleSource::new(&config, &context(".".as_ref(), memory())).unwrap_err();
        assert_eq!(error.field.as_deref(), field, "{toml}");
        assert!(error.help.is_some(), "{toml}");
    }
}

/// What a schedule fires waits in a queue of its own; the battery puts there what it would fire.
#[tokio::test(start_paused = true)]
async fn the_battery_holds() {
    source_battery(async || {
        let store = memory();
        let source = every(&store, 24 * 3_600, 10, |_| {});
        Bench::new(source, move |payloads| {
            let store = store.clone();
            Box::pin(async move {
                let items = payloads
                    .into_iter()
                    .map(|payload| Item::of(&Message::new(payload)))
                    .collect();
                store.queue().enqueue("schedule:p:source", items).await.unwrap();
            })
        })
    })
    .await;
}
