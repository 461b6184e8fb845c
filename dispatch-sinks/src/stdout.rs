//! Prints each message on standard output.
//!
//! A message counts as done when its line is written and flushed; lines are never mixed, and never cut, not even when
//! a send is dropped midway. Standard output that fails (the disk is full) is `unavailable`, since no message could be
//! printed then. Where its reader has closed it, nobody ever prints there again: the message goes back to its source, and
//! the pipeline drains ([`Error::gone`]).
//!
//! ```toml
//! [sink]
//! type = "stdout"
//! format = "ndjson"    # the whole message as one line of JSON; "lines" (default) prints the payload and a line feed
//! ```
//!
//! In `ndjson`, payload and header values are text where they are UTF-8, else `{"base64": "…"}`; headers and metadata
//! are lists of pairs, because a name may come twice.
//!
//! ```
//! use dispatch_sinks::stdout::{Format, StdoutSink};
//!
//! let sink = StdoutSink::new(Format::Ndjson);
//! # let _ = sink;
//! ```

use std::{
    fmt,
    io::{self, Write},
    sync::Arc,
};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use dispatch_core::{
    Class, Classify, Error, Headers, Message, Reply, Sink,
    config::{BuildContext, ConfigError, SinkConfig, Stability},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use tokio::sync::Mutex;

/// How to print.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StdoutSinkConfig {
    /// What to print of each message.
    #[serde(default)]
    pub format: Format,
}

/// What to print of each message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// The payload as it is, and a line feed.
    #[default]
    Lines,
    /// The whole message as one line of JSON.
    Ndjson,
}

impl SinkConfig for StdoutSinkConfig {
    const TYPE: &'static str = "stdout";
    const SUMMARY: &'static str = "prints each message on standard output";
    const STABILITY: Stability = Stability::Stable;

    fn build(self, _: &BuildContext) -> Result<Arc<dyn Sink>, ConfigError> {
        Ok(Arc::new(StdoutSink::new(self.format)))
    }
}

/// Standard output took no more.
#[derive(Debug, thiserror::Error)]
#[error("standard output takes no more")]
pub struct StdoutSinkError(#[source] io::Error);

impl Classify for StdoutSinkError {
    fn class(&self) -> Class {
        Class::Unavailable
    }

    fn code(&self) -> Option<SmolStr> {
        Some(if self.is_gone() { "broken_pipe" } else { "write" }.into())
    }
}

impl StdoutSinkError {
    /// Whether the reader has closed its end: a process has no other standard output to wait for.
    fn is_gone(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }

    /// What a message is told.
    fn told(&self) -> Error {
        let text = format!("{self}: {}", self.0);
        let error = match self.is_gone() {
            true => Error::gone(text),
            false => Error::new(self.class(), text),
        };
        error.with_code(self.code().unwrap_or_default())
    }
}

/// Prints each message. The module's page says how.
#[derive(Clone)]
pub struct StdoutSink {
    format: Format,
    writer: Arc<Mutex<Box<dyn Write + Send>>>,
}

impl fmt::Debug for StdoutSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdoutSink")
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl StdoutSink {
    /// Prints on the standard output of this process.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self::to(format, io::stdout())
    }

    /// Prints to `writer` instead.
    pub fn to(format: Format, writer: impl Write + Send + 'static) -> Self {
        Self {
            format,
            writer: Arc::new(Mutex::new(Box::new(writer))),
        }
    }

    /// Writes whole lines in a thread that may block, and which no dropped future can stop halfway.
    async fn write(&self, text: Vec<u8>) -> Result<(), StdoutSinkError> {
        let mut writer = self.writer.clone().lock_owned().await;
        let written = tokio::task::spawn_blocking(move || writer.write_all(&text).and_then(|()| writer.flush())).await;
        written.map_err(io::Error::other).flatten().map_err(StdoutSinkError)
    }
}

#[async_trait]
impl Sink for StdoutSink {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let mut text = Vec::with_capacity(message.payload.len() + 1);
        self.format.line(&message, &mut text);
        self.write(text).await.map_err(|error| error.told())?;
        Ok(Reply::default())
    }

    async fn send_batch(&self, messages: Vec<Message>) -> Vec<Result<Reply, Error>> {
        let mut text = Vec::new();
        for message in &messages {
            self.format.line(message, &mut text);
        }
        match self.write(text).await {
            Ok(()) => messages.iter().map(|_| Ok(Reply::default())).collect(),
            // Which of them are out is unknown: none counts.
            Err(error) => messages.iter().map(|_| Err(error.told())).collect(),
        }
    }
}

/// A message as one line of JSON.
#[derive(Serialize)]
struct Line<'m> {
    id: &'m str,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'m SmolStr>,
    headers: &'m Headers,
    metadata: &'m Headers,
    payload: serde_json::Value,
}

impl Format {
    fn line(self, message: &Message, text: &mut Vec<u8>) {
        match self {
            Self::Lines => text.extend_from_slice(&message.payload),
            Self::Ndjson => {
                let payload = match std::str::from_utf8(&message.payload) {
                    Ok(payload) => payload.into(),
                    Err(_) => serde_json::json!({ "base64": BASE64_STANDARD.encode(&message.payload) }),
                };
                let line = Line {
                    id: message.id(),
                    attempt: message.attempt,
                    key: message.key(),
                    headers: message.headers(),
                    metadata: message.metadata(),
                    payload,
                };
                // Text, numbers and lists of them: nothing that JSON could refuse.
                text.extend(serde_json::to_vec(&line).unwrap_or_default());
            }
        }
        text.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use dispatch_core::Later;

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn messages_become_lines() {
        for (format, expected) in [
            (Format::Lines, &b"a\n\xff\n"[..]),
            (
                Format::Ndjson,
                concat!(
                    r#"{"id":"m1","attempt":1,"key":"k","headers":[["x","1"]],"metadata":[],"payload":"a"}"#,
                    "\n",
                    r#"{"id":"m2","attempt":1,"headers":[],"metadata":[],"payload":{"base64":"/w=="}}"#,
                    "\n"
                )
                .as_bytes(),
            ),
        ] {
            let paper = Paper::default();
            let sink = StdoutSink::to(format, paper.clone());

            sink.send(Message::with_id("m1", "a").header("x", "1").with_key("k"))
                .await
                .unwrap();
            sink.send_batch(vec![Message::with_id("m2", vec![0xff])])
                .await
                .remove(0)
                .unwrap();

            assert_eq!(
                String::from_utf8_lossy(&paper.0.lock().unwrap()),
                String::from_utf8_lossy(expected)
            );
        }
    }

    #[tokio::test]
    async fn the_battery_holds() {
        let paper = Paper::default();
        let sink = StdoutSink::to(Format::Ndjson, paper.clone());

        let arrived = async |id: &str| String::from_utf8_lossy(&paper.0.lock().unwrap()).contains(id);
        dispatch_core::testing::sink::sink_battery(&sink, arrived).await;
    }

    #[tokio::test]
    async fn only_a_reader_that_is_gone_is_gone_for_good() {
        for (kind, code, later) in [
            (io::ErrorKind::BrokenPipe, "broken_pipe", Some(Later::Gone)),
            (io::ErrorKind::StorageFull, "write", None),
        ] {
            let sink = StdoutSink::to(Format::Lines, Failing(kind));

            let alone = sink.send(Message::new("a")).await;
            let batch = sink.send_batch(vec![Message::new("a"), Message::new("b")]).await;

            assert_eq!(batch.len(), 2);
            for outcome in batch.into_iter().chain([alone]) {
                let error = outcome.unwrap_err();
                assert_eq!(
                    (error.class(), error.code().unwrap().as_str(), error.later()),
                    (Class::Unavailable, code, later)
                );
            }
        }
    }
}
