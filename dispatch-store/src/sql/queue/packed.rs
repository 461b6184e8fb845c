//! Items on their way out of SQLite. Every value of a row is copied, counted and sent to another thread by itself, which
//! costs more than to read it: so a batch comes as one row, its columns as JSON and its payloads end to end.

use bytes::Bytes;
use dispatch_core::store::Item;
use sea_orm::{DbErr, QueryResult};
use smol_str::SmolStr;

use crate::sql::rows::{parse_json, time};

/// Reads what is leased under the fence `$4`: first one row with the packed batch in two columns and what else is known
/// of the queue `$1` in three (the highest priority below `$2`, the lowest, whether leases have run out at `$6`); then the
/// long payloads, one a row and in the same order.
pub(super) const READ: &str = "
    SELECT json_group_array(json_array(i.id, i.message_id, i.headers, i.metadata, i.key, i.priority, i.run_at, i.dedupe,
            i.created_at, i.deadline, i.attempts, i.history, iif(length(i.payload) > 4096, NULL, length(i.payload)))),
        CAST(group_concat(iif(length(i.payload) > 4096, x'', i.payload), '') AS BLOB),
        (SELECT max(priority) FROM dispatch_ready WHERE queue = $1 AND priority < $2),
        (SELECT min(priority) FROM dispatch_ready WHERE queue = $1),
        EXISTS (SELECT 1 FROM dispatch_lease WHERE queue = $1 AND until <= $6)
    FROM dispatch_lease l, json_each(l.ids) AS member CROSS JOIN dispatch_item i ON i.id = member.value
    WHERE l.fence = $4
    UNION ALL
    SELECT NULL, i.payload, NULL, NULL, NULL FROM dispatch_lease l, json_each(l.ids) AS member
    CROSS JOIN dispatch_item i ON i.id = member.value WHERE l.fence = $4 AND length(i.payload) > 4096";

/// The columns of one item, and the length of its payload if that is among the packed ones.
type Columns = (
    i64,
    SmolStr,
    Option<String>,
    Option<String>,
    Option<SmolStr>,
    i16,
    i64,
    Option<SmolStr>,
    i64,
    Option<i64>,
    u32,
    Option<String>,
    Option<usize>,
);

/// Reads the rows of [`READ`].
pub(super) fn unpack(rows: &[QueryResult]) -> Result<Vec<(i64, Item)>, DbErr> {
    let Some((packed, long)) = rows.split_first() else {
        return Ok(Vec::new());
    };
    let columns: Vec<Columns> = parse_json(packed.try_get_by_index(0)?)?.unwrap_or_default();
    let payloads: Option<Vec<u8>> = packed.try_get_by_index(1)?;
    let mut payloads = payloads.as_deref().unwrap_or_default();
    let mut long = long.iter();
    let items = columns.into_iter().map(|columns| {
        let payload = match columns.12 {
            // A copy, so that the last item to live does not hold the memory of all.
            Some(length) => {
                let (payload, rest) = payloads.split_at_checked(length).ok_or_else(torn)?;
                payloads = rest;
                Bytes::copy_from_slice(payload)
            }
            None => long.next().ok_or_else(torn)?.try_get_by_index::<Vec<u8>>(1)?.into(),
        };
        Ok((columns.0, item(columns, payload)?))
    });
    items.collect()
}

fn torn() -> DbErr {
    DbErr::Custom("a batch came without all of its payloads".to_owned())
}

fn item(columns: Columns, payload: Bytes) -> Result<Item, DbErr> {
    let (_, id, headers, metadata, key, priority, run_at, dedupe, created_at, deadline, attempts, history, _) = columns;
    Ok(Item {
        id,
        payload,
        headers: parse_json(headers)?.unwrap_or_default(),
        metadata: parse_json(metadata)?.unwrap_or_default(),
        key,
        priority,
        run_at: Some(time(run_at)),
        dedupe,
        alone: false,
        created_at: time(created_at),
        deadline: deadline.map(time),
        attempts,
        history: parse_json(history)?.unwrap_or_default(),
    })
}
