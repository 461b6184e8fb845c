//! Leases that end, some of them with a dead letter: one statement on PostgreSQL.

use std::collections::HashSet;

use dispatch_core::store::{Completion, DeadLetter, Lease, Outcome};
use sea_orm::{Value, sea_query::ArrayType};

use crate::sql::{
    conn::bigints,
    dead_letters::{COLUMNS, REPLACE, columns},
    rows::micros,
};

/// Whether these may go in one statement: none of them comes back, and no lease and no letter is there twice, since one
/// statement sees nothing of its own work.
pub(super) fn is_plain(batch: &[Completion]) -> bool {
    let (mut leases, mut letters) = (HashSet::new(), HashSet::new());
    batch.iter().all(|Completion { lease, outcome }| {
        leases.insert(lease)
            && match outcome {
                Outcome::Done => true,
                Outcome::Bury(letter) => {
                    letters.insert((&letter.pipeline, &letter.source, &letter.id, micros(letter.created_at)))
                }
                Outcome::Retry { .. } | Outcome::Release => false,
            }
    })
}

/// The letters whose leases are held, which `member` has, as one more part of the statement that ends the leases; and its
/// values, the first of which is `$first`.
pub(super) fn letters(batch: &[Completion], first: usize) -> (String, Vec<Value>) {
    let letters: Vec<(Lease, &DeadLetter)> = batch
        .iter()
        .filter_map(|Completion { lease, outcome }| match outcome {
            Outcome::Bury(letter) => Some((*lease, &**letter)),
            _ => None,
        })
        .collect();
    let mut values = vec![
        bigints(letters.iter().map(|(lease, _)| lease.row.cast_signed())),
        bigints(letters.iter().map(|(lease, _)| lease.fence.cast_signed())),
    ];
    let (mut arrays, mut names, mut read) = (
        vec![format!("${first}::bigint[]"), format!("${}::bigint[]", first + 1)],
        vec!["id", "fence"],
        Vec::new(),
    );
    let mut rows: Vec<_> = letters.iter().map(|(_, letter)| columns(letter).into_iter()).collect();
    for column in COLUMNS {
        let cells: Vec<Value> = rows.iter_mut().filter_map(Iterator::next).collect();
        let (kind, array, back) = match cells.first() {
            Some(Value::Bytes(_)) => ("bytea", ArrayType::Bytes, column.to_owned()),
            Some(Value::BigInt(_)) => ("bigint", ArrayType::BigInt, column.to_owned()),
            // sea-query's arrays have no NULL, so a text carries a mark in front where it is not NULL.
            _ => ("text", ArrayType::String, format!("substr(nullif({column}, ''), 2)")),
        };
        let marked = cells.into_iter().map(|cell| match cell {
            Value::String(text) => Value::String(Some(text.map_or_else(String::new, |text| format!("={text}")))),
            cell => cell,
        });
        arrays.push(format!("${}::{kind}[]", first + values.len()));
        values.push(Value::Array(array, Some(Box::new(marked.collect()))));
        names.push(column);
        read.push(back);
    }
    let (arrays, names, read) = (arrays.join(", "), names.join(", "), read.join(", "));
    let columns = COLUMNS.join(", ");
    let buried = format!(
        ", buried AS (
            INSERT INTO dispatch_dead ({columns}) SELECT {read} FROM unnest({arrays}) AS letter({names})
            WHERE (id, fence) IN (SELECT id, fence FROM member) {REPLACE}
        )"
    );
    (buried, values)
}
