//! Panics within the source `pg_notify`: each ends what it is about, and nothing beside it.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use dispatch_core::config::SourceConfig as _;
use dispatch_sources::pg_notify::PgNotifySourceConfig;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use super::{
    pg_notify::{Server, listening, next},
    *,
};

/// Panics where this thread logs one of these messages; each once.
#[derive(Clone)]
struct Breaks(Arc<Mutex<Vec<&'static str>>>);

impl Breaks {
    fn at(messages: &[&'static str]) -> Self {
        Self(Arc::new(Mutex::new(messages.to_vec())))
    }

    fn left(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

struct Said(String);

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Breaks {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut said = Said(String::new());
        event.record(&mut said);
        let mut messages = self.0.lock().unwrap();
        let Some(at) = messages.iter().position(|message| *message == said.0) else {
            return;
        };
        messages.remove(at);
        drop(messages);
        panic!("broken at {:?}", said.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn a_panic_of_the_listener_makes_health_bad_until_it_listens_again() {
    let Some(server) = Server::find("a_panic_of_the_listener_makes_health_bad_until_it_listens_again").await else {
        return;
    };
    let breaks = Breaks::at(&["listening", "listening again: what was sent meanwhile did not come"]);
    let _guard = tracing::subscriber::set_default(breaks.clone());
    let mut config = server.config();
    config.reconnect.base.0 = Duration::from_millis(10);
    let context = context(Path::new("."), memory());
    let mut source = config.build(&context).unwrap();
    let mut health = Vec::new();

    let heard = timeout(Duration::from_secs(20), async {
        loop {
            server.publish(r#"{"task": "a.b", "uuid": "probe"}"#).await;
            match timeout(Duration::from_millis(50), source.receive(1)).await {
                Ok(Ok(Received::Health(now))) => health.push(now.map(|error| error.report())),
                Ok(Ok(Received::Batch(batch))) => return batch,
                Ok(other) => panic!("{other:?}"),
                Err(_) => {}
            }
            if let Some(Some(ill)) = health.first() {
                assert!(ill.contains("listener panicked: broken at \"listening\""), "{ill}");
            }
        }
    });
    for delivery in heard.await.expect("it listens again") {
        ack(delivery).await;
    }

    // A message that came between LISTEN and the second break is heard before it.
    let broken = timeout(Duration::from_secs(20), async {
        while !breaks.left().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(broken.await.is_ok(), "{:?}", breaks.left());
    let well = timeout(Duration::from_secs(20), async {
        while health.last() != Some(&None) {
            match source.receive(1).await.unwrap() {
                Received::Health(now) => health.push(now.map(|error| error.report())),
                // It was asked more than once.
                Received::Batch(batch) => join_all(batch.into_iter().map(ack)).await.clear(),
                Received::End => panic!("a listener has no end"),
            }
        }
    });
    well.await.expect("it is well again");
    assert!(health.len() >= 2 && health[0].is_some(), "{health:?}");
    assert_eq!(health.last(), Some(&None), "{health:?}");
    let tasks = server.ask("aio_tasks", json!({})).await;
    assert_eq!(tasks["listener"], json!({ "done": false, "stack": "" }), "{tasks}");
    let running = Meter(&context.meter);
    assert_eq!(running.counted("dispatch_pg_notify_panics_total"), 2);
    assert_eq!(running.counted("dispatch_pg_notify_gaps_total"), 2);
}

pub(crate) struct Meter<'m>(pub(crate) &'m dispatch_core::telemetry::Meter);

impl Meter<'_> {
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let readings = self.0.read();
        let found = readings.iter().find(|reading| reading.name == name).unwrap();
        match found.measured {
            dispatch_core::telemetry::Measured::Counter(count) => count,
            ref other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_panic_over_one_message_disturbs_no_other() {
    let Some(server) = Server::find("a_panic_over_one_message_disturbs_no_other").await else {
        return;
    };
    let mut running = listening(&server, server.config()).await;
    let breaks = Breaks::at(&["message refused"]);
    let _guard = tracing::subscriber::set_default(breaks.clone());

    // In one commit, so that they come together.
    server
        .publish_together(&["[1]", r#"{"task": "a.b", "uuid": "beside"}"#])
        .await;

    assert_eq!(next(&mut *running.source).await.message.id(), "beside");
    assert!(breaks.left().is_empty(), "it did not panic");
    assert_eq!(running.counted("dispatch_tasks_rejected_total"), 1);
    assert_eq!(running.counted("dispatch_pg_notify_panics_total"), 1);
    let producers = server.ask("producers", json!({})).await;
    assert_eq!(producers["pg_notify-producer"]["recycle_count"], 0, "{producers}");
}

/// The socket alone: no server is there, nor asked for.
#[tokio::test]
async fn what_panics_beside_the_listener_begins_again() {
    let breaks = Breaks::at(&["listening on a socket", "this is no task: look at its `message`"]);
    let _guard = tracing::subscriber::set_default(breaks.clone());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dispatch.sock");
    let config = json!({
        "control": { "socket": path, "node_id": "node" },
        "reconnect": { "base": "1ms", "max": "2ms" },
        "schedule": { "a.tick": { "every": "10ms" } },
        "on_start": [{ "task": "a.bad", "message": { "timeout": "x" } }, { "task": "a.good" }],
    });
    let config: PgNotifySourceConfig = serde_json::from_value(config).unwrap();
    let context = context(directory.path(), memory());
    let mut source = config.build(&context).unwrap();

    let (mut started, mut ticked) = (false, false);
    let both = timeout(Duration::from_secs(20), async {
        while !(started && ticked) {
            let one = next(&mut *source).await;
            started |= one.message.id() == "on-start-1";
            ticked |= one.message.id().as_str().starts_with("sch-");
            ack(one).await;
        }
    });
    both.await.expect("both go on");
    let mut wire = super::pg_notify::Wire::to(&path).await;
    wire.write(&[r#"{"control": "aio_tasks", "reply_to": "me"}"#]).await;
    let tasks: Value = wire.answer().await;

    assert!(breaks.left().is_empty(), "{:?}", breaks.left());
    let done = |name: &str| tasks[name]["done"].as_bool();
    assert_eq!(
        (done("on-start"), done("schedule a.tick"), done("socket")),
        (Some(true), Some(false), Some(false)),
        "{tasks}"
    );
    assert_eq!(Meter(&context.meter).counted("dispatch_pg_notify_panics_total"), 2);
    source.close().await.unwrap();
}
