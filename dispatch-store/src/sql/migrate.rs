use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr};

use super::{
    conn::Conn,
    error::{SqlStoreError, remedy},
};

/// What has to be run, in order; the place in the list is the version. Only ever add to it.
#[cfg(feature = "sqlite")]
pub(super) const SQLITE: &[&str] = &[include_str!("migrations/0001_sqlite.sql")];
/// As [`SQLITE`].
#[cfg(feature = "postgres")]
pub(super) const POSTGRES: &[&str] = &[include_str!("migrations/0001_postgres.sql")];

/// Brings the schema up to date inside `transaction`, which the caller has made exclusive among all who start now.
pub(super) async fn migrate(
    transaction: DatabaseTransaction,
    steps: &[&str],
    place: &str,
) -> Result<(), SqlStoreError> {
    let failed = |source: DbErr| SqlStoreError::Open {
        place: place.to_owned(),
        remedy: remedy(&source),
        source,
    };
    let found = version(&transaction).await.map_err(failed)?;
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if found > known {
        let place = place.to_owned();
        return Err(SqlStoreError::Newer { place, found, known });
    }
    let conn = Conn::open(&transaction);
    for (version, step) in (1..).zip(steps).skip_while(|(version, _)| *version <= found) {
        transaction.execute_unprepared(step).await.map_err(failed)?;
        let note = "INSERT INTO dispatch_migration (version, applied_at) VALUES ($1, {now})";
        conn.run(note, vec![i64::into(version)]).await.map_err(failed)?;
        tracing::info!(place, version, "schema migrated");
    }
    transaction.commit().await.map_err(failed)
}

async fn version(transaction: &DatabaseTransaction) -> Result<i64, DbErr> {
    let table =
        "CREATE TABLE IF NOT EXISTS dispatch_migration (version bigint PRIMARY KEY, applied_at bigint NOT NULL)";
    transaction.execute_unprepared(table).await?;
    let version = Conn::open(transaction)
        .one("SELECT coalesce(max(version), 0) FROM dispatch_migration", Vec::new())
        .await?;
    version.map_or(Ok(0), |row| row.try_get_by_index(0))
}
