//! Reading answers to their end, within bounds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

/// An answer's body, as far as it was kept.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) bytes: Bytes,
    /// Whether there was more than was kept.
    pub(super) cut: bool,
    /// Whether the end was reached, so that the connection can serve again.
    pub(super) ended: bool,
}

impl Default for Answer {
    /// That of an answer without a body.
    fn default() -> Self {
        Self {
            bytes: Bytes::new(),
            cut: false,
            ended: true,
        }
    }
}

/// Why a body was not read to its end.
#[derive(Debug)]
pub(super) enum Broken {
    Transport(hyper::Error),
    /// Nothing came for so long.
    Inactive(Duration),
}

/// Keeps `max` bytes and reads past at most as many again; a longer body costs the connection. Each part must come
/// within `inactivity`.
pub(super) async fn read(mut body: Incoming, max: usize, inactivity: Option<Duration>) -> Result<Answer, Broken> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut seen = 0usize;
    let ended = loop {
        let frame = match inactivity {
            None => body.frame().await,
            Some(limit) => Box::pin(timeout(limit, body.frame()))
                .await
                .map_err(|_| Broken::Inactive(limit))?,
        };
        let Some(frame) = frame else { break true };
        let Ok(data) = frame.map_err(Broken::Transport)?.into_data() else {
            continue;
        };
        let room = max.saturating_sub(seen).min(data.len());
        seen += data.len();
        // Most answers are one frame; they are kept without a copy.
        if first.is_empty() && rest.is_empty() {
            first = data.slice(..room);
        } else if room > 0 {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data[..room]);
        }
        if seen > max.saturating_mul(2) {
            break false;
        }
    };
    Ok(Answer {
        bytes: if rest.is_empty() { first } else { rest.freeze() },
        cut: seen > max,
        ended,
    })
}
