//! Reading what a process prints, within bounds.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How much of standard error is kept for an error's text, in bytes.
const TAIL: usize = 1024;
/// How much is read at once.
const CHUNK: usize = 8 * 1024;

/// What a process printed, as far as it is kept. Filled bit by bit, so that what is there survives an early end.
#[derive(Debug, Default)]
pub(super) struct Output {
    kept: BytesMut,
    /// Whether there was more than was kept.
    pub(super) cut: bool,
}

impl Output {
    /// Reads to the end and keeps `max` bytes.
    pub(super) async fn read(&mut self, mut from: impl AsyncRead + Unpin, max: usize) -> io::Result<()> {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        while from.read_buf(&mut chunk).await? > 0 {
            let room = max.saturating_sub(self.kept.len()).min(chunk.len());
            self.cut |= room < chunk.len();
            self.kept.extend_from_slice(&chunk[..room]);
            chunk.clear();
        }
        Ok(())
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.kept.freeze()
    }
}

/// The end of what a process wrote to standard error; all of it goes to the log at debug.
#[derive(Debug, Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    /// Reads to the end.
    pub(super) async fn read(&mut self, mut from: impl AsyncRead + Unpin, program: &str) -> io::Result<()> {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        while from.read_buf(&mut chunk).await? > 0 {
            for line in String::from_utf8_lossy(&chunk).lines() {
                tracing::debug!(program, line, "process wrote to standard error");
            }
            self.0.extend_from_slice(&chunk);
            let surplus = self.0.len().saturating_sub(TAIL);
            self.0.drain(..surplus);
            chunk.clear();
        }
        Ok(())
    }

    /// The last three lines, as one.
    pub(super) fn last_lines(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(3)..]
            .join(" | ")
            .replace(char::is_control, " ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_is_kept_up_to_its_bound() {
        for (max, kept, cut) in [
            (0, "", true),
            (3, "abc", true),
            (6, "abcdef", false),
            (7, "abcdef", false),
        ] {
            let mut output = Output::default();

            output.read(&b"abcdef"[..], max).await.unwrap();

            assert_eq!((output.cut, &output.into_bytes()[..]), (cut, kept.as_bytes()), "{max}");
        }
    }

    #[tokio::test]
    async fn the_last_lines_are_kept() {
        let mut tail = Tail::default();
        let text = format!("{}\na\n\n b\x1b[0m\nc\n", "x".repeat(100_000));

        tail.read(text.as_bytes(), "p").await.unwrap();

        assert_eq!(tail.last_lines(), "a | b [0m | c");
        assert!(tail.0.len() <= TAIL);
    }
}
