//! Bytes into lines, within bounds.

use bytes::{Buf as _, Bytes, BytesMut};
use serde::de::IgnoredAny;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its bytes, without the line's end; the first of them where it is too long.
    pub(crate) bytes: Bytes,
    /// Which line it is, from 1.
    pub(crate) number: u64,
    /// Where it begins.
    pub(crate) offset: u64,
    /// Where the next one begins.
    pub(crate) end: u64,
    /// Why it cannot be a message.
    pub(crate) fault: Option<Fault>,
}

/// Why a line cannot be a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the line has {length} bytes, more than max_line allows; what is kept was cut")]
    TooLong { length: u64 },
    #[error("the line is not JSON: {0}")]
    NotJson(String),
    #[cfg(feature = "stdin")]
    #[error("the pipeline was stopped before the line was read to its end")]
    Half,
}

/// Cuts a stream of bytes into lines. Holds at most `max` bytes and what was fed last.
#[derive(Debug)]
pub(crate) struct Framer {
    /// Whether lines must be JSON, and blank ones are passed over.
    json: bool,
    max: usize,
    buffer: BytesMut,
    /// How much of the buffer is known to have no line feed.
    searched: usize,
    /// The beginning of a line that is too long, and how long it is so far.
    long: Option<(Bytes, u64)>,
    number: u64,
    offset: u64,
}

impl Framer {
    /// Begins after `lines` lines, at `offset`. A line has at most `max` bytes, its end not counted.
    pub(crate) fn new(json: bool, max: usize, lines: u64, offset: u64) -> Self {
        Self {
            json,
            max,
            buffer: BytesMut::new(),
            searched: 0,
            long: None,
            number: lines,
            offset,
        }
    }

    /// Where to put what comes next.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole line, if there is one.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            let found = memchr::memchr(b'\n', &self.buffer[self.searched..]).map(|at| self.searched + at);
            let Some(at) = found else {
                self.searched = self.buffer.len();
                // One byte more than allowed may still be the carriage return.
                if self.long.is_some() || self.buffer.len() > self.max + 1 {
                    self.swallow();
                }
                return None;
            };
            let line = self.buffer.split_to(at).freeze();
            self.buffer.advance(1);
            self.searched = 0;
            if let Some(frame) = self.frame(line, 1) {
                return Some(frame);
            }
        }
    }

    /// The last line, where the input does not end with a line feed.
    pub(crate) fn finish(&mut self) -> Option<Frame> {
        self.searched = 0;
        let line = self.buffer.split().freeze();
        if line.is_empty() && self.long.is_none() {
            return None;
        }
        self.frame(line, 0)
    }

    /// Lets go of what is no line yet, and says how many lines came before it.
    #[cfg(feature = "stdin")]
    pub(crate) fn hand_over(&mut self) -> (u64, BytesMut) {
        self.searched = 0;
        (self.number, self.buffer.split())
    }

    /// Lets go of what is beyond the bound of a line whose end is not in sight.
    fn swallow(&mut self) {
        let more = self.buffer.split().freeze();
        self.searched = 0;
        let length = more.len() as u64;
        match &mut self.long {
            Some((_, so_far)) => *so_far += length,
            None => self.long = Some((Bytes::copy_from_slice(&more[..self.max]), length)),
        }
    }

    /// Makes a frame of a line that ended after `feed` bytes of line feed; none for a blank line of JSON.
    fn frame(&mut self, mut line: Bytes, feed: u64) -> Option<Frame> {
        let (begin, long) = (self.offset, self.long.take());
        let before = long.as_ref().map_or(0, |(_, length)| *length);
        self.offset += before + line.len() as u64 + feed;
        self.number += 1;
        let mut fault = None;
        if let Some((kept, length)) = long {
            let length = length + line.len() as u64;
            (line, fault) = (kept, Some(Fault::TooLong { length }));
        } else {
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if line.len() > self.max {
                fault = Some(Fault::TooLong {
                    length: line.len() as u64,
                });
                line = Bytes::copy_from_slice(&line[..self.max]);
            } else if self.json {
                if line.trim_ascii().is_empty() {
                    return None;
                }
                fault = serde_json::from_slice::<IgnoredAny>(&line)
                    .err()
                    .map(|error| Fault::NotJson(error.to_string()));
            }
        }
        Some(Frame {
            bytes: line,
            number: self.number,
            offset: begin,
            end: self.offset,
            fault,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Cuts `input`, fed in pieces of `piece` bytes.
    fn cut(json: bool, max: usize, input: &[u8], piece: usize) -> Vec<Frame> {
        let mut framer = Framer::new(json, max, 0, 0);
        let mut frames = Vec::new();
        for piece in input.chunks(piece.max(1)) {
            framer.buffer().extend_from_slice(piece);
            frames.extend(std::iter::from_fn(|| framer.next()));
            assert!(framer.buffer.len() <= max + 1, "holds no more than a line");
        }
        frames.extend(framer.finish());
        frames
    }

    #[test]
    fn lines_end_with_a_line_feed_or_with_the_input() {
        for (input, expected) in [
            (&b""[..], &[][..]),
            (b"a\nb\n", &[&b"a"[..], b"b"]),
            (b"a\nb", &[b"a", b"b"]),
            (b"a\r\n\r\nb\r", &[b"a", b"", b"b"]),
            (b"\n\n", &[b"", b""]),
            (b"\xff\0\n", &[b"\xff\0"]),
            (b"a\rb\n", &[b"a\rb"]),
        ] {
            let lines: Vec<_> = cut(false, 10, input, 3).into_iter().map(|frame| frame.bytes).collect();
            assert_eq!(lines, expected, "{input:?}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_said_to_be() {
        for piece in [1, 2, 5, 100] {
            let frames = cut(false, 3, b"abc\r\nabcd\nabcdefghij\r\nabc\nlast one", piece);

            let seen: Vec<_> = frames
                .iter()
                .map(|frame| {
                    let length = match frame.fault {
                        Some(Fault::TooLong { length }) => Some(length),
                        _ => None,
                    };
                    (
                        &frame.bytes[..],
                        frame.number,
                        frame.offset,
                        length.map(|length| length.min(10)),
                    )
                })
                .collect();
            assert_eq!(
                seen,
                [
                    (&b"abc"[..], 1, 0, None),
                    (b"abc", 2, 5, Some(4)),
                    (b"abc", 3, 10, Some(10)),
                    (b"abc", 4, 22, None),
                    (b"las", 5, 26, Some(8)),
                ],
                "{piece}"
            );
        }
    }

    #[test]
    fn json_lines_are_checked_and_blank_ones_passed_over() {
        let frames = cut(true, 100, b"{\"a\":1}\n \n[1,\r\n2\n{} {}\n", 4);

        let seen: Vec<_> = frames
            .iter()
            .map(|frame| (frame.number, frame.fault.is_some()))
            .collect();
        assert_eq!(seen, [(1, false), (3, true), (4, false), (5, true)]);
    }

    proptest! {
        #[test]
        fn cutting_does_not_depend_on_the_pieces(input in "[ab\r\n]{0,40}", piece in 1usize..7, max in 0usize..6) {
            let whole = cut(false, max, input.as_bytes(), 1000);
            let pieces = cut(false, max, input.as_bytes(), piece);

            let places = |frames: &[Frame]| -> Vec<_> {
                frames.iter().map(|frame| (frame.bytes.clone(), frame.offset, frame.end, frame.fault.is_some())).collect()
            };
            prop_assert_eq!(places(&whole), places(&pieces));
            prop_assert_eq!(whole.last().map_or(0, |frame| frame.end), input.len() as u64);
        }
    }
}
