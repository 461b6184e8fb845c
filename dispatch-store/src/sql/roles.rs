//! The small roles: a table each, a statement a method, the same on both dialects.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use dispatch_core::{
    Error,
    store::{Positions, Reservation, Reservations, Slots},
};
use sea_orm::{DbErr, QueryResult, Value};

use super::{
    SqlStore,
    conn::{Conn, Needs, Work},
    rows::{micros, read_text, span, time},
};

/// One statement, its values and what it is for.
struct Run(&'static str, &'static str, Vec<Value>);

#[async_trait]
impl Work for Run {
    type Answer = u64;

    fn what(&self) -> String {
        self.0.to_owned()
    }

    fn needs(&self) -> Needs {
        Needs::Statement
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<u64, DbErr> {
        conn.run(self.1, self.2.clone()).await
    }
}

/// One statement that reads one row.
struct Read(&'static str, &'static str, Vec<Value>);

#[async_trait]
impl Work for Read {
    type Answer = Option<QueryResult>;

    fn what(&self) -> String {
        self.0.to_owned()
    }

    fn needs(&self) -> Needs {
        Needs::Read
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Self::Answer, DbErr> {
        conn.one(self.1, self.2.clone()).await
    }
}

/// Takes a key, or says who has it.
struct Reserve {
    key: String,
    owner: String,
    lease: Duration,
}

#[async_trait]
impl Work for Reserve {
    type Answer = Reservation;

    fn what(&self) -> String {
        "reserve a key".to_owned()
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Reservation, DbErr> {
        const TAKE: &str = "INSERT INTO dispatch_reservation (key, owner, until) VALUES ($1, $2, {now} + $3)
            ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, until = excluded.until
            WHERE dispatch_reservation.until <= {now} OR dispatch_reservation.owner = excluded.owner";
        const LOOK: &str = "SELECT owner, until FROM dispatch_reservation WHERE key = $1";
        loop {
            let values = vec![
                self.key.as_str().into(),
                self.owner.as_str().into(),
                span(self.lease).into(),
            ];
            if conn.run(TAKE, values).await? > 0 {
                return Ok(Reservation::Reserved);
            }
            // Gone between the two: it is free now.
            let Some(row) = conn.one(LOOK, vec![self.key.as_str().into()]).await? else {
                continue;
            };
            let until = time(row.try_get_by_index(1)?);
            return Ok(match read_text(&row, 0)? {
                Some(_) => Reservation::InProgress(until),
                None => Reservation::Done(until),
            });
        }
    }
}

#[async_trait]
impl Reservations for SqlStore {
    async fn reserve(&self, key: &str, owner: &str, lease: Duration) -> Result<Reservation, Error> {
        let (key, owner) = (key.to_owned(), owner.to_owned());
        Ok(self.database.perform(Reserve { key, owner, lease }).await?)
    }

    async fn commit(&self, key: &str, owner: &str, keep: Duration) -> Result<bool, Error> {
        const COMMIT: &str =
            "UPDATE dispatch_reservation SET owner = NULL, until = {now} + $3 WHERE key = $1 AND owner = $2";
        let values = vec![key.into(), owner.into(), span(keep).into()];
        Ok(self
            .database
            .perform(Run("commit a reservation", COMMIT, values))
            .await?
            > 0)
    }

    async fn cancel(&self, key: &str, owner: &str) -> Result<(), Error> {
        const CANCEL: &str = "DELETE FROM dispatch_reservation WHERE key = $1 AND owner = $2";
        let values = vec![key.into(), owner.into()];
        self.database
            .perform(Run("cancel a reservation", CANCEL, values))
            .await?;
        Ok(())
    }

    async fn expire(&self) -> Result<u64, Error> {
        const EXPIRE: &str = "DELETE FROM dispatch_reservation WHERE until <= {now}";
        Ok(self
            .database
            .perform(Run("expire reservations", EXPIRE, Vec::new()))
            .await?)
    }
}

#[async_trait]
impl Slots for SqlStore {
    async fn take(&self, schedule: &str, at: SystemTime) -> Result<bool, Error> {
        const TAKE: &str = "INSERT INTO dispatch_slot (schedule, at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let values = vec![schedule.into(), micros(at).into()];
        Ok(self.database.perform(Run("take a slot", TAKE, values)).await? > 0)
    }

    async fn last(&self, schedule: &str) -> Result<Option<SystemTime>, Error> {
        const LAST: &str = "SELECT at FROM dispatch_slot WHERE schedule = $1 ORDER BY at DESC LIMIT 1";
        let row = self
            .database
            .perform(Read("find the last slot", LAST, vec![schedule.into()]))
            .await?;
        read_number(row).map(|at| at.map(time))
    }

    async fn prune(&self, before: SystemTime) -> Result<u64, Error> {
        const PRUNE: &str = "DELETE FROM dispatch_slot WHERE at < $1
            AND at < (SELECT max(later.at) FROM dispatch_slot later WHERE later.schedule = dispatch_slot.schedule)";
        Ok(self
            .database
            .perform(Run("prune slots", PRUNE, vec![micros(before).into()]))
            .await?)
    }
}

#[async_trait]
impl Positions for SqlStore {
    async fn load(&self, name: &str) -> Result<Option<u64>, Error> {
        const LOAD: &str = "SELECT position FROM dispatch_position WHERE name = $1";
        let row = self
            .database
            .perform(Read("load a position", LOAD, vec![name.into()]))
            .await?;
        read_number(row).map(|position| position.map(i64::cast_unsigned))
    }

    async fn save(&self, name: &str, position: Option<u64>) -> Result<(), Error> {
        const SAVE: &str = "INSERT INTO dispatch_position (name, position) VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET position = excluded.position";
        const FORGET: &str = "DELETE FROM dispatch_position WHERE name = $1";
        let work = match position {
            Some(position) => Run(
                "save a position",
                SAVE,
                vec![name.into(), position.cast_signed().into()],
            ),
            None => Run("forget a position", FORGET, vec![name.into()]),
        };
        self.database.perform(work).await?;
        Ok(())
    }
}

fn read_number(row: Option<QueryResult>) -> Result<Option<i64>, Error> {
    let number = row.map(|row| row.try_get_by_index(0)).transpose();
    number.map_err(|error: DbErr| Error::retry(error))
}
