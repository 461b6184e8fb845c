use dispatch_core::Message;
use serde_json::json;

use super::{Rig, code, exists, touch, until};

#[tokio::test]
async fn running_shows_each_message_as_it_came_and_where_it_is() {
    let rig = Rig::new(|_| {});
    let text = format!(
        "{{\"task\": \"work.sleep\", \"uuid\": \"a\", \"args\": [\"{}\", 30.0], \"guid\": NaN, \"channel\": \"c\"}}",
        rig.path("at")
    );
    let first = rig.start_message(Message::new(text.clone()));
    exists(&rig.path("at")).await;
    let others: Vec<_> = ["b", "c"]
        .map(|uuid| rig.start_message(Message::new(json!({ "task": "work.echo", "uuid": uuid }).to_string())))
        .into();
    until(async || rig.ask("pool", json!({})).await["active_task_ct"] == 3).await;

    let running = async |filter: &str| rig.commands.ask("running", filter).await.remove(0);
    let (b, c) = (
        r#"{"task":"work.echo","uuid":"b"}"#,
        r#"{"task":"work.echo","uuid":"c"}"#,
    );

    assert_eq!(
        running("{}").await,
        format!("{{\"worker-0\": {text}, \"queued\": {{\"0\": {b}, \"1\": {c}}}}}")
    );
    assert_eq!(
        running(r#"{"uuid": "c"}"#).await,
        format!("{{\"queued\": {{\"0\": {c}}}}}")
    );
    let path = rig.path("at");
    for (filter, found) in [
        (r#"{"task": "work.sleep"}"#.to_owned(), true),
        (format!(r#"{{"task": "work.sleep", "args": ["{path}", 30]}}"#), true),
        (format!(r#"{{"task": "work.sleep", "args": ["{path}", 31]}}"#), false),
        (r#"{"task": "work.sleep", "kwargs": {"a": 1}}"#.to_owned(), false),
        (r#"{"task": "work.sleep", "uuid": ""}"#.to_owned(), true),
    ] {
        assert_eq!(running(&filter).await.contains("worker-0"), found, "{filter}");
    }
    first.abort();
    for other in others {
        other.await.unwrap().unwrap();
    }
    rig.close().await;
}

#[tokio::test]
async fn cancel_ends_what_it_names_and_lists_it() {
    let rig = Rig::new(|_| {});
    let task =
        |uuid: &str| Message::new(json!({ "task": "work.sleep", "uuid": uuid, "args": [rig.path(uuid)] }).to_string());
    let mut tasks = Vec::new();
    for uuid in ["a", "b", "c", "d"] {
        tasks.push(rig.start_message(task(uuid)));
        until(async || rig.ask("pool", json!({})).await["active_task_ct"] == tasks.len()).await;
    }
    exists(&rig.path("a")).await;

    let one = rig.ask("cancel", json!({ "uuid": "b" })).await;
    assert_eq!(one["queued"]["0"]["uuid"], "b");
    let another = rig.ask("cancel", json!({ "uuid": "a" })).await;
    assert_eq!(another["worker-0"]["uuid"], "a");
    exists(&rig.path("c")).await;
    assert_eq!(rig.workers().await[0]["current_task_uuid"], "c");
    let rest = rig.ask("cancel", json!({})).await;
    assert_eq!(
        (&rest["worker-0"]["uuid"], &rest["queued"]["0"]["uuid"]),
        (&json!("c"), &json!("d"))
    );

    for task in tasks {
        let error = task.await.unwrap().unwrap_err();
        assert_eq!(code(&error), "cancelled");
    }
    for uuid in ["b", "d"] {
        assert!(!std::path::Path::new(&rig.path(uuid)).exists(), "{uuid}");
    }
    assert_eq!(rig.ask("pool", json!({})).await["canceled_count"], 4);
    rig.close().await;
}

#[tokio::test]
async fn workers_and_pool_have_the_originals_members() {
    let rig = Rig::new(|_| {});
    let go = rig.path("go");
    let held = rig.start("hold", json!([rig.path("at"), go]));
    exists(&rig.path("at")).await;

    let workers = rig.ask("workers", json!({})).await;
    let worker = &workers["worker-0"];
    assert_eq!(
        (
            &worker["worker_id"],
            &worker["status"],
            &worker["finished_count"],
            &worker["current_task"],
            &worker["active_cancel"]
        ),
        (
            &json!(0),
            &json!("ready"),
            &json!(0),
            &json!("work.hold"),
            &json!(false)
        )
    );
    assert!(worker["pid"].is_i64() && worker["age"].is_f64() && worker["current_task_uuid"].is_string());
    touch(&go);
    assert_eq!(held.await.unwrap().unwrap(), worker["pid"]);
    let pool = rig.ask("pool", json!({})).await;
    for (name, expected) in [
        ("next_worker_id", 1),
        ("finished_count", 1),
        ("canceled_count", 0),
        ("retirement_count", 0),
        ("worker_ct", 1),
        ("running_ct", 1),
        ("active_task_ct", 0),
    ] {
        assert_eq!(pool[name], expected, "{name}");
    }
    assert_eq!(pool["usage"]["count"], 1);
    rig.close().await;
}

#[tokio::test]
async fn a_task_asks_the_service_and_is_answered() {
    let rig = Rig::new(|_| {});
    let task = json!({ "task": "work.ask", "bind": true, "args": ["running", { "uuid": "x" }] });
    let answer = rig.send(task.clone()).await.unwrap();
    assert!(answer["error"].as_str().unwrap().contains("no source"), "{answer}");

    rig.commands
        .on("ctl", |message| async move { format!("{{\"asked\":\n{message}}}") });
    let answer = rig.send(task).await.unwrap();
    assert_eq!(
        answer,
        json!({ "asked": { "control": "running", "control_data": { "uuid": "x" } } })
    );
    let task = json!({ "task": "work.ask", "bind": true, "args": ["alive"] });
    assert_eq!(
        rig.send(task).await.unwrap(),
        json!({ "asked": { "control": "alive" } })
    );
    rig.close().await;
}
