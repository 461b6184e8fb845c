use std::time::Duration;

use dispatch_core::{
    Class, Commands, Disposition, MemoryStore, Reply, SettleError, Settlement,
    store::Depth,
    tasks::{BarePayload, Incoming},
    testing::{Faults, FaultyStore},
};

use super::*;

fn hall_with(most: usize, overflow: Overflow) -> (Arc<Hall>, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::new());
    (hall_over(store.clone(), most, overflow), store)
}

fn hall_over(store: Arc<dyn Store>, most: usize, overflow: Overflow) -> Arc<Hall> {
    let settings = Settings {
        most,
        overflow,
        store,
        queue: "parked".to_owned(),
    };
    Arc::new(Hall::new(settings, &Meter::default()))
}

/// Takes spilled tasks back from now on.
fn taking_back(hall: &Arc<Hall>) -> tokio::task::JoinHandle<()> {
    let hall = Arc::clone(hall);
    tokio::spawn(async move { hall.take_back(&Commands::default(), &Meter::default()).await })
}

async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    waited.unwrap_or_else(|_| panic!("not within 30 s: {what}"));
}

fn hall() -> Arc<Hall> {
    hall_with(1_000, Overflow::Spill).0
}

fn task(text: &str) -> Task {
    match Incoming::read(text, BarePayload::Task) {
        Incoming::Task(mut task) => {
            let uuid = task.uuid.take().unwrap_or_default();
            Task::keep(task, uuid, "", &mut Room::default())
        }
        other => panic!("{other:?}"),
    }
}

fn tasks(policy: &str, count: usize) -> Vec<Task> {
    (0..count)
        .map(|n| {
            task(&format!(
                r#"{{"task": "a.b", "args": [1], "uuid": "{n}", "on_duplicate": "{policy}"}}"#
            ))
        })
        .collect()
}

/// How many there are in each place.
fn places(hall: &Hall) -> [usize; 4] {
    let all = hall.list(|_| true, |_| true);
    [Where::Blocked, Where::Queued, Where::Delayed, Where::Out]
        .map(|place| all.iter().filter(|(at, _)| *at == place).count())
}

async fn done(deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        delivery
            .settle(Disposition::Ack(dispatch_core::Reply::default()))
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn ten_of_a_kind_run_wait_or_are_dropped_by_their_policy() {
    for (policy, blocked, queued, discarded) in [
        ("parallel", 0, 10, 0),
        ("serial", 9, 1, 0),
        ("queue_one", 1, 1, 8),
        ("discard", 0, 1, 9),
    ] {
        let hall = hall();

        hall.admit(tasks(policy, 10)).await;

        assert_eq!(places(&hall), [blocked, queued, 0, 0], "{policy}");
        assert_eq!(hall.discarded.get(), discarded, "{policy}");
    }
}

#[tokio::test(start_paused = true)]
async fn serial_ones_run_one_after_the_other_in_order() {
    let hall = hall();
    hall.admit(tasks("serial", 3)).await;

    for number in ["0", "1", "2"] {
        let one = hall.next(10).await;
        assert_eq!((one.len(), one[0].message.id().as_str()), (1, number));
        done(one).await;
    }

    assert_eq!(places(&hall), [0; 4]);
}

#[tokio::test(start_paused = true)]
async fn likeness_is_of_task_and_arguments_and_the_policy_is_the_newcomers() {
    let hall = hall();
    let add = async |text: &str| hall.admit(vec![task(text)]).await;

    add(r#"{"task": "a.b", "args": [1, {"x": 1}]}"#).await;
    add(r#"{"task": "a.b", "args": [1.0, {"x": 1}], "uuid": "other", "timeout": 5, "on_duplicate": "discard"}"#).await;
    assert_eq!(
        (places(&hall)[1], hall.discarded.get()),
        (1, 1),
        "a parallel one counts as running"
    );
    add(r#"{"task": "a.b", "args": [2], "on_duplicate": "discard"}"#).await;
    add(r#"{"task": "a.c", "args": [1, {"x": 1}], "on_duplicate": "discard"}"#).await;
    add(r#"{"task": "a.b", "on_duplicate": "discard"}"#).await;
    add(r#"{"task": "a.b", "args": [], "on_duplicate": "discard"}"#).await;
    add(r#"{"task": "a.b", "args": [1, {"x": 1}]}"#).await;

    assert_eq!(
        (places(&hall)[1], hall.discarded.get()),
        (6, 1),
        "absent is not empty; parallel runs beside its like"
    );
}

#[tokio::test(start_paused = true)]
async fn a_delayed_task_waits_and_is_judged_when_it_is_due() {
    let hall = hall();
    hall.admit(vec![
        task(r#"{"task": "a.b", "delay": 10, "uuid": "late", "on_duplicate": "discard"}"#),
        task(r#"{"task": "a.b", "delay": 5, "uuid": "early"}"#),
    ])
    .await;
    assert_eq!(places(&hall), [0, 0, 2, 0]);
    let began = Instant::now();

    let early = hall.next(9).await;
    assert_eq!(
        (early[0].message.id().as_str(), began.elapsed().as_secs()),
        ("early", 5)
    );
    let nothing = tokio::time::timeout(Duration::from_secs(60), hall.next(9)).await;

    assert!(nothing.is_err(), "its like runs, so it was dropped when it was due");
    assert_eq!(hall.discarded.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_room_is_spilled_or_shed() {
    let (hall, store) = hall_with(3, Overflow::Spill);
    hall.admit(tasks("parallel", 5)).await;
    assert_eq!(
        (places(&hall)[1], store.queue().depth("parked").await.unwrap().ready),
        (3, 2)
    );

    let (hall, store) = hall_with(3, Overflow::Shed);
    hall.admit(tasks("parallel", 5)).await;
    assert_eq!(
        (hall.shed.get(), store.queue().depth("parked").await.unwrap().ready),
        (2, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_close_keeps_what_waits_and_what_comes_back() {
    let (hall, store) = hall_with(100, Overflow::Spill);
    hall.admit(tasks("parallel", 2)).await;
    hall.admit(vec![task(r#"{"task": "a.b", "delay": 10}"#)]).await;
    let out = hall.next(1).await;

    hall.close().await;
    for delivery in out {
        delivery.settle(Disposition::Release).await.unwrap();
    }

    let depth = store.queue().depth("parked").await.unwrap();
    assert_eq!((depth.ready, depth.delayed, places(&hall)), (2, 1, [0; 4]));
}

#[tokio::test]
async fn a_spilled_task_is_the_stores_until_it_is_done() {
    let (store, faults) = (Arc::new(MemoryStore::new()), Faults::default());
    let faulty = Arc::new(FaultyStore::new(store.clone(), faults.clone()));
    let hall = hall_over(faulty, 1, Overflow::Spill);
    let depth = async || store.queue().depth("parked").await.unwrap();
    hall.admit(tasks("parallel", 2)).await;
    let _taking = taking_back(&hall);
    done(hall.next(1).await).await;

    let back = hall.next(1).await.pop().unwrap();
    assert_eq!((back.message.id().as_str(), depth().await.leased), ("1", 1));
    // The store does not take its end at first; the driver tells it again.
    faults.fail("queue_settle", 1, Class::Unavailable);
    let (token, settler) = back.receipt.into_parts();
    let mut answers = Vec::new();
    for _ in 0..3 {
        let disposition = Disposition::Ack(Reply::default());
        let token = token.clone();
        answers.extend(settler.settle(vec![Settlement { token, disposition }]).await);
    }

    assert!(
        matches!(
            answers[..],
            [Err(SettleError::Failed(_)), Ok(()), Err(SettleError::Stale)]
        ),
        "{answers:?}"
    );
    assert_eq!((depth().await, places(&hall)), (Depth::default(), [0; 4]));
}

#[tokio::test]
async fn what_came_back_goes_back_at_the_end_and_is_not_there_twice() {
    let (hall, store) = hall_with(4, Overflow::Spill);
    hall.admit(tasks("parallel", 4).into_iter().chain(tasks("serial", 3)))
        .await;
    let taking = taking_back(&hall);
    let out = hall.next(4).await;
    until("they are back", async || places(&hall) == [3, 0, 0, 4]).await;
    assert_eq!(out.len(), 4);

    taking.abort();
    hall.close().await;
    done(out).await;

    until("all are claimable", async || {
        let depth = store.queue().depth("parked").await.unwrap();
        (depth.ready, depth.leased, depth.delayed) == (3, 0, 0)
    })
    .await;
}

#[tokio::test]
async fn what_is_no_task_in_the_queue_of_spilled_ones_disturbs_no_other() {
    let (hall, store) = hall_with(4, Overflow::Spill);
    let items = [
        "no task",
        r#"{"task": "a.b"}"#,
        r#"{"task": "a.b", "uuid": "good", "delay": 5}"#,
    ];
    let items = items.map(|text| Item::of(&dispatch_core::Message::new(text)));
    store.queue().enqueue("parked", items.into()).await.unwrap();

    let _taking = taking_back(&hall);
    let good = hall.next(9).await;

    // It has waited for its delay there.
    assert_eq!(good[0].message.id(), "good");
    done(good).await;
    until("nothing is left", async || {
        store.queue().depth("parked").await.unwrap() == Depth::default()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_released_task_is_next_again_and_a_stale_settlement_changes_nothing() {
    let hall = hall();
    hall.admit(tasks("parallel", 3)).await;
    let mut out = hall.next(2).await;
    let (second, first) = (out.pop().unwrap(), out.pop().unwrap());
    let stale = Delivery::new(
        first.message.clone(),
        first.receipt.token().clone(),
        Arc::new(Settling(Arc::clone(&hall))),
    );

    first.settle(Disposition::Release).await.unwrap();
    let again = hall.next(1).await;
    let answer = stale.settle(Disposition::Ack(dispatch_core::Reply::default())).await;

    assert_eq!(again[0].message.id(), "0");
    assert!(matches!(answer, Err(SettleError::Stale)));
    done(again.into_iter().chain([second]).collect()).await;
    assert_eq!(places(&hall), [0, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_takes_out_what_waits_and_lets_followers_go() {
    let hall = hall();
    hall.admit(tasks("serial", 2)).await;
    hall.admit(vec![task(r#"{"task": "other.task", "delay": 10, "uuid": "d"}"#)])
        .await;

    let cancelled = hall.cancel(|task| task.uuid() != "1");

    assert_eq!(
        cancelled.iter().map(|(place, _)| *place).collect::<Vec<_>>(),
        [Where::Queued, Where::Delayed]
    );
    assert_eq!(hall.next(5).await[0].message.id(), "1");
}

#[tokio::test(start_paused = true)]
async fn texts_that_lie_beside_each_other_are_each_its_own() {
    let (hall, mut room) = (hall(), Room::default());
    let texts: Vec<String> = (0..500)
        .map(|n| match n % 4 {
            0 => format!(
                r#"{{"uuid": "u{n}", "args": ["{}"], "task": "a.t{}"}}  "#,
                "x".repeat(n),
                n % 20
            ),
            1 => format!(r#"{{"task": "a.b", "uuid": "\u0075{n}"}}"#),
            2 => format!(r#"{{"task": "\u0061.c", "uuid": "u{n}", "on_duplicate": "serial", "args": [{n}]}}"#),
            _ => format!(r#"{{"task": "a.d", "uuid": "u{n}", "delay": -1}}"#),
        })
        .collect();
    let keep = |text: &String| match Incoming::read(text, BarePayload::Reject) {
        Incoming::Task(mut task) => {
            let uuid = task.uuid.take().unwrap();
            Task::keep(task, uuid, r#", "channel": "jobs""#, &mut room)
        }
        other => panic!("{other:?}"),
    };
    let tasks: Vec<Task> = texts.iter().map(keep).collect();

    hall.admit(tasks).await;
    let mut deliveries = hall.next(500).await;

    deliveries.sort_by_key(|delivery| delivery.message.id()[1..].parse::<usize>().unwrap());
    assert_eq!(deliveries.len(), 500);
    for ((n, text), delivery) in texts.iter().enumerate().zip(&deliveries) {
        let message = &delivery.message;
        let name = ["", "a.b", "a.c", "a.d"][n % 4].to_owned();
        let name = if n % 4 == 0 { format!("a.t{}", n % 20) } else { name };
        assert_eq!(
            (message.id().as_str(), message.metadata().get("task")),
            (&*format!("u{n}"), Some(&*name))
        );
        let whole = format!(r#"{}, "channel": "jobs"}}"#, text.trim_end().strip_suffix('}').unwrap());
        assert_eq!(message.payload, whole);
    }
}

#[tokio::test]
async fn what_is_on_its_way_into_the_store_is_waited_for() {
    let (store, faults) = (Arc::new(MemoryStore::new()), Faults::default());
    let hall = hall_over(
        Arc::new(FaultyStore::new(store.clone(), faults.clone())),
        1,
        Overflow::Spill,
    );
    hall.all_arrived().await;
    faults.hold("enqueue");
    let admit = {
        let hall = Arc::clone(&hall);
        tokio::spawn(async move { hall.admit(tasks("parallel", 3)).await })
    };
    until("two leave", async || faults.calls("enqueue") == 1).await;

    let mut arrived = std::pin::pin!(hall.all_arrived());
    assert!(futures::poll!(&mut arrived).is_pending());
    faults.let_go("enqueue");
    arrived.await;

    assert_eq!(store.queue().depth("parked").await.unwrap().ready, 2);
    admit.await.unwrap();
}

fn serial(number: u32) -> Task {
    task(&format!(
        r#"{{"task": "a.b", "args": [1], "uuid": "{number}", "on_duplicate": "serial"}}"#
    ))
}

/// Begins and ends so many, as their turns come; their ids.
async fn in_turn(hall: &Arc<Hall>, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(30), hall.next(9))
            .await
            .unwrap();
        ids.extend(next.iter().map(|delivery| delivery.message.id().to_string()));
        done(next).await;
    }
    ids
}

#[tokio::test]
async fn a_serial_task_that_finds_room_goes_behind_its_like_in_the_store() {
    let (hall, store) = hall_with(2, Overflow::Spill);
    let spilled = async || store.queue().depth("parked").await.unwrap().ready;
    hall.admit((1..=3).map(serial)).await;
    let first = hall.next(1).await;
    assert_eq!((places(&hall), spilled().await), ([1, 0, 0, 1], 1));

    // There is room for one by now.
    hall.admit([serial(4), task(r#"{"task": "a.b", "uuid": "other"}"#)])
        .await;

    assert_eq!((places(&hall), spilled().await), ([1, 1, 0, 1], 2));
    let _taking = taking_back(&hall);
    done(first).await;
    let mut ids = in_turn(&hall, 4).await;
    ids.retain(|id| id != "other");
    assert_eq!(ids, ["2", "3", "4"]);
    // All are back: the next one waits here.
    hall.admit([serial(5)]).await;
    assert_eq!((places(&hall), spilled().await), ([0, 1, 0, 0], 0));
}

#[tokio::test]
async fn what_the_store_has_from_before_comes_first_until_somebody_takes_it() {
    let (before, store) = hall_with(0, Overflow::Spill);
    before.admit([serial(1)]).await;
    let hall = hall_over(store.clone(), 9, Overflow::Spill);

    hall.look_away().await.unwrap();
    hall.admit([serial(2)]).await;
    assert_eq!(
        (places(&hall), store.queue().depth("parked").await.unwrap().ready),
        ([0; 4], 2)
    );
    store.queue().purge("parked").await.unwrap();
    hall.look_away().await.unwrap();
    hall.admit([serial(3)]).await;

    assert_eq!(places(&hall), [0, 1, 0, 0]);
}
