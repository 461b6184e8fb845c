//! Reading answers to their end, within bounds.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

/// An answer's body, as far as it was kept.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) bytes: Bytes,
    /// Whether there was more than was kept.
    pub(super) cut: bool,
    /// Whether the end was reached, so that the connection can serve again.
    pub(super) ended: bool,
}

/// Keeps `max` bytes and reads past at most as many again; a longer body costs the connection.
pub(super) async fn read(mut body: Incoming, max: usize) -> Result<Answer, hyper::Error> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut seen = 0usize;
    let mut ended = body.is_end_stream();
    while !ended {
        let Some(frame) = body.frame().await else {
            ended = true;
            break;
        };
        let Ok(data) = frame?.into_data() else {
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
            break;
        }
    }
    Ok(Answer {
        bytes: if rest.is_empty() { first } else { rest.freeze() },
        cut: seen > max,
        ended,
    })
}
