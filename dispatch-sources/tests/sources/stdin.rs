use std::io::{self, Read};

use dispatch_core::{Received, Source as _, Store as _, store::DeadLetterFilter};
use dispatch_sources::stdin::{StdinSource, StdinSourceConfig};

use crate::{context, memory, receive, text};

fn config(toml: &str) -> StdinSourceConfig {
    toml::from_str(toml).unwrap()
}

#[tokio::test]
async fn lines_come_in_order_and_then_the_end() {
    let context = context(".".as_ref(), memory());
    let mut source = StdinSource::from_reader(&config(""), &context, &b"a\nb\r\n\nlast"[..]);

    let lines = receive(&mut source, 100).await;

    let seen: Vec<_> = lines
        .iter()
        .map(|line| (text(line), line.message.metadata().get("stdin_line").unwrap()))
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
    assert_eq!(receive(&mut source, 10_000).await.len(), 993);
}

#[tokio::test]
async fn lines_that_cannot_be_messages_are_kept_as_dead_letters() {
    let store = memory();
    let context = context(".".as_ref(), store.clone());
    let long = format!("\"{}\"", "x".repeat(100_000));
    let input = format!("{{}}\nnot json\n{long}\n[]\n");
    let config = config("format = \"ndjson\"\nmax_line = \"10B\"");
    let mut source = StdinSource::from_reader(&config, &context, io::Cursor::new(input));

    let lines = receive(&mut source, 100).await;

    assert_eq!(lines.iter().map(text).collect::<Vec<_>>(), ["{}", "[]"]);
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
