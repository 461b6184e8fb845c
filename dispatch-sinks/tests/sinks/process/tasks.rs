use dispatch_core::{Class, Message, Sink as _};
use serde_json::json;

use super::{Rig, code, spawned, within};

#[tokio::test]
async fn what_a_task_returns_is_the_reply() {
    for rig in [Rig::new(|_| {}), Rig::new(spawned)] {
        assert_eq!(rig.run("echo", json!([1, "é"])).await.unwrap(), json!([[1, "é"], {}]));
        assert_eq!(rig.run("noop", json!([])).await.unwrap(), json!(null));
        assert_eq!(rig.run("odd", json!([])).await.unwrap(), json!(null));
        rig.close().await;
    }
}

#[tokio::test]
async fn arguments_reach_the_worker_as_they_came() {
    let rig = Rig::new(|_| {});
    let long = "1".repeat(40);
    let task = format!(
        "{{\"task\":\n \"work.echo\", \"args\": [NaN, -Infinity, {long}, \"\\ud800\", \"a\\nb\"],\r\n \"kwargs\": {{\"a\": 1e400}}}}\n"
    );

    let reply = within(rig.sink.send(Message::new(task))).await.unwrap();

    let text = String::from_utf8(reply.payload.to_vec()).unwrap();
    assert_eq!(
        text,
        format!("[[NaN,-Infinity,{long},\"\\ud800\",\"a\\nb\"],{{\"a\":Infinity}}]")
    );
    rig.close().await;
}

#[tokio::test]
async fn more_than_a_pipe_holds_goes_in_and_out() {
    let rig = Rig::new(|config| config.max = 2);
    let large = "x".repeat(3 << 20);
    let one = rig.start("echo", json!([large]));
    let other = rig.start("echo", json!([large]));
    let small = rig.start("echo", json!([1]));

    assert_eq!(one.await.unwrap().unwrap(), json!([[large], {}]));
    assert_eq!(other.await.unwrap().unwrap(), json!([[large], {}]));
    assert_eq!(small.await.unwrap().unwrap(), json!([[1], {}]));
    rig.close().await;
}

#[tokio::test]
async fn an_exception_is_permanent_and_says_what_it_was() {
    let rig = Rig::new(|_| {});

    let error = rig.run("boom", json!(["no such account"])).await.unwrap_err();

    assert_eq!((error.class(), code(&error)), (Class::Permanent, "task_failed"));
    assert_eq!(error.to_string(), "task work.boom failed: ValueError: no such account");
    for (task, text) in [
        ("no_such.module", "ModuleNotFoundError"),
        ("work.no_such", "ImportError"),
    ] {
        let error = rig.send(json!({ "task": task })).await.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(rig.ask("pool", json!({})).await["finished_count"], 3);
    rig.close().await;
}

#[tokio::test]
async fn what_is_no_task_reaches_no_worker() {
    let rig = Rig::new(|_| {});
    for payload in [
        &b""[..],
        b"\xff",
        b"lambda: 1",
        b"[]",
        b"{}",
        b"{\"task\": 1}",
        b"{\"control\": \"alive\"}",
    ] {
        let error = within(rig.sink.send(Message::new(payload))).await.unwrap_err();
        assert_eq!(
            (error.class(), code(&error)),
            (Class::Permanent, "no_task"),
            "{payload:?}"
        );
    }
    assert!(rig.workers().await.is_empty());
}

#[tokio::test]
async fn a_task_knows_its_id() {
    let rig = Rig::new(|_| {});
    let task = |uuid: &str| format!("{{\"task\": \"work.uuid\", \"bind\": true{uuid}}}");

    for (uuid, expected) in [
        (", \"uuid\": \"own\"", "own"),
        ("", "message"),
        (", \"uuid\": null", "message"),
    ] {
        let message = Message::with_id("message", task(uuid));
        let reply = within(rig.sink.send(message)).await.unwrap();
        assert_eq!(super::value(&reply), json!([expected, 0]));
    }
    rig.close().await;
}

#[tokio::test]
async fn a_task_knows_which_attempt_it_is() {
    let rig = Rig::new(|_| {});
    for attempt in [1, 2, 7] {
        let message = Message::with_id("message", "{\"task\": \"work.attempt\", \"bind\": true}").with_attempt(attempt);
        let reply = within(rig.sink.send(message)).await.unwrap();
        assert_eq!(super::value(&reply), json!(["message", attempt]));
    }
    rig.close().await;
}

#[tokio::test]
async fn only_allowed_names_run() {
    let rig = Rig::new(|config| config.task_allow = vec!["work.e*".into(), "math.*".into()]);
    assert!(rig.run("echo", json!([])).await.is_ok());
    for task in ["work.noop", "lambda: 1"] {
        let error = rig.send(json!({ "task": task })).await.unwrap_err();
        assert!(error.to_string().contains("TaskRefused"), "{error}");
    }
    rig.close().await;

    let rig = Rig::new(|config| config.lambda_tasks = true);
    assert_eq!(rig.send(json!({ "task": "lambda: [7]" })).await.unwrap(), json!([7]));
    rig.close().await;
}

#[tokio::test]
async fn a_task_whose_uuid_is_a_number_runs() {
    let rig = Rig::new(|config| config.lambda_tasks = true);

    let result = rig
        .send(json!({ "task": "lambda: [7]", "uuid": 5, "timeout": true }))
        .await;

    assert_eq!(result.unwrap(), json!([7]));
    rig.close().await;
}

#[tokio::test]
async fn no_settings_are_an_empty_object() {
    let rig = Rig::new(|_| {});

    let seen = rig
        .run("environment", json!(["DISPATCH_WORKER_SETTINGS"]))
        .await
        .unwrap();

    assert_eq!(seen, json!(["{}"]));
    rig.close().await;
}

#[tokio::test]
async fn settings_reach_the_worker_and_what_dispatch_was_given_does_not() {
    let settings = serde_json::from_value(json!({ "version": 2, "worker": { "worker_kwargs": {} } })).unwrap();
    let rig = Rig::new(|config| config.settings = Some(settings));

    let names = json!([
        "DISPATCH_WORKER_SETTINGS",
        "DISPATCH_TASK_ALLOW",
        "DISPATCH_LAMBDA_TASKS",
        "DISPATCH_WORKER_ID"
    ]);
    let seen = rig.run("environment", names).await.unwrap();

    assert_eq!(
        seen,
        json!([r#"{"version":2,"worker":{"worker_kwargs":{}}}"#, "", "0", "0"])
    );
    rig.close().await;
}
