use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{DbErr, QueryResult};
use smol_str::SmolStr;

use super::{Back, Me, watch::Other};
use crate::sql::{
    conn::{Conn, Needs, Work},
    queue::give_back,
    rows::{read_text, span},
};

/// PostgreSQL: nobody else takes a name meanwhile. The numbers below are those of keys.
const ONE_AT_A_TIME: &str = "SELECT pg_advisory_xact_lock(1684632432, 1024)";
const INSERT: &str = "INSERT INTO dispatch_node (id, name, process, host, period, started_at, last_seen)
    VALUES ($1, $2, $3, $4, $5, {now}, {now})
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, last_seen = excluded.last_seen";
const OTHERS: &str = "SELECT id, name, process, host, period, last_seen FROM dispatch_node WHERE id <> $1";

/// Writes a node's row. Whatever other process has the name is a former one: its row goes, and what it held is ready.
pub(super) struct Enter(pub(super) Me);

pub(super) struct Entered {
    /// Those whose name it was.
    pub(super) former: Vec<i64>,
    /// What they held.
    pub(super) back: Back,
    pub(super) others: Vec<Other>,
}

#[async_trait]
impl Work for Enter {
    type Answer = Entered;

    fn what(&self) -> String {
        format!("enter as node `{}`", self.0.name)
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Entered, DbErr> {
        let Self(me) = self;
        one_at_a_time(conn).await?;
        let replace = "DELETE FROM dispatch_node WHERE name = $1 AND process <> $2 RETURNING id";
        let mut former = Vec::new();
        for row in conn
            .all(replace, vec![me.name.as_str().into(), me.process.as_str().into()])
            .await?
        {
            former.push(row.try_get_by_index(0)?);
        }
        let back = if former.is_empty() {
            Back::new()
        } else {
            give_back(conn, &former).await?
        };
        insert(conn, me, &me.name).await?;
        let others = others(conn, me.id).await?;
        Ok(Entered { former, back, others })
    }
}

/// Says that a node lives, and sees who else does.
pub(super) struct Beat {
    pub(super) me: Me,
    /// Its name from now on, where another process has taken its own.
    pub(super) instead: SmolStr,
}

pub(super) struct Beaten {
    pub(super) standing: Standing,
    pub(super) others: Vec<Other>,
}

/// How a node found its row.
pub(super) enum Standing {
    Well,
    /// It was gone: somebody had found it dead. It is there again.
    Dead,
    /// It was gone, and another process has the name.
    Replaced {
        host: String,
        process: String,
    },
}

#[async_trait]
impl Work for Beat {
    type Answer = Beaten;

    fn what(&self) -> String {
        format!("beat as node `{}`", self.me.name)
    }

    fn needs(&self) -> Needs {
        Needs::Light
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Beaten, DbErr> {
        let beat = "UPDATE dispatch_node SET last_seen = {now} WHERE id = $1";
        let standing = if conn.run(beat, vec![self.me.id.into()]).await? > 0 {
            Standing::Well
        } else {
            self.come_back(conn).await?
        };
        let others = others(conn, self.me.id).await?;
        Ok(Beaten { standing, others })
    }
}

impl Beat {
    async fn come_back(&self, conn: &mut Conn<'_>) -> Result<Standing, DbErr> {
        one_at_a_time(conn).await?;
        let taken = "SELECT host, process FROM dispatch_node WHERE name = $1 AND process <> $2 LIMIT 1";
        let values = vec![self.me.name.as_str().into(), self.me.process.as_str().into()];
        if let Some(row) = conn.one(taken, values).await? {
            insert(conn, &self.me, &self.instead).await?;
            return Ok(Standing::Replaced {
                host: row.try_get_by_index(0)?,
                process: row.try_get_by_index(1)?,
            });
        }
        insert(conn, &self.me, &self.me.name).await?;
        Ok(Standing::Dead)
    }
}

/// Removes a node, if it has not beaten since it was seen; what it held is ready. None if it has, or is gone already.
pub(super) struct Bury {
    pub(super) id: i64,
    pub(super) last_seen: i64,
}

#[async_trait]
impl Work for Bury {
    type Answer = Option<Back>;

    fn what(&self) -> String {
        "remove a node".to_owned()
    }

    fn needs(&self) -> Needs {
        Needs::Light
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Self::Answer, DbErr> {
        let remove = "DELETE FROM dispatch_node WHERE id = $1 AND last_seen = $2";
        if conn.run(remove, vec![self.id.into(), self.last_seen.into()]).await? == 0 {
            return Ok(None);
        }
        give_back(conn, &[self.id]).await.map(Some)
    }
}

/// Removes a node that ends. What it holds keeps its end: a lease is worth something as long as somebody has it.
pub(super) struct Leave(pub(super) i64);

#[async_trait]
impl Work for Leave {
    type Answer = ();

    fn what(&self) -> String {
        "leave as a node".to_owned()
    }

    fn needs(&self) -> Needs {
        Needs::Light
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<(), DbErr> {
        let remove = "DELETE FROM dispatch_node WHERE id = $1";
        conn.run(remove, vec![self.0.into()]).await.map(drop)
    }
}

/// Makes ready what nodes hold that are no more.
pub(super) struct GiveBack(pub(super) Vec<i64>);

#[async_trait]
impl Work for GiveBack {
    type Answer = Back;

    fn what(&self) -> String {
        "give back what dead nodes held".to_owned()
    }

    fn needs(&self) -> Needs {
        Needs::Light
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Back, DbErr> {
        give_back(conn, &self.0).await
    }
}

async fn one_at_a_time(conn: &mut Conn<'_>) -> Result<(), DbErr> {
    if conn.is_postgres() {
        conn.run(ONE_AT_A_TIME, Vec::new()).await?;
    }
    Ok(())
}

async fn insert(conn: &mut Conn<'_>, me: &Me, name: &str) -> Result<(), DbErr> {
    let values = vec![
        me.id.into(),
        name.into(),
        me.process.as_str().into(),
        me.host.as_str().into(),
        span(me.period).into(),
    ];
    conn.run(INSERT, values).await.map(drop)
}

async fn others(conn: &mut Conn<'_>, id: i64) -> Result<Vec<Other>, DbErr> {
    let rows = conn.last().all(OTHERS, vec![id.into()]).await?;
    rows.iter().map(read_other).collect()
}

fn read_other(row: &QueryResult) -> Result<Other, DbErr> {
    Ok(Other {
        id: row.try_get_by_index(0)?,
        name: read_text(row, 1)?.unwrap_or_default(),
        process: read_text(row, 2)?.unwrap_or_default(),
        host: read_text(row, 3)?.unwrap_or_default(),
        period: Duration::from_micros(row.try_get_by_index::<i64>(4)?.max(0).cast_unsigned()),
        last_seen: row.try_get_by_index(5)?,
    })
}
