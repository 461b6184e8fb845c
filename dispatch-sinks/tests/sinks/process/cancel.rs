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

/// A worker that answers for the task before while the note is on its way, and then gives the noted one back.
const SLOW_TO_READ: &str = r#"
import json, os
tasks = os.fdopen(3)
def tell(**event):
    os.write(4, json.dumps(event).encode() + b"\n")
tell(event="ready", prefetch=2)
first = json.loads(tasks.readline())
second = json.loads(tasks.readline())
note = json.loads(tasks.readline())
tell(event="done", uuid=first["uuid"], result=note)
tell(event="revoked", uuid=second["uuid"])
for line in tasks:
    if line == '"stop"\n':
        break
    tell(event="done", uuid=json.loads(line)["uuid"], result="later")
tell(event="shutdown")
"#;

#[tokio::test]
async fn a_task_is_given_back_though_the_one_before_it_is_done() {
    let script = format!("import signal; signal.signal(signal.SIGUSR1, lambda *_: None)\n{SLOW_TO_READ}");
    let rig = Rig::new(|config| config.command = ["python3", "-c", &script].map(str::to_owned).into());
    let task = |uuid: &str| Message::new(json!({ "task": "x", "uuid": uuid }).to_string());
    let first = rig.start_message(task("first"));
    until(async || rig.with_status("ready").await == 1).await;
    let second = rig.start_message(task("second"));
    until(async || rig.ask("pool", json!({})).await["active_task_ct"] == 2).await;

    rig.ask("cancel", json!({ "uuid": "second" })).await;

    assert_eq!(first.await.unwrap().unwrap(), json!(["cancel", "second"]));
    assert_eq!(code(&second.await.unwrap().unwrap_err()), "cancelled");
    // By the same worker, which is not thought to be at work any more.
    assert_eq!(rig.start_message(task("third")).await.unwrap().unwrap(), json!("later"));
    assert_eq!(rig.ask("pool", json!({})).await["next_worker_id"], 1);
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
        let stubborn = rig.start(task, json!([rig.path("at")]));
        exists(&rig.path("at")).await;
        rig.ask("cancel", json!({})).await;
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
