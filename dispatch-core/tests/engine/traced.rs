//! What a tracer is told of messages, and what the sink is handed.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use dispatch_core::{
    Attempt, Error, Message, Reply,
    layer::DedupeLayer,
    sink_fn,
    telemetry::{Origin, TraceSpan, Tracer, set_tracer},
};

use super::*;

const OURS: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";

/// What was told, in words, by message.
static TOLD: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// Follows the messages of this file; the process has other tests.
#[derive(Debug)]
struct Recorder;

struct Recorded {
    id: String,
    ended: AtomicU32,
}

impl Recorded {
    fn tell(&self, what: impl Into<String>) {
        TOLD.lock().unwrap().push((self.id.clone(), what.into()));
    }
}

impl Tracer for Recorder {
    fn process(&self, message: &Message, origin: &Origin) -> Option<Arc<dyn TraceSpan>> {
        let id = message.id().starts_with("traced").then(|| message.id().to_string())?;
        let span = Recorded {
            id,
            ended: AtomicU32::new(0),
        };
        span.tell(format!("{} {} {}", origin.label, origin.system, origin.destination));
        Some(Arc::new(span))
    }

    fn batch(&self, _: &[smol_str::SmolStr], _: usize, _: &Origin) -> Arc<dyn TraceSpan> {
        unreachable!("no sink here has batches")
    }
}

impl TraceSpan for Recorded {
    fn traceparent(&self) -> String {
        OURS.to_owned()
    }

    fn attempt_failed(&self, attempt: &Attempt) {
        self.tell(format!("attempt {} {}", attempt.number, attempt.text));
    }

    fn end(&self, outcome: Result<(), &Error>) {
        self.ended.fetch_add(1, Relaxed);
        self.tell(outcome.map_or_else(Error::report, |()| "done".to_owned()));
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if self.ended.load(Relaxed) != 1 {
            self.tell("not ended");
        }
    }
}

fn told(id: &str) -> Vec<String> {
    let all = TOLD.lock().unwrap();
    all.iter()
        .filter(|(own, _)| own == id)
        .map(|(_, what)| what.clone())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_tracer_follows_a_message_through_its_attempts_to_its_end() {
    set_tracer(Recorder);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let sink = sink_fn(move |message: Message| {
        let header = |name: &str| message.headers().get(name).map(str::to_owned);
        let (parent, state) = (header("traceparent"), header("tracestate"));
        let (id, call) = (message.id().to_string(), counted.fetch_add(1, Relaxed));
        async move {
            match id.as_str() {
                "plain" => assert_eq!(parent, None),
                "traced-lost" => assert_eq!((parent.as_deref(), state), (Some(OURS), None)),
                _ => assert_eq!((parent.as_deref(), state.as_deref()), (Some(OURS), Some("vendor=1"))),
            }
            match (id.as_str(), call) {
                ("traced-twice", 0) => Err(Error::retry("not yet")),
                ("traced-lost", _) => Err(Error::permanent("never")),
                ("traced-hung", _) => std::future::pending().await,
                _ => Ok(Reply::default()),
            }
        }
    });
    let message = |id: &str, parent: &str| {
        let message = Message::with_id(id, "x").header("traceparent", parent);
        message.header("tracestate", "vendor=1")
    };
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let messages = [
        message("traced-twice", good),
        message("traced-lost", "no parent at all"),
        message("traced-hung", good),
        Message::with_id("plain", "x"),
    ];
    let source = MemorySource::ending(messages);
    let store = Arc::new(MemoryStore::new());
    let pipeline = Pipeline::builder("test").source(source).sink(sink).store(store.clone());
    let pipeline = pipeline.timeout(Duration::from_secs(3_600));

    let pipeline = pipeline
        .retry(every(Duration::from_secs(1)))
        .drain_timeout(Duration::from_secs(1));
    let pipeline = pipeline.build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    tokio::time::sleep(Duration::from_secs(60)).await;
    handle.drain();
    run.await.unwrap().unwrap();

    assert_eq!(
        told("traced-twice"),
        ["source dispatch test", "attempt 1 not yet", "done"]
    );
    assert_eq!(
        told("traced-lost"),
        ["source dispatch test", "attempt 1 never", "never"]
    );
    assert_eq!(told("traced-hung"), ["source dispatch test", "not ended"]);
    // It came without a parent: its trace is the one that was begun here.
    let letters = letters(&store).await;
    assert_eq!((letters.len(), letters[0].trace_id.as_deref()), (1, Some(&OURS[3..35])));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_told_from_its_likes_is_followed_from_the_same_place() {
    set_tracer(Recorder);
    let store = Arc::new(MemoryStore::new());
    let messages = [
        Message::with_id("traced-once", "x"),
        Message::with_id("traced-once", "x"),
    ];
    let pipeline = pipeline(MemorySource::ending(messages), &MemorySink::new());

    let dedupe = DedupeLayer::new(store, "test");
    pipeline.concurrency(1).dedupe(dedupe).run().await.unwrap();

    assert_eq!(
        told("traced-once"),
        ["source dispatch test", "done"],
        "the second is not worked on"
    );
}
