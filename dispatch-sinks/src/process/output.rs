//! What workers print, line by line into the log.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A longer line is cut into pieces, in bytes.
const LONGEST_LINE: usize = 8 * 1024;
/// How many lines are kept for the error that a death is told with.
const KEPT_LINES: usize = 3;
/// How much of each, in characters.
const KEPT_LINE: usize = 300;

/// The last lines that a worker wrote.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn keep(&self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line.chars().take(KEPT_LINE).collect());
    }

    /// As one line, after a colon; nothing if nothing was written.
    pub(super) fn told(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() {
            return String::new();
        }
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        format!(": {}", lines.join(" | "))
    }
}

/// Whose output it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Speaker {
    Worker(u64),
    Zygote,
}

/// Logs what comes until the end.
pub(super) async fn log(mut from: impl AsyncRead + Unpin, speaker: Speaker, stream: &'static str, tail: Tail) {
    let mut buffer = BytesMut::with_capacity(LONGEST_LINE);
    loop {
        let ended = !matches!(from.read_buf(&mut buffer).await, Ok(1..));
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            tell(&buffer[..end], speaker, stream, &tail);
            buffer.advance(end + 1);
        }
        if !buffer.is_empty() && (ended || buffer.len() >= LONGEST_LINE) {
            tell(&buffer, speaker, stream, &tail);
            buffer.clear();
        }
        if ended {
            return;
        }
        buffer.reserve(LONGEST_LINE);
        // A worker that never stops printing must not keep other tasks from their turn.
        tokio::task::consume_budget().await;
    }
}

fn tell(line: &[u8], speaker: Speaker, stream: &'static str, tail: &Tail) {
    let line = printable(line);
    match speaker {
        Speaker::Worker(worker) => tracing::info!(worker, stream, line, "worker wrote"),
        Speaker::Zygote => tracing::info!(stream, line, "zygote wrote"),
    }
    tail.keep(&line);
}

/// Whatever the bytes, a line that does no harm to a terminal.
fn printable(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for letter in String::from_utf8_lossy(line.trim_ascii_end()).chars() {
        if letter.is_control() && letter != '\t' {
            text.extend(letter.escape_default());
        } else {
            text.push(letter);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_kept_whatever_the_bytes() {
        let tail = Tail::default();
        let text = [b"one\ntwo\r\n\n\xff\x00\x1b[31m\n".as_slice(), &[b'x'; 20_000]].concat();

        log(&text[..], Speaker::Worker(1), "stdout", tail.clone()).await;

        let told = tail.told();
        assert!(told.starts_with(": \u{fffd}\\u{0}\\u{1b}[31m | xxx"), "{told}");
        assert_eq!(told.matches(" | ").count(), 2);
    }
}
