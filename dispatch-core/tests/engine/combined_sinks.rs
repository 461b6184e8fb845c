//! Sinks made of sinks, through the driver: what they take, what they refuse and in which words.

use dispatch_core::{Fallback, Fanout, Route, Sink, store::DeadLetter};

use super::*;

async fn run(sink: impl Sink, messages: Vec<Message>) -> (Summary, Vec<DeadLetter>) {
    let store = Arc::new(MemoryStore::new());
    let policy = RetryPolicy {
        max_attempts: 3,
        ..every(Duration::from_secs(1))
    };

    let summary = Pipeline::builder("test")
        .source(MemorySource::ending(messages))
        .sink(sink)
        .store(store.clone())
        .retry(policy)
        .run()
        .await
        .unwrap();

    assert_balanced(&summary);
    let letters = letters(&store).await;
    (summary, letters)
}

fn refusing(error: fn() -> Error) -> MemorySink {
    MemorySink::answering(move |_| Err(error()))
}

#[tokio::test(start_paused = true)]
async fn a_fanout_is_done_when_all_have_taken_the_message() {
    let quick = MemorySink::new();
    let slow = MemorySink::slow(Duration::from_secs(1), |message| {
        if message.attempt == 1 { no("not yet") } else { Ok(()) }
    });

    let (summary, letters) = run(
        Fanout::new(vec![Arc::new(quick.clone()), Arc::new(slow.clone())]),
        numbered(2),
    )
    .await;

    assert_eq!((summary.delivered, summary.failed, letters.len()), (2, 2, 0));
    assert_eq!((quick.count(), slow.count()), (4, 2), "a further attempt goes to all");
}

#[tokio::test(start_paused = true)]
async fn a_fanout_fails_by_the_worst_that_may_still_pass() {
    type Made = fn() -> Error;
    let (bad, busy): (Made, Made) = (|| Error::permanent("bad"), || Error::retry("busy"));
    for (first, second, reason, text, attempts) in [
        (bad, bad, "permanent", "bad", 1),
        (bad, busy, "exhausted", "busy", 3),
        (busy, bad, "exhausted", "busy", 3),
    ] {
        let taking = MemorySink::new();
        let sinks: Vec<Arc<dyn Sink>> = vec![
            Arc::new(taking.clone()),
            Arc::new(refusing(first)),
            Arc::new(refusing(second)),
        ];

        let (summary, letters) = run(Fanout::new(sinks), numbered(1)).await;

        assert_eq!((summary.delivered, summary.dead_lettered), (0, 1));
        let told = (
            letters[0].reason.as_str(),
            letters[0].attempts[0].text.as_str(),
            letters[0].attempts.len(),
        );
        assert_eq!(told, (reason, text, attempts));
        assert_eq!(taking.count(), attempts, "who took it is asked again with the others");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fallback_asks_the_next_only_where_the_one_before_refuses() {
    let first = MemorySink::answering(|message| {
        if message.payload == "1" {
            Err(Error::permanent("not mine"))
        } else {
            Ok(())
        }
    });
    let (second, third) = (MemorySink::new(), MemorySink::new());
    let sinks: Vec<Arc<dyn Sink>> = vec![
        Arc::new(first.clone()),
        Arc::new(second.clone()),
        Arc::new(third.clone()),
    ];

    let (summary, letters) = run(Fallback::new(sinks), numbered(3)).await;

    assert_eq!((summary.delivered, summary.failed, letters.len()), (3, 0, 0));
    assert_eq!(
        (first.texts(), second.texts(), third.count()),
        (vec!["0".to_owned(), "2".to_owned()], vec!["1".to_owned()], 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_nobody_takes_tells_what_each_said() {
    let sinks: Vec<Arc<dyn Sink>> = vec![
        Arc::new(refusing(|| Error::unavailable("the first is down"))),
        Arc::new(refusing(|| Error::retry("the second is busy"))),
        Arc::new(refusing(|| Error::permanent("the last refuses").with_code("404"))),
    ];

    let (summary, letters) = run(Fallback::new(sinks), numbered(1)).await;

    assert_eq!((summary.delivered, summary.dead_lettered), (0, 1));
    let attempt = &letters[0].attempts[0];
    assert_eq!(
        (attempt.class.as_str(), attempt.code.as_deref()),
        ("permanent", Some("404"))
    );
    assert_eq!(
        attempt.text,
        "the last refuses; before it: the first is down; the second is busy"
    );
}

#[tokio::test(start_paused = true)]
async fn a_route_goes_by_its_field_and_refuses_what_has_none() {
    let kinds = ["mail", "fax", ""].map(|kind| {
        let message = Message::with_id(format!("m-{kind}"), kind);
        if kind.is_empty() {
            message
        } else {
            message.header("kind", kind)
        }
    });
    for has_default in [true, false] {
        let (mail, other) = (MemorySink::new(), MemorySink::new());
        let routes = [("mail".into(), Arc::new(mail.clone()) as Arc<dyn Sink>)].into();
        let default = has_default.then(|| Arc::new(other.clone()) as Arc<dyn Sink>);
        let route = Route::new("header:kind".parse().unwrap(), routes, default);

        let (summary, letters) = run(route, kinds.to_vec()).await;

        assert_eq!(mail.texts(), ["mail"]);
        if has_default {
            assert_eq!((summary.delivered, other.count(), letters.len()), (3, 2, 0));
            continue;
        }
        assert_eq!((summary.delivered, summary.failed, letters.len()), (1, 2, 2));
        let mut told: Vec<_> = letters
            .iter()
            .map(|letter| {
                let attempt = &letter.attempts[0];
                (letter.reason.as_str(), attempt.code.as_deref(), attempt.text.as_str())
            })
            .collect();
        told.sort_unstable();
        assert_eq!(
            told,
            [
                ("permanent", Some("route"), "no route for a message without header:kind"),
                ("permanent", Some("route"), "no route for header:kind = \"fax\""),
            ]
        );
    }
}
