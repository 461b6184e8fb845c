use dispatch_core::{Class, Message};
use serde_json::json;

use super::{Rig, code, exists, period, touch, until};

#[tokio::test]
async fn a_timeout_cancels_the_task_at_work() {
    let rig = Rig::new(|_| {});
    let pid = rig.run("pid", json!([])).await.unwrap();

    let task = json!({ "task": "work.sleep", "args": [rig.path("at")], "timeout": 0.2 });
    let error = rig.send(task).await.unwrap_err();

    assert_eq!((error.class(), code(&error)), (Class::Permanent, "cancelled"));
    assert_eq!(
        error.to_string(),
        "task work.sleep was cancelled: its timeout of 200ms passed"
    );
    assert_eq!(rig.run("pid", json!([])).await.unwrap(), pid, "its worker lives on");
    let pool = rig.ask("pool", json!({})).await;
    assert_eq!(
        (&pool["canceled_count"], &pool["finished_count"]),
        (&json!(1), &json!(2))
    );
    rig.close().await;
}

#[tokio::test]
async fn a_timeout_begins_when_the_task_does() {
    let rig = Rig::new(|_| {});
    let go = rig.path("go");
    let held = rig.start("hold", json!([rig.path("at"), go]));
    exists(&rig.path("at")).await;
    let quick = json!({ "task": "work.echo", "timeout": 0.3 });
    let quick = rig.start_message(Message::new(quick.to_string()));
    until(async || rig.ask("pool", json!({})).await["active_task_ct"] == 2).await;
    let long = json!({ "task": "work.sleep", "args": [rig.path("long")], "timeout": 0.5 });
    let long = rig.start_message(Message::new(long.to_string()));
    // Longer than its timeout.
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    touch(&go);

    held.await.unwrap().unwrap();
    quick.await.unwrap().unwrap();
    assert_eq!(code(&long.await.unwrap().unwrap_err()), "cancelled");
    rig.close().await;
}

#[tokio::test]
async fn a_task_may_tidy_up_and_return() {
    let rig = Rig::new(|_| {});

    let task = json!({ "task": "work.tidy", "args": [rig.path("at")], "timeout": 0.2 });

    assert_eq!(rig.send(task).await.unwrap(), json!("tidied up"));
    rig.close().await;
}

#[tokio::test]
async fn what_ignores_its_cancel_is_ended_by_force() {
    for (task, signal) in [("ignore_cancel", "SIGTERM"), ("ignore_all", "SIGKILL")] {
        let rig = Rig::new(|config| config.cancel_grace = period(200));
        let stubborn = json!({ "task": format!("work.{task}"), "args": [rig.path("at")], "timeout": 0.1 });
        let stubborn = rig.start_message(Message::new(stubborn.to_string()));
        exists(&rig.path("at")).await;
        let behind = rig.start("echo", json!([1]));

        let error = stubborn.await.unwrap().unwrap_err();

        assert_eq!(
            (error.class(), code(&error)),
            (Class::Permanent, "cancelled"),
            "{signal}"
        );
        assert_eq!(behind.await.unwrap().unwrap(), json!([[1], {}]), "{signal}");
        rig.close().await;
    }
}

#[tokio::test]
async fn a_send_that_is_dropped_cancels_its_task_and_no_other() {
    let rig = Rig::new(|_| {});
    let pid = rig.run("pid", json!([])).await.unwrap();
    let first = rig.start("sleep", json!([rig.path("at")]));
    exists(&rig.path("at")).await;
    let behind = rig.start("sleep", json!([rig.path("behind")]));
    until(async || rig.ask("pool", json!({})).await["active_task_ct"] == 2).await;
    let waiting = rig.start("sleep", json!([rig.path("waiting")]));
    until(async || rig.ask("pool", json!({})).await["active_task_ct"] == 3).await;
    let last = rig.start("pid", json!([]));

    for task in [waiting, behind, first] {
        task.abort();
        drop(task.await);
    }

    assert_eq!(last.await.unwrap().unwrap(), pid);
    assert!(!std::path::Path::new(&rig.path("behind")).exists());
    assert!(!std::path::Path::new(&rig.path("waiting")).exists());
    until(async || rig.ask("pool", json!({})).await["active_task_ct"] == 0).await;
    rig.close().await;
}
