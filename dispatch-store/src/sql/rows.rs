use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dispatch_core::{Attempt, Headers, store::Item};
use sea_orm::{DbErr, QueryResult};
use serde::{Serialize, de::DeserializeOwned};
use smol_str::SmolStr;

/// The columns of `dispatch_item` that [`read_item`] reads, in its order.
pub(super) const ITEM: &str = "i.id, i.message_id, i.payload, i.headers, i.metadata, i.key, i.priority, i.run_at, \
                               i.dedupe, i.created_at, i.deadline, i.attempts, i.history";

/// Reads an item, its row number first, from the columns that begin at `at`.
pub(super) fn read_item(row: &QueryResult, at: usize) -> Result<(i64, Item), DbErr> {
    let headers = |at| -> Result<Headers, DbErr> { Ok(read_json(row, at)?.unwrap_or_default()) };
    let item = Item {
        id: read_text(row, at + 1)?.unwrap_or_default(),
        payload: row.try_get_by_index::<Vec<u8>>(at + 2)?.into(),
        headers: headers(at + 3)?,
        metadata: headers(at + 4)?,
        key: read_text(row, at + 5)?,
        priority: row.try_get_by_index(at + 6)?,
        run_at: Some(time(row.try_get_by_index(at + 7)?)),
        dedupe: read_text(row, at + 8)?,
        alone: false,
        created_at: time(row.try_get_by_index(at + 9)?),
        deadline: row.try_get_by_index::<Option<i64>>(at + 10)?.map(time),
        attempts: u32::try_from(row.try_get_by_index::<i32>(at + 11)?).unwrap_or_default(),
        history: read_json::<Vec<Attempt>>(row, at + 12)?.unwrap_or_default(),
    };
    Ok((row.try_get_by_index(at)?, item))
}

pub(super) fn read_text(row: &QueryResult, at: usize) -> Result<Option<SmolStr>, DbErr> {
    Ok(row.try_get_by_index::<Option<String>>(at)?.map(SmolStr::from))
}

/// Reads a column of JSON; NULL is none.
pub(super) fn read_json<T: DeserializeOwned>(row: &QueryResult, at: usize) -> Result<Option<T>, DbErr> {
    parse_json(row.try_get_by_index(at)?)
}

/// Reads JSON; NULL is none.
pub(super) fn parse_json<T: DeserializeOwned>(text: Option<String>) -> Result<Option<T>, DbErr> {
    text.map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|error| DbErr::Json(error.to_string()))
}

/// Writes a column of JSON.
pub(super) fn write_json<T: Serialize + ?Sized>(value: &T) -> String {
    // Headers and attempts hold text, numbers and times after 1970, which always have a JSON form.
    serde_json::to_string(value).unwrap_or_default()
}

/// Headers as they are kept: none as NULL.
pub(super) fn write_headers(headers: &Headers) -> Option<String> {
    (!headers.is_empty()).then(|| write_json(headers))
}

/// Attempts as they are kept: none as NULL.
pub(super) fn write_history(history: &[Attempt]) -> Option<String> {
    (!history.is_empty()).then(|| write_json(history))
}

/// Microseconds since 1970, as every time is kept.
pub(super) fn micros(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => span(after),
        Err(before) => -span(before.duration()),
    }
}

/// A length of time in microseconds, at most some thousand years, so that sums stay in range.
pub(super) fn span(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros())
        .unwrap_or(i64::MAX)
        .min(i64::MAX / 8)
}

/// The time that [`micros`] wrote.
pub(super) fn time(micros: i64) -> SystemTime {
    let span = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 {
        UNIX_EPOCH - span
    } else {
        UNIX_EPOCH + span
    }
}
