//! Times as the daemon writes them: RFC 3339, in UTC, to the second.

use bytes::Bytes;
use jiff::{Timestamp, civil, tz::TimeZone};

use crate::http::iso;

/// `2026-11-22T07:00:00Z` for a count of milliseconds since 1970.
pub(super) fn iso_of_millis(millis: &[u8]) -> Option<Bytes> {
    let millis: i64 = std::str::from_utf8(millis).ok()?.parse().ok()?;
    let seconds = millis.div_euclid(1_000);
    // Every message has two of them.
    if let Some(text) = iso::of_seconds(seconds) {
        return Some(Bytes::copy_from_slice(&text));
    }
    Some(Timestamp::from_second(seconds).ok()?.to_string().into())
}

/// The same for `2026-11-22 07:00:00 UTC` and whatever looks like RFC 3339; without an offset it is UTC.
pub(super) fn iso_of_text(text: &str) -> Option<String> {
    let text = text.trim();
    let bare = ["UTC", "GMT", "utc"]
        .iter()
        .find_map(|zone| text.strip_suffix(zone))
        .unwrap_or(text)
        .trim_end();
    let time = match bare.parse::<Timestamp>() {
        Ok(time) => time,
        Err(_) => bare
            .parse::<civil::DateTime>()
            .ok()?
            .to_zoned(TimeZone::UTC)
            .ok()?
            .timestamp(),
    };
    Some(Timestamp::from_second(time.as_second()).ok()?.to_string())
}
