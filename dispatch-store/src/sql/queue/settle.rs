use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::LazyLock,
    time::Duration,
};

use async_trait::async_trait;
use dispatch_core::{
    Attempt,
    store::{Completion, Item, Lease, Outcome, Stale},
};
use sea_orm::DbErr;

use super::{bury, held::Held, returns::make_ready};
use crate::sql::{
    conn::{Conn, Needs, Work, bigints},
    dead_letters,
    rows::{ITEM, read_item, span, write_history},
};

/// Ends leases.
pub(super) struct Settle {
    queue: String,
    batch: Vec<Completion>,
    kind: Kind,
}

/// What a batch is made of, and so how it can be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// All are done.
    Done,
    /// None comes back, and some leave a letter; one statement on PostgreSQL.
    Ends,
    Mixed,
}

/// Makes leases longer.
pub(super) struct Extend {
    pub(super) queue: String,
    pub(super) leases: Vec<Lease>,
    pub(super) by: Duration,
    /// Who holds them from now on.
    pub(super) node: i64,
}

/// PostgreSQL, where none comes back: one statement, with more parts and one column more. The lease rows are locked first,
/// so that what they hold is what they held last; it answers with those that were not held.
const ENDED: &str = "
    WITH done AS MATERIALIZED (
        SELECT DISTINCT id, fence FROM unnest($2::bigint[], $3::bigint[]) AS done(id, fence)
    ), held AS MATERIALIZED (
        SELECT number, fence, ids FROM dispatch_lease
        WHERE queue IS NOT DISTINCT FROM $1 AND fence = ANY ($4::bigint[]) ORDER BY number FOR UPDATE
    ), member AS MATERIALIZED (
        SELECT held.number, held.fence, member.id, done.id IS NOT NULL AS done
        FROM held CROSS JOIN LATERAL unnest(held.ids) AS member(id) LEFT JOIN done USING (fence, id)
    ), gone AS (
        DELETE FROM dispatch_item WHERE id = ANY (ARRAY(SELECT id FROM member WHERE done))
    ), rest AS MATERIALIZED (
        SELECT number, array_agg(id) FILTER (WHERE NOT done) AS ids FROM member GROUP BY number HAVING bool_or(done)
    ), shrunk AS (
        UPDATE dispatch_lease l SET ids = rest.ids FROM rest WHERE l.number = rest.number AND rest.ids IS NOT NULL
    ), ended AS (
        DELETE FROM dispatch_lease l USING rest WHERE l.number = rest.number AND rest.ids IS NULL
    ){more}
    SELECT {column}, done.id, done.fence
    FROM (SELECT 1) AS one LEFT JOIN (
        SELECT id, fence FROM done EXCEPT SELECT id, fence FROM member
    ) AS done ON true";

/// Where all are done. It does not wait for the disk: an end that a crash of the server undoes is a message delivered
/// again.
static DONE: LazyLock<String> = LazyLock::new(|| {
    let column = "set_config('synchronous_commit', 'off', true)";
    ENDED.replace("{more}", "").replace("{column}", column)
});

/// PostgreSQL, where what is done is all that one lease row holds, which is how a quick sink ends it: neither list is taken
/// apart. It answers whether that was so. A comparison that no index serves leaves only that of fences: the one of queues has
/// all their past leases.
const WHOLE: &str = "
    WITH ended AS MATERIALIZED (
        DELETE FROM dispatch_lease
        WHERE fence = $3 AND queue IS NOT DISTINCT FROM $2 AND ids = $1::bigint[] RETURNING number
    ), gone AS (
        DELETE FROM dispatch_item WHERE id = ANY ($1::bigint[]) AND (SELECT count(*) FROM ended) > 0
    )
    SELECT set_config('synchronous_commit', 'off', true), (SELECT count(*) FROM ended) > 0";

/// SQLite, where all are done and were claimed together, which is how they come: one trip. It answers with those that
/// were held, or with none, a mark for the whole lease, where that is done at once and in its order.
const DONE_TOGETHER: &str = "
    SELECT member.value FROM dispatch_lease l, json_each(CASE WHEN l.ids = $1 THEN '[null]' ELSE l.ids END) AS member
    WHERE l.queue = $2 AND l.fence = $3;
    DELETE FROM dispatch_item WHERE id IN ({ids}) AND (
        EXISTS (SELECT 1 FROM dispatch_lease WHERE queue = $2 AND fence = $3 AND ids = $1)
        OR id IN (SELECT member.value FROM dispatch_lease l, json_each(l.ids) AS member
            WHERE l.queue = $2 AND l.fence = $3));
    UPDATE dispatch_lease SET ids = iif(ids = $1, '[]', (
        SELECT json_group_array(member.value) FROM json_each(dispatch_lease.ids) AS member
        WHERE member.value NOT IN ({ids})))
    WHERE queue = $2 AND fence = $3;
    DELETE FROM dispatch_lease WHERE queue = $2 AND fence = $3 AND ids = '[]'";

#[async_trait]
impl Work for Settle {
    type Answer = Vec<Result<(), Stale>>;

    fn what(&self) -> String {
        format!("settle in `{}`", self.queue)
    }

    fn needs(&self) -> Needs {
        match self.kind {
            Kind::Done => Needs::LightStatement,
            Kind::Ends => Needs::Statement,
            Kind::Mixed => Needs::Transaction,
        }
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Self::Answer, DbErr> {
        if conn.is_postgres() && self.kind != Kind::Mixed {
            if let Some(fence) = self.all_done_together()
                && self.settle_whole(conn, fence).await?
            {
                return Ok(vec![Ok(()); self.batch.len()]);
            }
            return self.settle_ended(conn).await;
        }
        if let Some(fence) = self.all_done_together() {
            return self.settle_done_together(conn, fence).await;
        }
        let mut held = Held::lock(conn, &self.queue, self.batch.iter().map(|completion| completion.lease)).await?;
        let mut answers = Vec::with_capacity(self.batch.len());
        let (mut done, mut letters, mut back) = (Vec::new(), Vec::new(), Vec::new());
        let mut failed: Vec<(i64, Duration, &[Attempt])> = Vec::new();
        for Completion { lease, outcome } in &self.batch {
            if !held.take(*lease) {
                answers.push(Err(Stale));
                continue;
            }
            answers.push(Ok(()));
            let id = lease.row.cast_signed();
            match outcome {
                Outcome::Done => done.push(id),
                Outcome::Bury(letter) => {
                    done.push(id);
                    letters.push(letter);
                }
                Outcome::Release => back.push(id),
                Outcome::Retry { delay, attempts } => {
                    back.push(id);
                    failed.push((id, *delay, attempts));
                }
            }
        }
        if !done.is_empty() {
            conn.run("DELETE FROM dispatch_item WHERE id IN ({ids})", vec![conn.ids(&done)])
                .await?;
        }
        for letter in letters {
            dead_letters::bury(conn, letter).await?;
        }
        note(conn, &failed).await?;
        make_ready(conn, &back).await?;
        held.save(conn).await?;
        Ok(answers)
    }
}

impl Settle {
    pub(super) fn new(queue: &str, batch: Vec<Completion>) -> Self {
        let all_done = batch.iter().all(|completion| completion.outcome == Outcome::Done);
        let kind = match all_done {
            true => Kind::Done,
            false if bury::is_plain(&batch) => Kind::Ends,
            false => Kind::Mixed,
        };
        let queue = queue.to_owned();
        Self { queue, batch, kind }
    }

    /// The one fence under which all are done.
    fn all_done_together(&self) -> Option<u64> {
        let fence = self.batch.first()?.lease.fence;
        let together = self.batch.iter().all(|completion| completion.lease.fence == fence);
        (together && self.kind == Kind::Done).then_some(fence)
    }

    async fn settle_whole(&self, conn: &mut Conn<'_>, fence: u64) -> Result<bool, DbErr> {
        let mut ids: Vec<i64> = self
            .batch
            .iter()
            .map(|completion| completion.lease.row.cast_signed())
            .collect();
        ids.sort_unstable();
        let values = vec![
            bigints(ids.into_iter()),
            self.queue.as_str().into(),
            fence.cast_signed().into(),
        ];
        let row = conn.one(WHOLE, values).await?;
        row.map_or(Ok(false), |row| row.try_get_by_index(1))
    }

    async fn settle_done_together(&self, conn: &mut Conn<'_>, fence: u64) -> Result<Vec<Result<(), Stale>>, DbErr> {
        let rows = || self.batch.iter().map(|completion| completion.lease.row.cast_signed());
        let ids: Vec<i64> = rows().collect();
        let values = vec![conn.ids(&ids), self.queue.as_str().into(), fence.cast_signed().into()];
        let mut held = HashSet::new();
        for row in conn.last().all(DONE_TOGETHER, values).await? {
            match row.try_get_by_index::<Option<i64>>(0)? {
                Some(id) => held.extend([id]),
                None => held.extend(rows()),
            }
        }
        // A lease named twice is stale the second time.
        Ok(rows()
            .map(|id| if held.remove(&id) { Ok(()) } else { Err(Stale) })
            .collect())
    }

    async fn settle_ended(&self, conn: &mut Conn<'_>) -> Result<Vec<Result<(), Stale>>, DbErr> {
        let leases = || self.batch.iter().map(|completion| completion.lease);
        let fences: HashSet<i64> = leases().map(|lease| lease.fence.cast_signed()).collect();
        let mut values = vec![
            self.queue.as_str().into(),
            bigints(leases().map(|lease| lease.row.cast_signed())),
            bigints(leases().map(|lease| lease.fence.cast_signed())),
            bigints(fences.into_iter()),
        ];
        let with_letters = (self.kind == Kind::Ends).then(|| {
            let (buried, more) = bury::letters(&self.batch, values.len() + 1);
            values.extend(more);
            ENDED.replace("{more}", &buried).replace("{column}", "NULL")
        });
        let mut stale = HashSet::new();
        for row in conn.all(with_letters.as_ref().unwrap_or(&DONE), values).await? {
            if let Some(id) = row.try_get_by_index::<Option<i64>>(1)? {
                let fence: i64 = row.try_get_by_index(2)?;
                stale.insert(Lease {
                    row: id.cast_unsigned(),
                    fence: fence.cast_unsigned(),
                });
            }
        }
        // A lease named twice is stale the second time.
        Ok(leases()
            .map(|lease| if stale.insert(lease) { Ok(()) } else { Err(Stale) })
            .collect())
    }
}

#[async_trait]
impl Work for Extend {
    type Answer = Vec<Result<(), Stale>>;

    fn what(&self) -> String {
        format!("extend leases in `{}`", self.queue)
    }

    fn needs(&self) -> Needs {
        Needs::Light
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<Self::Answer, DbErr> {
        let mut held = Held::lock(conn, &self.queue, self.leases.iter().copied()).await?;
        let mut longer: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        let mut answers = Vec::with_capacity(self.leases.len());
        for lease in &self.leases {
            let ids = longer.entry(lease.fence).or_default();
            let id = lease.row.cast_signed();
            let ours = ids.contains(&id) || held.take(*lease);
            if ours && !ids.contains(&id) {
                ids.push(id);
            }
            answers.push(if ours { Ok(()) } else { Err(Stale) });
        }
        held.save(conn).await?;
        // What was extended gets a row of its own under the same fence; what was not keeps its end.
        for (fence, ids) in longer.into_iter().filter(|(_, ids)| !ids.is_empty()) {
            let lease =
                "INSERT INTO dispatch_lease (fence, queue, until, ids, node) VALUES ($1, $2, {now} + $3, $4, $5)";
            let values = vec![
                fence.cast_signed().into(),
                self.queue.as_str().into(),
                span(self.by).into(),
                conn.ids(&ids),
                self.node.into(),
            ];
            conn.run(lease, values).await?;
        }
        Ok(answers)
    }
}

/// Adds failed attempts to their items and puts the items off.
async fn note(conn: &mut Conn<'_>, failed: &[(i64, Duration, &[Attempt])]) -> Result<(), DbErr> {
    if failed.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = failed.iter().map(|(id, ..)| *id).collect();
    let sql = format!("SELECT {ITEM} FROM dispatch_item i WHERE i.id IN ({{ids}})");
    let mut items: HashMap<i64, Item> = HashMap::with_capacity(ids.len());
    for row in conn.all(&sql, vec![conn.ids(&ids)]).await? {
        items.extend([read_item(&row, 0)?]);
    }
    for (id, delay, attempts) in failed {
        let Some(item) = items.get_mut(id) else { continue };
        item.remember(attempts.to_vec());
        let later = "UPDATE dispatch_item SET run_at = {now} + $1, attempts = $2, history = $3 WHERE id = $4";
        let count = i32::try_from(item.attempts).unwrap_or(i32::MAX);
        let values = vec![
            span(*delay).into(),
            count.into(),
            write_history(&item.history).into(),
            (*id).into(),
        ];
        conn.run(later, values).await?;
    }
    Ok(())
}
