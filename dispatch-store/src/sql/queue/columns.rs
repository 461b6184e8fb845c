//! The columns of an item on its way in. Most are the same for a whole batch, mostly NULL, and then are bound once:
//! a batch of plain messages differs in id, payload and time alone.

use dispatch_core::store::Item;
use sea_orm::{Value, sea_query::ArrayType};
use smol_str::SmolStr;

use crate::sql::rows::{micros, write_headers, write_history};

/// One column of a batch.
pub(super) struct Column {
    pub(super) name: &'static str,
    /// PostgreSQL's type.
    pub(super) kind: &'static str,
    /// Its value where all items have the same.
    pub(super) same: Option<Value>,
    /// Its value in one item.
    pub(super) value: fn(&Item) -> Value,
}

fn text(text: Option<&SmolStr>) -> Value {
    Value::String(text.map(ToString::to_string))
}

/// The columns of these items, each bound once where it can be.
pub(super) fn columns(items: &[Item]) -> [Column; 12] {
    let column = |name, kind, is_same: bool, value: fn(&Item) -> Value| Column {
        name,
        kind,
        same: items.first().filter(|_| is_same).map(value),
        value,
    };
    let all = |test: fn(&Item) -> bool| items.iter().all(test);
    let first = items.first();
    let like_first =
        |test: fn(&Item, &Item) -> bool| first.is_some_and(|first| items.iter().all(|item| test(first, item)));
    [
        column("message_id", "text", false, |item| text(Some(&item.id))),
        column("payload", "bytea", false, |item| item.payload.to_vec().into()),
        column("headers", "text", all(|item| item.headers.is_empty()), |item| {
            write_headers(&item.headers).into()
        }),
        column("metadata", "text", all(|item| item.metadata.is_empty()), |item| {
            write_headers(&item.metadata).into()
        }),
        column("key", "text", all(|item| item.key.is_none()), |item| {
            text(item.key.as_ref())
        }),
        column(
            "priority",
            "smallint",
            like_first(|one, two| one.priority == two.priority),
            |item| item.priority.into(),
        ),
        column("run_at", "bigint", all(|item| item.run_at.is_none()), |item| {
            item.run_at.map(micros).into()
        }),
        column("dedupe", "text", all(|item| item.dedupe.is_none()), |item| {
            text(item.dedupe.as_ref())
        }),
        column("created_at", "bigint", false, |item| micros(item.created_at).into()),
        column("deadline", "bigint", all(|item| item.deadline.is_none()), |item| {
            item.deadline.map(micros).into()
        }),
        column(
            "attempts",
            "integer",
            like_first(|one, two| one.attempts == two.attempts),
            |item| i32::try_from(item.attempts).unwrap_or(i32::MAX).into(),
        ),
        column("history", "text", all(|item| item.history.is_empty()), |item| {
            write_history(&item.history).into()
        }),
    ]
}

impl Column {
    /// The time to run at, if none is given, is now.
    pub(super) fn or_now(&self, value: &str) -> String {
        if self.name == "run_at" {
            format!("coalesce({value}, {{now}})")
        } else {
            value.to_owned()
        }
    }

    /// This column of every item as one array. sea-query's arrays have no NULL, so texts carry a mark in front where
    /// they are not NULL, and numbers have the smallest for it.
    pub(super) fn array(&self, items: &[Item]) -> Value {
        let values: Vec<Value> = items
            .iter()
            .map(|item| match (self.value)(item) {
                Value::String(text) if self.is_nullable() => {
                    Value::String(Some(text.map_or_else(String::new, |text| format!("={text}"))))
                }
                Value::BigInt(None) => Value::BigInt(Some(i64::MIN)),
                value => value,
            })
            .collect();
        let kind = match self.kind {
            "bytea" => ArrayType::Bytes,
            "smallint" => ArrayType::SmallInt,
            "integer" => ArrayType::Int,
            "bigint" => ArrayType::BigInt,
            _ => ArrayType::String,
        };
        Value::Array(kind, Some(Box::new(values)))
    }

    /// The column as it was, read from its array.
    pub(super) fn read_back(&self) -> String {
        match self.kind {
            "text" if self.is_nullable() => format!("substr(nullif(input.{0}, ''), 2)", self.name),
            "bigint" if self.is_nullable() => format!("nullif(input.{}, {})", self.name, i64::MIN),
            _ => format!("input.{}", self.name),
        }
    }

    fn is_nullable(&self) -> bool {
        !matches!(
            self.name,
            "message_id" | "payload" | "priority" | "created_at" | "attempts"
        )
    }
}
