use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use dispatch_core::{
    Class, Error, Message, Pipeline, Reply, Sink,
    tasks::OnDuplicate,
    testing::{MemorySink, MemorySource},
};
use dispatch_sinks::tasks::{Attempt, Cancellation, Options, Publisher, State, Task, TaskId, Tasks};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Resize {
    image: u64,
    name: String,
}

impl Task for Resize {
    const NAME: &'static str = "app.resize";
    const QUEUE: Option<&'static str> = Some("images");

    fn options() -> Options {
        Options::default().timeout(Duration::from_secs(5))
    }
}

#[derive(Serialize, Deserialize)]
struct Sweep;

impl Task for Sweep {
    const NAME: &'static str = "app.sweep";
}

type Seen = Arc<Mutex<Vec<String>>>;

async fn resize(
    task: Resize,
    State(seen): State<Seen>,
    TaskId(id): TaskId,
    Attempt(attempt): Attempt,
) -> Result<String, Error> {
    seen.lock()
        .unwrap()
        .push(format!("{} {} {id} {attempt}", task.image, task.name));
    match task.image {
        0 => Err(Error::permanent("no such image").with_code("404")),
        1 => Err(Error::retry("busy")),
        _ => Ok(task.name),
    }
}

async fn sweep(_: Sweep) -> Result<(), std::convert::Infallible> {
    Ok(())
}

fn tasks(seen: &Seen) -> Tasks {
    Tasks::new().state(Arc::clone(seen)).handle(resize).handle(sweep)
}

async fn send(tasks: &Tasks, payload: &str) -> Result<Reply, Error> {
    tasks.send(Message::with_id("id", payload.to_owned())).await
}

#[tokio::test]
async fn a_handler_gets_its_task_however_the_arguments_are_given() {
    let seen = Seen::default();
    let tasks = tasks(&seen);

    for payload in [
        r#"{"task": "app.resize", "kwargs": {"name": "a", "image": 7}}"#,
        r#"{"task": "app.resize", "args": [7, "a"]}"#,
        r#"{"task": "app.resize", "args": [], "kwargs": {"name": "a", "image": 7}, "uuid": "x", "unknown": NaN_is_not_read}"#,
    ] {
        let payload = payload.replace("NaN_is_not_read", "1");
        assert_eq!(&send(&tasks, &payload).await.unwrap().payload[..], b"a", "{payload}");
    }
    for payload in [
        r#"{"task": "app.sweep"}"#,
        r#"{"task": "app.sweep", "args": [], "kwargs": {}}"#,
        r#"{"task": "app.sweep", "args": null}"#,
    ] {
        send(&tasks, payload).await.unwrap();
    }

    assert_eq!(*seen.lock().unwrap(), ["7 a id 1"; 3]);
}

#[tokio::test]
async fn what_no_handler_can_do_is_permanent_and_a_handler_chooses_its_class() {
    let tasks = tasks(&Seen::default());
    for (payload, class, code, part) in [
        ("no json", Class::Permanent, Some("no_task"), "this is no task"),
        ("[1]", Class::Permanent, Some("no_task"), "this is no task"),
        (
            r#"{"task": "app.nothing"}"#,
            Class::Permanent,
            Some("unknown_task"),
            "app.nothing",
        ),
        (
            r#"{"task": "app.resize", "args": ["x", "a"]}"#,
            Class::Permanent,
            Some("arguments"),
            "app.resize",
        ),
        (
            r#"{"task": "app.resize", "args": [7, "a"], "kwargs": {"image": 7}}"#,
            Class::Permanent,
            Some("arguments"),
            "one of them",
        ),
        (
            r#"{"task": "app.resize", "args": [0, "a"]}"#,
            Class::Permanent,
            Some("404"),
            "no such image",
        ),
        (
            r#"{"task": "app.resize", "args": [1, "a"]}"#,
            Class::Retry,
            None,
            "busy",
        ),
    ] {
        let error = send(&tasks, payload).await.unwrap_err();

        assert_eq!(
            (error.class(), error.code().map(|code| code.as_str())),
            (class, code),
            "{payload}"
        );
        assert!(error.report().contains(part), "{payload}: {}", error.report());
    }
    let stateless = Tasks::new().handle(resize);
    let error = send(&stateless, r#"{"task": "app.resize", "args": [7, "a"]}"#)
        .await
        .unwrap_err();
    assert!(
        error.class() == Class::Unavailable && error.to_string().contains("Tasks::state"),
        "{error}"
    );
}

#[derive(Serialize, Deserialize)]
struct Endless {}

impl Task for Endless {
    const NAME: &'static str = "app.endless";
}

#[tokio::test(start_paused = true)]
async fn work_given_away_sees_when_its_attempt_ends() {
    let (told, ended) = tokio::sync::oneshot::channel();
    let told = Arc::new(Mutex::new(Some(told)));
    let endless = move |_: Endless, Cancellation(cancelled): Cancellation| {
        let told = told.lock().unwrap().take();
        async move {
            tokio::spawn(async move {
                cancelled.cancelled().await;
                told.map(|told| told.send(()));
            });
            std::future::pending::<Result<(), Error>>().await
        }
    };
    let source = MemorySource::ending([Message::new(r#"{"task": "app.endless"}"#)]);

    let summary = Pipeline::builder("p")
        .source(source)
        .sink(Tasks::new().handle(endless))
        .timeout(Duration::from_secs(1))
        .stack(|stack| stack.retry = None)
        .prefetch(0)
        .drain_timeout(Duration::from_secs(1))
        .build()
        .unwrap()
        .run_until(async { ended.await.unwrap() })
        .await
        .unwrap();

    assert_eq!(summary.delivered, 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_runs_longer_than_its_own_timeout_is_ended() {
    async fn slow(_: Sweep) -> Result<(), Error> {
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(())
    }
    let tasks = Tasks::new().handle(slow);
    for (limit, ends) in [
        ("2.5", true),
        ("4", false),
        ("0", false),
        ("null", false),
        ("-1", false),
    ] {
        let text = format!(r#"{{"task": "app.sweep", "timeout": {limit}}}"#);
        // As it comes from a queue, and as the source `pg_notify` hands it on, which has read it.
        let dispatch_core::tasks::Incoming::Task(read) =
            dispatch_core::tasks::Incoming::read(&text, dispatch_core::tasks::BarePayload::Reject)
        else {
            panic!("{text}")
        };
        assert_eq!(read.outline.is_none(), !matches!(limit, "0" | "null"), "{limit}");

        let answer = send(&tasks, &text).await;

        match answer {
            Err(error) => {
                assert_eq!(
                    (error.class(), error.code().map(|code| &**code)),
                    (Class::Retry, Some("timeout"))
                );
                assert!(ends && error.to_string().contains("2.5s"), "{error}");
            }
            Ok(_) => assert!(!ends, "{limit}"),
        }
    }
}

#[tokio::test]
async fn what_is_published_is_what_a_handler_and_python_understand() {
    let sink = MemorySink::new();
    let publisher = Publisher::over(sink.clone());
    let image = Resize {
        image: 7,
        name: "é".to_owned(),
    };

    let id = publisher.delay(&image).await.unwrap();
    let options = Options::default()
        .queue("other")
        .uuid("mine")
        .delay(Duration::from_millis(1_500))
        .on_duplicate(OnDuplicate::QueueOne);
    let mine = publisher.apply_async(&image, options).await.unwrap();
    publisher.delay(&Sweep).await.unwrap();

    let messages = sink.messages();
    let json = |n: usize| serde_json::from_slice::<serde_json::Value>(&messages[n].payload).unwrap();
    assert_eq!(
        (messages[0].id(), messages[0].headers().get("queue")),
        (&id, Some("images"))
    );
    assert_eq!(json(0)["kwargs"], serde_json::json!({ "image": 7, "name": "é" }));
    assert_eq!(
        (&json(0)["task"], &json(0)["timeout"]),
        (&"app.resize".into(), &5.0.into())
    );
    assert!(json(0)["time_pub"].is_number() && json(0).get("delay").is_none());
    assert_eq!(
        (mine.as_str(), messages[1].headers().get("queue")),
        ("mine", Some("other"))
    );
    assert_eq!(
        (&json(1)["delay"], &json(1)["on_duplicate"]),
        (&1.5.into(), &"queue_one".into())
    );
    assert_eq!(
        (
            json(2).get("args"),
            json(2).get("kwargs"),
            messages[2].headers().get("queue")
        ),
        (None, None, None)
    );
    let seen = Seen::default();
    for message in messages {
        tasks(&seen).send(message).await.unwrap();
    }
    assert_eq!(seen.lock().unwrap().len(), 2);
}
