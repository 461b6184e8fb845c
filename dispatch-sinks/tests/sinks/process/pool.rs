use std::time::Duration;

use dispatch_core::{Message, Sink as _};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Rig, exists, kill, period, runs, spawned, touch, until, within};

#[tokio::test]
async fn the_pool_grows_with_the_work_and_shrinks_without_it() {
    let rig = Rig::new(|config| {
        config.max = 4;
        config.scaledown_wait = period(300);
        config.scaledown_interval = period(50);
        config.removal_wait = period(1);
    });
    rig.sink.open().await.unwrap();
    until(async || rig.with_status("ready").await == 1).await;

    let go = rig.path("go");
    let held: Vec<_> = (0..6)
        .map(|n| rig.start("hold", json!([rig.path(&format!("at{n}")), go])))
        .collect();
    until(async || rig.with_status("ready").await == 4).await;
    let busy = async || {
        rig.workers()
            .await
            .iter()
            .filter(|worker| worker["current_task"] == "work.hold")
            .count()
    };
    until(async || busy().await == 4).await;
    let done = Instant::now();
    touch(&go);
    for held in held {
        held.await.unwrap().unwrap();
    }
    until(async || rig.workers().await.len() == 1).await;

    assert!(done.elapsed() >= Duration::from_millis(300), "{:?}", done.elapsed());
    assert_eq!(rig.ask("pool", json!({})).await["next_worker_id"], 4);
    rig.close().await;
}

#[tokio::test]
async fn the_sources_own_queue_makes_the_pool_grow_too() {
    let rig = Rig::new(|config| config.max = 3);
    rig.commands.on("queued", |_| async { "5".to_owned() });

    rig.sink.open().await.unwrap();

    until(async || rig.with_status("ready").await == 3).await;
    rig.close().await;
}

#[tokio::test]
async fn the_worker_that_became_idle_last_is_next() {
    let rig = Rig::new(|config| (config.min, config.max) = (3, 3));
    rig.sink.open().await.unwrap();
    until(async || rig.with_status("ready").await == 3).await;

    let mut pids = Vec::new();
    for _ in 0..6 {
        pids.push(rig.run("pid", json!([])).await.unwrap());
    }

    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    rig.close().await;
}

#[tokio::test]
async fn a_worker_holds_the_next_task_but_not_one_that_minds_its_like() {
    let rig = Rig::new(|_| {});
    let go = rig.path("go");
    let first = rig.start("hold", json!([rig.path("at"), go]));
    exists(&rig.path("at")).await;

    let alone = json!({ "task": "work.noop", "on_duplicate": "serial" });
    let alone = rig.start_message(Message::new(alone.to_string()));
    let queued = async || rig.ask("running", json!({})).await["queued"].as_object().unwrap().len();
    until(async || queued().await == 1).await;
    let held = rig.start("noop", json!([]));
    until(async || queued().await == 2).await;
    touch(&go);

    for task in [first, alone, held] {
        task.await.unwrap().unwrap();
    }
    rig.close().await;
}

#[tokio::test]
async fn a_task_that_waits_behind_a_long_one_goes_to_an_idle_worker() {
    for spawn in [false, true] {
        let rig = Rig::new(|config| {
            (config.min, config.max) = (2, 2);
            if spawn {
                spawned(config);
            }
        });
        let (go, never) = (rig.path("go"), rig.path("never"));
        let long = rig.start("hold", json!([rig.path("at0"), never]));
        exists(&rig.path("at0")).await;
        let other = rig.start("hold", json!([rig.path("at1"), go]));
        exists(&rig.path("at1")).await;
        // One behind each.
        let behind: Vec<_> = (0..2).map(|n| rig.start("echo", json!([n]))).collect();
        until(async || rig.ask("pool", json!({})).await["active_task_ct"] == 4).await;

        touch(&go);

        other.await.unwrap().unwrap();
        for (n, behind) in behind.into_iter().enumerate() {
            assert_eq!(behind.await.unwrap().unwrap(), json!([[n], {}]));
        }
        assert!(!long.is_finished());
        touch(&never);
        long.await.unwrap().unwrap();
        rig.close().await;
    }
}

#[tokio::test]
async fn all_that_waits_behind_a_long_one_goes_to_an_idle_worker() {
    let rig = Rig::new(|config| (config.min, config.max) = (2, 2));
    // Until they are known to be quick, and so hold more than one behind that at work.
    for round in 0..50 {
        let quick: Vec<_> = (0..16).map(|n| rig.start("echo", json!([round, n]))).collect();
        for task in quick {
            task.await.unwrap().unwrap();
        }
    }
    let (go, never) = (rig.path("go"), rig.path("never"));
    let long = rig.start("hold", json!([rig.path("at0"), never]));
    exists(&rig.path("at0")).await;
    let other = rig.start("hold", json!([rig.path("at1"), go]));
    exists(&rig.path("at1")).await;
    let behind: Vec<_> = (0..12).map(|n| rig.start("echo", json!([n]))).collect();
    until(async || rig.ask("pool", json!({})).await["active_task_ct"] == 14).await;
    let queued = rig.ask("running", json!({})).await["queued"]
        .as_object()
        .map_or(0, |queued| queued.len());
    assert_eq!(queued, 12, "what has not begun is shown as such, whoever holds it");

    touch(&go);

    other.await.unwrap().unwrap();
    for (n, behind) in behind.into_iter().enumerate() {
        assert_eq!(behind.await.unwrap().unwrap(), json!([[n], {}]));
    }
    assert!(!long.is_finished());
    touch(&never);
    long.await.unwrap().unwrap();
    rig.close().await;
}

#[tokio::test]
async fn old_workers_are_replaced_after_their_task() {
    let rig = Rig::new(|config| {
        config.max_lifetime = period(500);
        config.removal_wait = period(60_000);
    });
    let go = rig.path("go");
    let held = rig.start("hold", json!([rig.path("at"), go]));
    exists(&rig.path("at")).await;

    until(async || rig.ask("pool", json!({})).await["retirement_count"] == 1).await;
    let old = rig.workers().await[0].clone();
    assert_eq!(
        (&old["status"], &old["current_task"]),
        (&json!("stopping"), &json!("work.hold"))
    );
    touch(&go);
    let first = held.await.unwrap().unwrap();
    until(async || rig.workers().await[0]["status"] == "retired").await;

    let second = rig.run("pid", json!([])).await.unwrap();
    assert_ne!(first, second);
    rig.close().await;
}

#[tokio::test]
async fn the_end_of_the_sink_is_the_end_of_its_processes() {
    for spawn in [false, true] {
        for close in [true, false] {
            let rig = Rig::new(|config| {
                (config.min, config.max) = (3, 3);
                if spawn {
                    spawned(config);
                }
            });
            let busy = rig.start("sleep", json!([rig.path("at")]));
            exists(&rig.path("at")).await;
            let pids: Vec<i64> = rig
                .workers()
                .await
                .iter()
                .filter_map(|worker| worker["pid"].as_i64())
                .collect();
            assert!(!pids.is_empty());
            let began = Instant::now();

            if close {
                rig.close().await;
                let error = busy.await.unwrap().unwrap_err();
                assert_eq!(super::code(&error), "cancelled");
                assert!(pids.iter().all(|pid| !runs(*pid)), "{pids:?}");
                let error = rig.run("noop", json!([])).await.unwrap_err();
                assert_eq!(super::code(&error), "closed");
            } else {
                busy.abort();
                drop(busy.await);
                drop(rig);
                until(async || pids.iter().all(|pid| !runs(*pid))).await;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        }
    }
}

#[tokio::test]
async fn a_worker_that_does_not_end_is_killed() {
    let rig = Rig::new(|config| {
        config.stop_wait = period(300);
        config.cancel_grace = period(60_000);
    });
    let stubborn = rig.start("ignore_cancel", json!([rig.path("at")]));
    exists(&rig.path("at")).await;
    let pid = rig.workers().await[0]["pid"].as_i64().unwrap();

    rig.close().await;

    assert!(!runs(pid));
    assert_eq!(super::code(&stubborn.await.unwrap().unwrap_err()), "cancelled");
}

#[tokio::test]
async fn an_idle_worker_that_is_told_to_end_from_outside_ends_in_good_order() {
    let rig = Rig::new(|_| {});
    let pid = rig.run("pid", json!([])).await.unwrap().as_i64().unwrap();

    kill(pid, rustix::process::Signal::TERM);

    until(async || rig.workers().await[0]["status"] == "retired").await;
    let next = rig.run("pid", json!([])).await.unwrap();
    assert_ne!(next, json!(pid));
    assert_eq!(rig.counted("dispatch_process_crashes_total"), 0);
    rig.close().await;
}

#[tokio::test]
async fn a_task_may_end_its_worker() {
    let rig = Rig::new(|_| {});
    let go = rig.path("go");
    let held = rig.start("hold", json!([rig.path("at"), go]));
    exists(&rig.path("at")).await;
    let leaving = rig.start("leave", json!([]));
    let after: Vec<_> = (0..3).map(|n| rig.start("echo", json!([n]))).collect();
    until(async || rig.ask("pool", json!({})).await["active_task_ct"] == 5).await;
    touch(&go);

    held.await.unwrap().unwrap();
    assert_eq!(leaving.await.unwrap().unwrap(), json!("bye"));
    for (n, after) in after.into_iter().enumerate() {
        assert_eq!(after.await.unwrap().unwrap(), json!([[n], {}]));
    }
    assert_eq!(rig.ask("pool", json!({})).await["next_worker_id"], 2);
    rig.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_done_twice_under_load() {
    let rig = Rig::new(|config| config.max = 4);
    let sends = (0..3_000).map(|n| {
        let task =
            json!({ "task": "work.echo", "args": [n], "on_duplicate": if n % 7 == 0 { "serial" } else { "parallel" } });
        within(rig.sink.send(Message::new(task.to_string())))
    });

    let replies = futures::future::join_all(sends).await;

    for (n, reply) in replies.into_iter().enumerate() {
        assert_eq!(super::value(&reply.unwrap()), json!([[n], {}]));
    }
    let pool = rig.ask("pool", json!({})).await;
    assert_eq!(
        (&pool["finished_count"], &pool["active_task_ct"]),
        (&Value::from(3_000), &Value::from(0))
    );
    rig.close().await;
}
