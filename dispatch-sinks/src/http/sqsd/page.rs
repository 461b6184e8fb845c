//! The headers of one request, and how large they may become.

use bytes::Bytes;
use dispatch_core::telemetry::LeftOut;
use http::{HeaderMap, HeaderName, HeaderValue, header::Entry};

/// How each header counts beyond its name and value: a colon, a space and the line's end.
const AROUND: usize = 4;

/// The headers of one request, within their bound.
pub(super) struct Page<'a> {
    headers: &'a mut HeaderMap,
    left: usize,
    pub(super) left_out: &'a LeftOut,
}

impl<'a> Page<'a> {
    /// Where `headers` and what comes to them may take `most` bytes.
    pub(super) fn new(headers: &'a mut HeaderMap, most: usize, left_out: &'a LeftOut) -> Self {
        Self {
            left: most.saturating_sub(size(headers)),
            headers,
            left_out,
        }
    }

    pub(super) fn maybe(&mut self, name: &HeaderName, value: Option<Bytes>) {
        if let Some(value) = value {
            self.put(name.clone(), value);
        }
    }

    /// Adds a header, unless it is none, is there already or is too much.
    pub(super) fn put(&mut self, name: HeaderName, value: Bytes) {
        let Ok(value) = HeaderValue::from_maybe_shared(value) else {
            self.left_out.note(name.as_str(), "its value is none of HTTP's");
            return;
        };
        let size = name.as_str().len() + value.len() + AROUND;
        if size > self.left {
            self.left_out
                .note(name.as_str(), "the request's headers are full: see max_header_bytes");
            return;
        }
        match self.headers.entry(name) {
            Entry::Vacant(place) => {
                self.left -= size;
                place.insert(value);
            }
            Entry::Occupied(there) => self
                .left_out
                .note(there.key().as_str(), "there is one of this name already"),
        }
    }
}

/// How much they count.
pub(super) fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + AROUND)
        .sum()
}
