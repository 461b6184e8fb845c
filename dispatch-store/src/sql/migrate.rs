use sea_orm::DbErr;

use super::{
    conn::Conn,
    error::{SqlStoreError, remedy},
};

/// What has to be run, in order; the place in the list is the version. Only ever add to it.
#[cfg(feature = "sqlite")]
pub(super) const SQLITE: &[&str] = &[
    include_str!("migrations/0001_sqlite.sql"),
    include_str!("migrations/0002_sqlite.sql"),
    include_str!("migrations/0003_sqlite.sql"),
];
/// As [`SQLITE`].
#[cfg(feature = "postgres")]
pub(super) const POSTGRES: &[&str] = &[
    include_str!("migrations/0001_postgres.sql"),
    include_str!("migrations/0002_postgres.sql"),
    include_str!("migrations/0003_postgres.sql"),
    include_str!("migrations/0004_postgres.sql"),
    include_str!("migrations/0005_postgres.sql"),
    include_str!("migrations/0006_postgres.sql"),
];

/// Brings the schema up to date in one transaction; `begin` opens it so that only one of all who start now is in it.
pub(super) async fn migrate(
    conn: &mut Conn<'_>,
    begin: &str,
    steps: &[&str],
    place: &str,
) -> Result<(), SqlStoreError> {
    let failed = |source: DbErr| SqlStoreError::Open {
        place: place.to_owned(),
        remedy: remedy(&source),
        source,
    };
    conn.script(begin).await.map_err(failed)?;
    let found = version(conn).await.map_err(failed)?;
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if found > known {
        let place = place.to_owned();
        return Err(SqlStoreError::Newer { place, found, known });
    }
    for (version, step) in (1_i64..).zip(steps).skip_while(|(version, _)| *version <= found) {
        conn.script(step).await.map_err(failed)?;
        let note = "INSERT INTO dispatch_migration (version, applied_at) VALUES ($1, {now})";
        conn.run(note, vec![version.into()]).await.map_err(failed)?;
        tracing::info!(place, version, "schema migrated");
    }
    conn.script("COMMIT").await.map_err(failed)
}

async fn version(conn: &mut Conn<'_>) -> Result<i64, DbErr> {
    let table =
        "CREATE TABLE IF NOT EXISTS dispatch_migration (version bigint PRIMARY KEY, applied_at bigint NOT NULL)";
    conn.script(table).await?;
    let version = conn
        .one("SELECT coalesce(max(version), 0) FROM dispatch_migration", Vec::new())
        .await?;
    version.map_or(Ok(0), |row| row.try_get_by_index(0))
}
