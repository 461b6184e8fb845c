//! What an answer means.

use std::time::SystemTime;

use bytes::Bytes;
use dispatch_core::{Error, Headers, Reply};
use http::{HeaderMap, header::RETRY_AFTER, response::Parts};

use super::Caller;
use crate::http::{HttpSinkError, body, connect::Connection, pool::Origin, url::Url, wire};

/// How much of a refusing answer's body goes into the error's text, in bytes.
const EXCERPT: usize = 256;

/// A whole answer, and the connection that it came over.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) parts: Parts,
    pub(super) answer: body::Answer,
    pub(super) connection: Connection,
}

impl Answered {
    /// Keeps the connection if it can serve again.
    pub(super) fn keep(self, origin: &Origin) {
        if self.answer.ended {
            origin.keep(self.connection, self.parts.headers);
        }
    }
}

impl Caller {
    /// What the answer means.
    pub(super) fn judge(&self, origin: &Origin, url: &Url, mut answered: Answered) -> Result<Reply, Error> {
        let body = std::mem::take(&mut answered.answer.bytes);
        let verdict = self.verdict(url, &answered, body);
        answered.keep(origin);
        Ok(verdict?)
    }

    fn verdict(
        &self,
        url: &Url,
        Answered { parts, answer, .. }: &Answered,
        body: Bytes,
    ) -> Result<Reply, HttpSinkError> {
        let after = parts.headers.get(RETRY_AFTER);
        let after = after.and_then(|asked| wire::retry_after(asked, SystemTime::now(), self.retry_after_max));
        let Some(class) = self.statuses.verdict(parts.status, after.is_some()).class(after) else {
            let mut headers = reply_headers(&parts.headers);
            if answer.cut {
                tracing::warn!(url = %url.shown, max = self.max_response, "answer is longer than max_response and was cut");
                headers.insert("dispatch-truncated", "true");
            }
            return Ok(Reply::with_headers(body, headers));
        };
        Err(HttpSinkError::Status {
            url: url.shown.to_string(),
            status: parts.status,
            class,
            excerpt: excerpt(&body),
        })
    }
}

fn reply_headers(headers: &HeaderMap) -> Headers {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), Bytes::copy_from_slice(value.as_bytes())))
        .collect()
}

/// How a body begins, on one line.
fn excerpt(body: &Bytes) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]);
    let mut line: String = text
        .trim()
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    if body.len() > EXCERPT {
        line.push('…');
    }
    line
}
