//! Connections to PostgreSQL for dispatch's sources and sinks: a DSN as libpq reads it, TLS by rustls, bounds on every wait.
//!
//! `sslmode=disable` is plain, `prefer` (the default) and `require` take any certificate, as libpq does, `verify-ca` and
//! `verify-full` check it against the system's roots.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use dispatch_pg_client::Server;
//!
//! let (client, connection) = Server::parse("postgres://dispatch@127.0.0.1/app")?.connect().await?;
//! tokio::spawn(connection); // nothing moves unless it is driven
//! client.batch_execute("SELECT 1").await?;
//! # Ok(()) }
//! ```

mod error;
mod tls;

use std::{sync::Arc, time::Duration};

pub use error::{NoDsn, PgError};
use tokio_postgres::{Client, Config, Socket, config::Host, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

/// So long a connection may take, unless the DSN has a `connect_timeout`.
const CONNECT: Duration = Duration::from_secs(10);

/// The stream below a connection.
pub type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// What moves a client's statements and brings notifications; drive it, or nothing happens.
pub type Connection = tokio_postgres::Connection<Socket, Stream>;

/// How to connect.
#[derive(Clone)]
pub struct Server {
    config: Config,
    tls: MakeRustlsConnect,
    /// Host, port and database, for people.
    place: Arc<str>,
}

impl Server {
    /// Reads a DSN: a URL, or libpq's `key=value` text.
    ///
    /// # Errors
    /// It is neither; the text is not told, for it may hold a password.
    pub fn parse(dsn: &str) -> Result<Self, NoDsn> {
        let (dsn, verify) = modes(dsn);
        let mut config: Config = dsn.parse().map_err(|_| NoDsn)?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        config.keepalives_idle(Duration::from_secs(30));
        config.tcp_user_timeout(Duration::from_secs(30));
        if config.get_application_name().is_none() {
            config.application_name("dispatch");
        }
        Ok(Self {
            place: place(&config).into(),
            tls: MakeRustlsConnect::new(tls::client_config(verify)),
            config,
        })
    }

    /// Host, port and database, for people.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Connects, within twice the DSN's `connect_timeout` (10 s).
    ///
    /// # Errors
    /// `Unavailable`, in words for a person.
    pub async fn connect(&self) -> Result<(Client, Connection), PgError> {
        let limit = self.config.get_connect_timeout().copied().unwrap_or(CONNECT);
        // The client's own bound is for each address, and does not cover what comes after the TCP connection.
        match tokio::time::timeout(limit * 2, self.config.connect(self.tls.clone())).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(source)) => Err(PgError::Connect {
                place: self.place.to_string(),
                source,
            }),
            Err(_) => Err(PgError::Slow {
                place: self.place.to_string(),
                limit: limit * 2,
            }),
        }
    }
}

/// libpq's `verify-ca` and `verify-full` are unknown to the client: here they are what `require` is, with the check.
fn modes(dsn: &str) -> (String, bool) {
    let verify = ["sslmode=verify-full", "sslmode=verify-ca"]
        .into_iter()
        .find(|mode| dsn.contains(mode));
    match verify {
        Some(mode) => (dsn.replace(mode, "sslmode=require"), true),
        None => (dsn.to_owned(), false),
    }
}

fn place(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{host}:{port}/{database}")
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// An identifier as it is written in a statement, whatever it holds: quoted, so nothing is folded to lower case.
#[must_use]
pub fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dsn_is_read_and_never_told() {
        for (dsn, place) in [
            (
                "postgres://u:c4n4ry@db.example:6543/app?sslmode=verify-full",
                "db.example:6543/app",
            ),
            (
                "host=db.example dbname=app user=u password=c4n4ry sslmode=verify-ca",
                "db.example:5432/app",
            ),
            ("postgres://u@127.0.0.1", "127.0.0.1:5432/u"),
        ] {
            let server = Server::parse(dsn).unwrap();
            assert_eq!(server.place(), place);
            assert!(!format!("{server:?}").contains("c4n4ry"));
        }
        let error = Server::parse("postgres://u:c4n4ry@host:port/").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("c4n4ry"));
    }

    #[tokio::test]
    async fn nobody_there_is_unavailable_and_named() {
        let server = Server::parse("postgres://u:c4n4ry@127.0.0.1:1/app").unwrap();

        let Err(error) = server.connect().await else {
            panic!("nobody is there")
        };

        let error = dispatch_core::Error::from(error);
        assert_eq!(error.class(), dispatch_core::Class::Unavailable);
        assert!(
            error.report().contains("127.0.0.1:1/app") && !error.report().contains("c4n4ry"),
            "{}",
            error.report()
        );
    }

    #[test]
    fn an_identifier_is_quoted() {
        assert_eq!(quoted("Ab \"c\""), "\"Ab \"\"c\"\"\"");
    }
}
