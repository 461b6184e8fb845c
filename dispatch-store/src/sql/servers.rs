//! The servers that a URL names: one, or several of which the first that takes writes is used.

use std::{str::FromStr, time::Duration};

use sea_orm::sqlx::{
    self, ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::time::timeout;

/// How to connect to each, in the order in which they are tried.
#[derive(Debug, Clone)]
pub(super) struct Servers(Vec<PgConnectOptions>);

/// libpq's word for which of several servers to take. A store writes, so there is but one answer.
const ATTRIBUTES: &str = "target_session_attrs=";

impl Servers {
    /// Reads a URL as libpq does: `postgres://user@first:5432,second:5432/database`.
    pub(super) fn parse(url: &str) -> Result<Self, sqlx::Error> {
        let read = |url: String| PgConnectOptions::from_str(&url).map(ConnectOptions::disable_statement_logging);
        each(url).into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Changes how to connect.
    pub(super) fn map(self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self(self.0.into_iter().map(change).collect())
    }

    /// The servers without passwords.
    pub(super) fn place(&self) -> String {
        let hosts = self
            .0
            .iter()
            .map(|options| format!("{}:{}", options.get_host(), options.get_port()));
        let hosts = hosts.collect::<Vec<_>>().join(",");
        let database = self.0.first().and_then(PgConnectOptions::get_database);
        format!("postgres://{hosts}/{}", database.unwrap_or_default())
    }

    /// Connects to the first that takes writes, with an equal part of `limit` for each.
    pub(super) async fn connect(&self, limit: Duration) -> Result<PgConnection, sqlx::Error> {
        let mut last = sqlx::Error::PoolTimedOut;
        for options in &self.0 {
            let connected = timeout(self.share(limit), async {
                let mut connection = PgConnection::connect_with(options).await?;
                if self.0.len() > 1 && !writes(&mut connection).await? {
                    connection.close().await?;
                    return Err(sqlx::Error::Configuration("the server takes no writes".into()));
                }
                Ok(connection)
            });
            match connected.await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => last = error,
                Err(_) => last = sqlx::Error::PoolTimedOut,
            }
        }
        Err(last)
    }

    /// Listens at the first that lets one: a standby does not.
    pub(super) async fn listen(&self, channels: &[&str], limit: Duration) -> Result<PgListener, sqlx::Error> {
        let mut last = sqlx::Error::PoolTimedOut;
        for options in &self.0 {
            // A pool of its own: a listener keeps its connection for good.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .connect_lazy_with(options.clone());
            let listening = timeout(self.share(limit), async {
                let mut listener = PgListener::connect_with(&pool).await?;
                listener.listen_all(channels.iter().copied()).await?;
                Ok(listener)
            });
            match listening.await {
                Ok(Ok(listener)) => return Ok(listener),
                Ok(Err(error)) => last = error,
                Err(_) => last = sqlx::Error::PoolTimedOut,
            }
        }
        Err(last)
    }

    fn share(&self, limit: Duration) -> Duration {
        limit / u32::try_from(self.0.len()).unwrap_or(1).max(1)
    }
}

async fn writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let read_only: (String,) = sqlx::query_as("SHOW transaction_read_only")
        .fetch_one(connection)
        .await?;
    Ok(read_only.0 == "off")
}

/// A URL for each host of a URL.
fn each(url: &str) -> Vec<String> {
    let whole = || vec![url.to_owned()];
    let Some((scheme, rest)) = url.split_once("://") else {
        return whole();
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (user, hosts) = authority
        .rsplit_once('@')
        .map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    let rest = match rest.split_once('?') {
        Some((path, query)) => {
            let kept: Vec<_> = query.split('&').filter(|pair| !pair.starts_with(ATTRIBUTES)).collect();
            if kept.is_empty() {
                path.to_owned()
            } else {
                format!("{path}?{}", kept.join("&"))
            }
        }
        None => rest.to_owned(),
    };
    let user = user.map_or_else(String::new, |user| format!("{user}@"));
    hosts
        .split(',')
        .map(|host| format!("{scheme}://{user}{host}{rest}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_name_several_servers() {
        for (url, servers) in [
            (
                "postgres://u:p@h:1/db?sslmode=disable",
                vec!["postgres://u:p@h:1/db?sslmode=disable"],
            ),
            (
                "postgres://u:a%2Cb@one:1,[::1]:2,three/db?target_session_attrs=read-write&application_name=x",
                vec![
                    "postgres://u:a%2Cb@one:1/db?application_name=x",
                    "postgres://u:a%2Cb@[::1]:2/db?application_name=x",
                    "postgres://u:a%2Cb@three/db?application_name=x",
                ],
            ),
            ("postgresql://a,b", vec!["postgresql://a", "postgresql://b"]),
            ("postgres://a/d?target_session_attrs=primary", vec!["postgres://a/d"]),
        ] {
            assert_eq!(each(url), servers, "{url}");
        }
        let servers = Servers::parse("postgres://u:c4n4ry@one:1,two:2/db").unwrap();
        assert_eq!(servers.place(), "postgres://one:1,two:2/db");
    }
}
