use std::{
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use dispatch_core::{
    Class, Disposition, Pipeline, Received, Reply, SettleError, Settlement, Source as _, Store as _,
    pipeline::parked_queue,
    store::{Claim, DeadLetterFilter},
    testing::{
        Faults, FaultyStore, MemorySink,
        source::{Bench, source_battery},
    },
};
use dispatch_sources::stdin::{StdinSource, StdinSourceConfig};

use crate::{all, context, memory, receive, texts};

fn config(toml: &str) -> StdinSourceConfig {
    toml::from_str(toml).unwrap()
}

#[tokio::test]
async fn lines_come_in_order_and_then_the_end() {
    let context = context(".".as_ref(), memory());
    let mut source = StdinSource::from_reader(&config(""), &context, &b"a\nb\r\n\nlast"[..]);

    let lines = all(&mut source).await;

    let seen: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                texts(std::slice::from_ref(line))[0],
                line.metadata().get("stdin_line").unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, [("a", "1"), ("b", "2"), ("", "3"), ("last", "4")]);
    assert!(matches!(source.receive(1).await.unwrap(), Received::End));
    assert!(source.capabilities().bounded);
}

#[tokio::test]
async fn no_more_than_asked_for_comes_at_once() {
    let input: String = (0..1000).map(|line| format!("{line}\n")).collect();
    let context = context(".".as_ref(), memory());
    let mut source = StdinSource::from_reader(&config(""), &context, io::Cursor::new(input));

    let Received::Batch(batch) = source.receive(7).await.unwrap() else {
        panic!("there is more");
    };

    assert_eq!(batch.len(), 7);
    assert_eq!(receive(&mut source, 993).await.len(), 993);
}

#[tokio::test]
async fn lines_that_cannot_be_messages_are_kept_as_dead_letters() {
    let store = memory();
    let context = context(".".as_ref(), store.clone());
    let long = format!("\"{}\"", "x".repeat(100_000));
    let input = format!("{{}}\nnot json\n{long}\n[]\n");
    let config = config("format = \"ndjson\"\nmax_line = \"10B\"");
    let mut source = StdinSource::from_reader(&config, &context, io::Cursor::new(input));

    let lines = all(&mut source).await;

    assert_eq!(texts(&lines), ["{}", "[]"]);
    let letters = store
        .dead_letters()
        .list(&DeadLetterFilter::default(), 0, 10)
        .await
        .unwrap();
    let seen: Vec<_> = letters
        .iter()
        .map(|letter| {
            let code = letter.attempts[0].code.as_deref().unwrap();
            (
                &letter.payload[..],
                code,
                letter.metadata.get("stdin_line").unwrap(),
                letter.metadata.get("truncated_from"),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (&b"not json"[..], "not_json", "2", None),
            (b"\"xxxxxxxxx", "line_too_long", "3", Some("100002")),
        ]
    );
    assert!(
        letters
            .iter()
            .all(|letter| letter.reason == "rejected" && letter.pipeline == "p")
    );
}

#[tokio::test]
async fn input_that_fails_is_an_error_and_not_an_end() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("unplugged"))
        }
    }
    let context = context(".".as_ref(), memory());
    let mut source = StdinSource::from_reader(&config(""), &context, Broken);

    let error = source.receive(1).await.unwrap_err();

    assert!(error.to_string().contains("unplugged"));
}

/// A pipe whose other end is in the test, which is told of each piece that was taken out.
struct Pipe(
    std::sync::mpsc::Receiver<Vec<u8>>,
    tokio::sync::mpsc::UnboundedSender<()>,
);

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.0.recv().unwrap_or_default();
        buffer[..piece.len()].copy_from_slice(&piece);
        self.1.send(()).ok();
        Ok(piece.len())
    }
}

#[tokio::test]
async fn the_battery_holds() {
    source_battery(async || {
        let (sender, receiver) = std::sync::mpsc::channel();
        let context = context(".".as_ref(), memory());
        let source = StdinSource::from_reader(
            &config(""),
            &context,
            Pipe(receiver, tokio::sync::mpsc::unbounded_channel().0),
        );
        let sender = std::sync::Arc::new(std::sync::Mutex::new(Some(sender)));
        let writer = sender.clone();
        let bench = Bench::new(source, move |payloads| {
            for line in payloads {
                let line = [&line, &b"\n"[..]].concat();
                writer.lock().unwrap().as_ref().unwrap().send(line).unwrap();
            }
            Box::pin(async {})
        });
        bench.ending(move || drop(sender.lock().unwrap().take()))
    })
    .await;
}

#[tokio::test]
async fn what_was_read_and_not_worked_on_is_parked_when_the_pipeline_stops() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (taken, mut takes) = tokio::sync::mpsc::unbounded_channel();
    let store = memory();
    let mut source = StdinSource::from_reader(
        &config(""),
        &context(".".as_ref(), store.clone()),
        Pipe(receiver, taken),
    );
    for piece in ["1\n2\n3\n", "4\n", "5\nhalf a li"] {
        sender.send(piece.as_bytes().to_vec()).unwrap();
    }

    let mut lines = receive(&mut source, 3).await;
    for _ in 0..3 {
        takes.recv().await.unwrap();
    }
    lines
        .remove(0)
        .settle(Disposition::Ack(Reply::default()))
        .await
        .unwrap();
    lines.remove(0).settle(Disposition::Release).await.unwrap();
    source.close().await.unwrap();
    lines.remove(0).settle(Disposition::Release).await.unwrap();

    let claim = Claim {
        max: 10,
        lease: Duration::from_secs(30),
        ordered: false,
        below: None,
    };
    let parked = store.queue().claim(&parked_queue("p"), claim).await.unwrap();
    let mut parked: Vec<_> = parked.into_iter().map(|claimed| claimed.item.payload).collect();
    parked.sort();
    let letters = store
        .dead_letters()
        .list(&DeadLetterFilter::default(), 0, 10)
        .await
        .unwrap();
    assert_eq!(parked, ["2", "3", "4", "5"]);
    assert_eq!((letters.len(), &letters[0].payload[..]), (1, &b"half a li"[..]));
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_loses_nothing_that_was_read() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (taken, mut takes) = tokio::sync::mpsc::unbounded_channel();
    let (faults, memory) = (Faults::default(), memory());
    let store = Arc::new(FaultyStore::new(memory.clone(), faults.clone()));
    let mut source = StdinSource::from_reader(&config(""), &context(".".as_ref(), store), Pipe(receiver, taken));
    sender.send(b"1\n2\n".to_vec()).unwrap();
    let lines = receive(&mut source, 1).await;
    takes.recv().await.unwrap();

    faults.fail("enqueue", 2, Class::Unavailable);
    source.close().await.unwrap();
    faults.fail("enqueue", 1, Class::Unavailable);
    let release = || {
        let token = lines[0].receipt.token().clone();
        vec![Settlement {
            token,
            disposition: Disposition::Release,
        }]
    };
    let settler = source.settler();
    let first = settler.settle(release()).await.pop().unwrap();
    let again = settler.settle(release()).await.pop().unwrap();

    assert!(matches!(first, Err(SettleError::Failed(_))) && again.is_ok());
    assert!(faults.are_spent());
    assert_eq!(memory.queue().depth(&parked_queue("p")).await.unwrap().ready, 2);
}

#[tokio::test]
async fn what_a_stop_parks_and_buries_is_in_the_summary() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (taken, mut takes) = tokio::sync::mpsc::unbounded_channel();
    let store = memory();
    let source = StdinSource::from_reader(
        &config("format = \"ndjson\""),
        &context(".".as_ref(), store.clone()),
        Pipe(receiver, taken),
    );
    let sink = MemorySink::new();
    let pipeline = Pipeline::builder("p")
        .source(source)
        .sink(sink.clone())
        .store(store.clone())
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sender.send(b"1\n".to_vec()).unwrap();
    sink.took(1).await;
    handle.pause();
    // Read ahead while nobody asks: two messages, what is no JSON, and half a line.
    sender.send(b"2\n3\nno json\n4".to_vec()).unwrap();
    for _ in 0..2 {
        takes.recv().await.unwrap();
    }

    handle.drain();
    let summary = run.await.unwrap().unwrap();

    let parked = store.queue().depth(&parked_queue("p")).await.unwrap().ready;
    let buried = store.dead_letters().count(&DeadLetterFilter::default()).await.unwrap();
    assert_eq!((parked, buried), (2, 2));
    assert_eq!(
        (
            summary.received,
            summary.delivered,
            summary.parked,
            summary.dead_lettered
        ),
        (5, 1, 2, 2)
    );
}
