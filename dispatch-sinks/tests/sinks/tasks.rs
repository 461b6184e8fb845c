use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use dispatch_core::{
    Class, Commands, Error, MemoryStore, Message, Pipeline, Reply, Sink, Store,
    store::QueueSource,
    tasks::OnDuplicate,
    testing::{MemorySink, MemorySource},
};
use dispatch_sinks::queue::{QueueSink, QueueSinkConfig};
use dispatch_sinks::tasks::{Attempt, Cancellation, Options, Publisher, State, Task, TaskId, Tasks};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;

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
    let body = |n: usize| serde_json::from_slice::<serde_json::Value>(&messages[n].payload).unwrap();
    assert_eq!(
        (messages[0].id(), messages[0].headers().get("queue")),
        (&id, Some("images"))
    );
    assert_eq!(body(0)["kwargs"], json!({ "image": 7, "name": "é" }));
    assert_eq!(
        (&body(0)["task"], &body(0)["timeout"]),
        (&"app.resize".into(), &5.0.into())
    );
    assert!(body(0)["time_pub"].is_number() && body(0).get("delay").is_none());
    assert_eq!(
        (mine.as_str(), messages[1].headers().get("queue")),
        ("mine", Some("other"))
    );
    assert_eq!(
        (&body(1)["delay"], &body(1)["on_duplicate"]),
        (&1.5.into(), &"queue_one".into())
    );
    assert_eq!(
        (
            body(2).get("args"),
            body(2).get("kwargs"),
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

async fn ask(commands: &Commands, command: &str, data: &str) -> serde_json::Value {
    let answers = commands.ask(command, data).await;
    assert_eq!(answers.len(), 1, "{command}");
    serde_json::from_str(&answers[0]).unwrap()
}

#[tokio::test]
async fn whoever_asks_sees_handlers_at_work_as_workers_and_can_cancel_them() {
    let commands = Commands::default();
    let (token, given) = tokio::sync::oneshot::channel();
    let token = Arc::new(Mutex::new(Some(token)));
    let endless = move |_: Endless, Cancellation(cancelled): Cancellation| {
        let token = token.lock().unwrap().take();
        async move {
            token.map(|token| token.send(cancelled));
            std::future::pending::<Result<(), Error>>().await
        }
    };
    let tasks = Arc::new(Tasks::new().handle(endless).handle(sweep).answering(&commands));
    let begin = |id: &'static str, payload: &'static str| {
        let tasks = Arc::clone(&tasks);
        let sending = async move { tasks.send(Message::with_id(id, payload)).await };
        tokio::spawn(sending)
    };
    assert_eq!(ask(&commands, "running", "{}").await, json!({}));

    let one = begin(
        "one",
        r#"{"task": "app.endless", "uuid": "first", "kwargs": {"x": [1.0]}}"#,
    );
    let cancelled = given.await.unwrap();
    let other = begin("other", r#"{"task": "app.endless"}"#);
    while ask(&commands, "running", "{}").await.get("worker-1").is_none() {
        tokio::task::yield_now().await;
    }
    send(&tasks, r#"{"task": "app.sweep"}"#).await.unwrap();

    let running = ask(&commands, "running", "{}").await;
    assert_eq!(running["worker-0"]["kwargs"], json!({ "x": [1.0] }));
    assert_eq!(
        (&running["worker-0"]["uuid"], &running["worker-1"]["uuid"]),
        (&"first".into(), &"other".into())
    );
    let workers = ask(&commands, "workers", "{}").await;
    assert_eq!(workers.as_object().unwrap().len(), 3, "as many as were at work at once");
    for (member, expected) in [
        ("worker_id", json!(0)),
        ("pid", json!(std::process::id())),
        ("status", json!("ready")),
        ("finished_count", json!(0)),
        ("current_task", json!("app.endless")),
        ("current_task_uuid", json!("first")),
        ("active_cancel", json!(false)),
    ] {
        assert_eq!(workers["worker-0"][member], expected, "{member}");
    }
    assert_eq!(workers["worker-2"]["finished_count"], 1);
    assert!(workers["worker-2"]["current_task"].is_null() && workers["worker-2"]["age"].is_number());
    let pool = ask(&commands, "pool", "{}").await;
    assert_eq!(
        (
            &pool["worker_ct"],
            &pool["active_task_ct"],
            &pool["finished_count"],
            &pool["canceled_count"]
        ),
        (&3.into(), &2.into(), &1.into(), &0.into())
    );

    for other_ones in [
        r#"{"uuid": "nobody"}"#,
        r#"{"task": "app.sweep"}"#,
        r#"{"kwargs": {"x": [2]}}"#,
    ] {
        assert_eq!(ask(&commands, "cancel", other_ones).await, json!({}), "{other_ones}");
    }
    let gone = ask(&commands, "cancel", r#"{"task": "app.endless", "kwargs": {"x": [1]}}"#).await;

    assert_eq!(
        gone.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["worker-0"],
        "{gone}"
    );
    let error = one.await.unwrap().unwrap_err();
    assert_eq!(
        (error.class(), error.code().map(|code| &**code)),
        (Class::Permanent, Some("cancelled"))
    );
    cancelled.cancelled().await;
    // Dropped by whoever had it done: nobody asked for that.
    other.abort();
    assert!(other.await.unwrap_err().is_cancelled());
    let pool = ask(&commands, "pool", "{}").await;
    assert_eq!(
        (
            &pool["active_task_ct"],
            &pool["finished_count"],
            &pool["canceled_count"]
        ),
        (&0.into(), &1.into(), &2.into())
    );
}

#[tokio::test]
async fn over_a_queue_tasks_wait_and_run_as_they_ask() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let sink = QueueSink::new(QueueSinkConfig::new("q"), Arc::clone(&store)).unwrap();
    let publisher = Publisher::over(sink);
    let (go, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (gate, seen) = (Arc::clone(&go), Arc::clone(&begun));
    let resize = move |task: Resize, TaskId(id): TaskId| {
        let gate = Arc::clone(&gate);
        seen.lock().unwrap().push(format!("{} {id}", task.name));
        async move {
            gate.acquire().await.unwrap().forget();
            Ok::<_, Error>(())
        }
    };
    let image = |name: &str| Resize {
        image: 7,
        name: name.to_owned(),
    };
    let count = |wanted: &str| {
        let begun = begun.lock().unwrap();
        begun.iter().filter(|begun| begun.starts_with(wanted)).count()
    };
    let until = async |what: &str, is_so: &dyn Fn() -> bool| {
        let waited = tokio::time::timeout(Duration::from_secs(30), async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        assert!(waited.await.is_ok(), "never: {what}: {:?}", begun.lock().unwrap());
    };
    let source = QueueSource::new(Arc::clone(&store), "q").ordered(true);
    let service = Pipeline::builder("p")
        .source(source)
        .sink(Tasks::new().handle(resize))
        .build()
        .unwrap();
    let handle = service.handle();
    let running = tokio::spawn(service.run_until(std::future::pending()));

    for policy in [OnDuplicate::Serial, OnDuplicate::QueueOne, OnDuplicate::Discard] {
        let name = format!("{policy:?}");
        let publish = async |uuid: String| {
            let options = Options::default().on_duplicate(policy).uuid(uuid);
            publisher.apply_async(&image(&name), options).await.unwrap()
        };
        publish(format!("{name}-0")).await;
        until("the first begins", &|| count(&name) == 1).await;
        for number in 1..4 {
            publish(format!("{name}-{number}")).await;
        }
        let runs = match policy {
            OnDuplicate::Serial => 4,
            OnDuplicate::QueueOne => 2,
            _ => 1,
        };
        // Something else meanwhile runs beside it: there is room, and those do not take it.
        publisher.delay(&image(&format!("beside {name}"))).await.unwrap();
        until("what is not its like", &|| count(&format!("beside {name}")) == 1).await;
        assert_eq!(count(&name), 1, "{name}: one at a time");
        go.add_permits(2);
        for number in 1..runs {
            until("the next", &|| count(&name) == number + 1).await;
            assert_eq!(store.queue().keys("q").await.unwrap().len(), 1, "{name}");
            go.add_permits(1);
        }
        let empty = async || {
            let depth = store.queue().depth("q").await.unwrap();
            depth.ready + depth.delayed + depth.leased == 0
        };
        let emptied = tokio::time::timeout(Duration::from_secs(30), async {
            while !empty().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        emptied.await.unwrap();
        assert_eq!(count(&name), runs, "{name}");
    }
    let later = Options::default().delay(Duration::from_secs(3_600));
    publisher.apply_async(&image("later"), later).await.unwrap();
    assert_eq!(store.queue().depth("q").await.unwrap().delayed, 1);
    let soon = Options::default().delay(Duration::from_millis(50));
    publisher.apply_async(&image("soon"), soon).await.unwrap();
    go.add_permits(1);
    until("the delayed one", &|| count("soon") == 1).await;
    assert_eq!(count("later"), 0);
    handle.drain();
    running.await.unwrap().unwrap();
    assert_eq!(store.queue().depth("q").await.unwrap().delayed, 1, "kept");
}
