//! What finds no room goes through the store, and waits for its like all the same.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use dispatch_core::{
    BoxError, Pipeline, config::SourceConfig, pipeline::Handle, sink_fn, store::Depth, telemetry::Measured,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use super::{pg_notify::Server, *};

/// What the sink saw. It lets a task go for each permit.
struct Diary {
    gate: Semaphore,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    running: HashMap<String, usize>,
    /// Ids, in the order they began.
    begun: Vec<(String, Instant)>,
    /// Those that began beside their like.
    beside: Vec<String>,
    done: usize,
}

impl Diary {
    fn new() -> Arc<Self> {
        let (gate, seen) = (Semaphore::new(0), Mutex::default());
        Arc::new(Self { gate, seen })
    }

    fn look<T>(&self, at: impl FnOnce(&mut Seen) -> T) -> T {
        at(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn work(&self, message: Message) {
        let name = message.metadata().get("task").unwrap_or_default().to_owned();
        self.look(|seen| {
            let running = seen.running.entry(name.clone()).or_default();
            *running += 1;
            if *running > 1 {
                seen.beside.push(message.id().to_string());
            }
            seen.begun.push((message.id().to_string(), Instant::now()));
        });
        if name != "are.you.there" {
            self.gate.acquire().await.unwrap().forget();
        }
        self.look(|seen| {
            *seen.running.entry(name).or_default() -= 1;
            seen.done += 1;
        });
    }

    fn has_begun(&self, id: &str) -> bool {
        self.look(|seen| seen.begun.iter().any(|(begun, _)| begun == id))
    }
}

/// A pipeline in which two tasks may wait.
struct Service {
    handle: Handle,
    meter: dispatch_core::telemetry::Meter,
    ended: tokio::task::JoinHandle<()>,
}

impl Service {
    fn start(server: &Server, store: &Arc<MemoryStore>, diary: &Arc<Diary>) -> Self {
        let context = context(Path::new("."), store.clone());
        let meter = context.meter.clone();
        let mut config = server.config();
        config.max_waiting = 2;
        let source = config.build(&context).unwrap();
        let own = Arc::clone(diary);
        let pipeline = Pipeline::builder("p")
            .labelled_source("source", source)
            .sink(sink_fn(move |message: Message| {
                let diary = Arc::clone(&own);
                async move {
                    diary.work(message).await;
                    Ok::<_, BoxError>(())
                }
            }))
            .store(store.clone())
            .commands(context.commands.clone())
            .timeout(Duration::from_secs(600))
            .build()
            .unwrap();
        let handle = pipeline.handle();
        let ended = tokio::spawn(async move { pipeline.run().await.map(drop).unwrap() });
        Self { handle, meter, ended }
    }

    /// One that listens, and has nothing to do yet.
    async fn listening(server: &Server, store: &Arc<MemoryStore>, diary: &Arc<Diary>) -> Self {
        let service = Self::start(server, store, diary);
        let probe = dispatch_core::random_id();
        until("it listens", async || {
            server
                .publish(&format!(r#"{{"task": "are.you.there", "uuid": "{probe}"}}"#))
                .await;
            diary.has_begun(&probe)
        })
        .await;
        // Those that were asked more than once.
        until("nothing waits", async || {
            service.measured("dispatch_tasks_waiting") == 0 && service.handle.status().in_flight == 0
        })
        .await;
        service
    }

    fn measured(&self, name: &str) -> i64 {
        let readings = self.meter.read();
        let found = readings.iter().find(|reading| reading.name == name).unwrap();
        match found.measured {
            Measured::Counter(count) => i64::try_from(count).unwrap(),
            Measured::Gauge(value) => value,
            ref other => panic!("{name}: {other:?}"),
        }
    }

    /// One at work, two that wait, and three in the store, all each other's like.
    async fn fill(&self, server: &Server, diary: &Diary) {
        server.publish(&serial(1)).await;
        until("the first is at work", async || diary.has_begun("a1")).await;
        server.publish_together(&[&serial(2), &serial(3)]).await;
        until("two wait", async || self.measured("dispatch_tasks_waiting") == 2).await;
        server.publish_together(&[&serial(4), &serial(5), &serial(6)]).await;
        until("three are spilled", async || {
            self.measured("dispatch_tasks_spilled_total") == 3
        })
        .await;
    }
}

fn serial(number: u32) -> String {
    format!(r#"{{"task": "a.a", "args": [1], "uuid": "a{number}", "on_duplicate": "serial"}}"#)
}

async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("not within 60 s: {what}"));
}

async fn nothing_is_left(store: &MemoryStore) {
    until("the store has nothing left", async || {
        store.queue().depth("parked:p:source").await.unwrap() == Depth::default()
    })
    .await;
}

#[tokio::test]
async fn spilled_tasks_wait_for_their_like_and_their_time() {
    let Some(server) = Server::find("spilled_tasks_wait_for_their_like_and_their_time").await else {
        return;
    };
    let (store, diary) = (memory(), Diary::new());
    let service = Service::listening(&server, &store, &diary).await;
    service.fill(&server, &diary).await;
    let sent = Instant::now();

    let of = |name: &str, id: &str, rest: &str| format!(r#"{{"task": "{name}", "args": [1], "uuid": "{id}", {rest}}}"#);
    for (name, id, rest) in [
        ("a.a", "a7", r#""on_duplicate": "discard""#),
        ("a.d", "d1", r#""on_duplicate": "discard""#),
        ("a.d", "d2", r#""on_duplicate": "discard""#),
        ("a.q", "q1", r#""on_duplicate": "queue_one""#),
        ("a.q", "q2", r#""on_duplicate": "queue_one""#),
        ("a.l", "late", r#""delay": 1.5"#),
    ] {
        server.publish(&of(name, id, rest)).await;
    }
    until("all are judged", async || {
        let spilled = service.measured("dispatch_tasks_spilled_total");
        (spilled, service.measured("dispatch_tasks_discarded_total")) == (3 + 3, 3)
    })
    .await;
    let probes = diary.look(|seen| seen.begun.len() - 1);
    diary.gate.add_permits(100);
    until("all are done", async || diary.look(|seen| seen.done) >= probes + 9).await;
    nothing_is_left(&store).await;
    service.handle.stop_now();

    diary.look(|seen| {
        assert_eq!(seen.beside, [""; 0]);
        let mut begun: Vec<&str> = seen.begun[probes..].iter().map(|(id, _)| id.as_str()).collect();
        let serial: Vec<&str> = begun.iter().copied().filter(|id| id.starts_with('a')).collect();
        assert_eq!(serial, ["a1", "a2", "a3", "a4", "a5", "a6"]);
        begun.sort_unstable();
        assert_eq!(begun, ["a1", "a2", "a3", "a4", "a5", "a6", "d1", "late", "q1"]);
        let late = seen.begun.iter().find(|(id, _)| id == "late").unwrap();
        assert!(late.1 - sent >= Duration::from_millis(1_500), "{:?}", late.1 - sent);
    });
}

#[tokio::test]
async fn what_a_drain_puts_away_waits_for_its_like_at_the_next_start() {
    let Some(server) = Server::find("what_a_drain_puts_away_waits_for_its_like_at_the_next_start").await else {
        return;
    };
    let (store, diary) = (memory(), Diary::new());
    let service = Service::listening(&server, &store, &diary).await;
    service.fill(&server, &diary).await;
    service.handle.drain();
    diary.gate.add_permits(1);
    timeout(Duration::from_secs(60), service.ended).await.unwrap().unwrap();
    let depth = store.queue().depth("parked:p:source").await.unwrap();
    assert_eq!((depth.ready, depth.leased), (5, 0));

    let service = Service::start(&server, &store, &diary);
    diary.gate.add_permits(100);
    until("all are done", async || {
        (2..=6).all(|n| diary.has_begun(&format!("a{n}")))
    })
    .await;
    nothing_is_left(&store).await;
    service.handle.stop_now();

    assert_eq!(diary.look(|seen| std::mem::take(&mut seen.beside)), [""; 0]);
}

#[tokio::test]
async fn spilled_tasks_are_seen_and_cancelled_wherever_they_are() {
    let Some(server) = Server::find("spilled_tasks_are_seen_and_cancelled_wherever_they_are").await else {
        return;
    };
    let (store, diary) = (memory(), Diary::new());
    let service = Service::listening(&server, &store, &diary).await;
    service.fill(&server, &diary).await;
    // One comes back.
    diary.gate.add_permits(1);
    until("the second is at work", async || diary.has_begun("a2")).await;
    until("one is back", async || service.measured("dispatch_tasks_waiting") == 2).await;

    let cancelled = server.ask("cancel", serde_json::json!({ "task": "a.a" })).await;

    for number in 3..=6 {
        let id = format!("\"a{number}\"");
        assert_eq!(cancelled.to_string().matches(&id).count(), 1, "{cancelled}");
    }
    nothing_is_left(&store).await;
    diary.gate.add_permits(100);
    until("nothing is at work", async || service.handle.status().in_flight == 0).await;
    assert!(!(3..=6).any(|n| diary.has_begun(&format!("a{n}"))));
    service.handle.stop_now();
}
