//! Shared rates: a row each, a statement a piece.

use std::time::Duration;

use async_trait::async_trait;
use dispatch_core::{
    Error,
    store::{Rates, Taken},
};
use sea_orm::DbErr;

use super::{
    SqlStore,
    conn::{Conn, Needs, Work},
    rows::span,
};

/// Takes the next piece of a rate's time.
struct Take {
    name: String,
    span: i64,
    burst: i64,
}

#[async_trait]
impl Work for Take {
    type Answer = i64;

    fn what(&self) -> String {
        format!("take of the rate `{}`", self.name)
    }

    fn needs(&self) -> Needs {
        Needs::LightStatement
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<i64, DbErr> {
        // Each `{now}` is read where it stands: the second and third once the row is ours, however long that took.
        const TAKE: &str = "INSERT INTO dispatch_rate (name, taken_until) SELECT $1, {now} - $3 + $2 WHERE {light}
            ON CONFLICT (name) DO UPDATE SET taken_until = {later}(dispatch_rate.taken_until, {now} - $3) + $2
            RETURNING taken_until - $2 - {now}";
        let later = if conn.is_postgres() { "greatest" } else { "max" };
        let take = TAKE.replace("{light}", conn.light()).replace("{later}", later);
        let values = vec![self.name.as_str().into(), self.span.into(), self.burst.into()];
        let row = conn.last().one(&take, values).await?;
        row.map_or(Ok(0), |row| row.try_get_by_index(0))
    }
}

#[async_trait]
impl Rates for SqlStore {
    async fn take(&self, name: &str, length: Duration, burst: Duration) -> Result<Taken, Error> {
        let take = Take {
            name: name.to_owned(),
            span: span(length),
            burst: span(burst),
        };
        Ok(Taken::in_micros(self.database.perform(take).await?))
    }
}
