//! Connections to PostgreSQL for dispatch's sources and sinks: a DSN as libpq reads it, TLS by rustls, bounds on every wait.
//!
//! `sslmode=disable` is plain, `prefer` (the default), `allow` and `require` take any certificate, as libpq does; `verify-ca`
//! checks who has signed it, `verify-full` the server's name as well: against `sslrootcert`, else the system's roots.
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

mod dsn;
mod error;
mod shared;
mod tls;

use std::{path::Path, sync::Arc, time::Duration};

pub use error::{DsnError, PgError};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
pub use shared::SharedClient;
use tokio_postgres::{
    Client, Config, Socket,
    config::{Host, SslMode},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls::{Check, Tls};

/// So long a connection may take, unless the DSN has a `connect_timeout`.
const CONNECT: Duration = Duration::from_secs(10);

/// How we are called in the server's views, unless the DSN has an `application_name`.
const APPLICATION: &str = "dispatch";

/// The stream below a connection.
pub type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// What moves a client's statements and brings notifications; drive it, or nothing happens.
pub type Connection = tokio_postgres::Connection<Socket, Stream>;

/// How to connect.
#[derive(Clone)]
pub struct Server {
    config: Config,
    tls: Tls,
    connector: MakeRustlsConnect,
    /// Host, port and database, for people.
    place: Arc<str>,
}

impl Server {
    /// Reads a DSN: a URL, or libpq's `key=value` text. What it leaves out is as libpq has it: `PGHOST`, `PGPORT`, `PGUSER`,
    /// `PGPASSWORD` and `PGDATABASE`, then the socket file of a server on this machine, then `localhost`.
    ///
    /// The files that `sslrootcert`, `sslcert` and `sslkey` name are read here. Keywords that only libpq knows are left out
    /// where they change nothing that matters.
    ///
    /// # Errors
    /// It is neither, or a keyword cannot be heeded; no value is told, for it may be a password.
    pub fn parse(dsn: &str) -> Result<Self, DsnError> {
        let (mut config, tls) = dsn::read(dsn)?;
        with_defaults(&mut config, |name| std::env::var(name).ok(), |path| path.exists());
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        if config.get_application_name().is_none() {
            config.application_name(APPLICATION);
        }
        Ok(Self {
            place: place(&config).into(),
            connector: MakeRustlsConnect::new(tls::client_config(&tls)?),
            config,
            tls,
        })
    }

    /// The same connection as a URL, for our stores, which read no other form; it holds the password. Which of several
    /// servers to take is not in it: a store takes the first that can be written to.
    #[must_use]
    pub fn url(&self) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let config = &self.config;
        let user = config.get_user().map(encode).unwrap_or_default();
        let password = config
            .get_password()
            .map(|password| String::from_utf8_lossy(password).into_owned());
        let password = password.map_or_else(String::new, |password| format!(":{}", encode(&password)));
        let port = |at: usize| {
            let ports = config.get_ports();
            ports.get(at).or(ports.first()).copied().unwrap_or(5432)
        };
        let host = |(at, host): (usize, &Host)| match host {
            Host::Tcp(host) if host.contains(':') => format!("[{host}]:{}", port(at)),
            Host::Tcp(host) => format!("{host}:{}", port(at)),
            // The directory of a socket file.
            Host::Unix(path) => format!("{}:{}", encode(&path.to_string_lossy()), port(at)),
        };
        let hosts: Vec<_> = config.get_hosts().iter().enumerate().map(host).collect();
        let hosts = if hosts.is_empty() {
            format!("localhost:{}", port(0))
        } else {
            hosts.join(",")
        };
        let mut query = String::new();
        let name = config.get_application_name().filter(|name| *name != APPLICATION);
        let roots = self.tls.roots.as_deref().filter(|_| self.tls.check != Check::Nothing);
        let (certificate, key) = self
            .tls
            .client
            .as_ref()
            .map(|(certificate, key)| (&**certificate, &**key))
            .unzip();
        for (key, value) in [
            ("application_name", name),
            ("options", config.get_options()),
            ("sslrootcert", roots),
            ("sslcert", certificate),
            ("sslkey", key),
        ] {
            if let Some(value) = value {
                query.push_str(&format!("&{key}={}", encode(value)));
            }
        }
        let mode = match config.get_ssl_mode() {
            SslMode::Disable => "disable",
            SslMode::Require => match self.tls.check {
                Check::Nothing => "require",
                Check::Issuer => "verify-ca",
                Check::Name => "verify-full",
            },
            _ => "prefer",
        };
        let database = config.get_dbname().map(encode).unwrap_or_default();
        format!("postgres://{user}{password}@{hosts}/{database}?sslmode={mode}{query}")
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
        match tokio::time::timeout(limit * 2, self.config.connect(self.connector.clone())).await {
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

/// What libpq takes from the environment where the DSN says nothing, and its way to a server on this machine.
fn with_defaults(config: &mut Config, variable: impl Fn(&str) -> Option<String>, exists: impl Fn(&Path) -> bool) {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    if config.get_ports().is_empty()
        && let Some(port) = given("PGPORT").and_then(|port| port.parse().ok())
    {
        config.port(port);
    }
    if config.get_user().is_none()
        && let Some(user) = given("PGUSER").or_else(|| given("USER"))
    {
        config.user(user);
    }
    if config.get_password().is_none()
        && let Some(password) = given("PGPASSWORD")
    {
        config.password(password);
    }
    if config.get_dbname().is_none()
        && let Some(database) = given("PGDATABASE")
    {
        config.dbname(database);
    }
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        let port = config.get_ports().first().copied().unwrap_or(5432);
        // Debian's directory, then that of PostgreSQL itself.
        let directories = ["/var/run/postgresql", "/tmp"];
        let socket = directories
            .into_iter()
            .find(|directory| exists(&Path::new(directory).join(format!(".s.PGSQL.{port}"))));
        config.host(given("PGHOST").as_deref().or(socket).unwrap_or("localhost"));
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

    #[test]
    fn what_a_dsn_leaves_out_is_as_libpq_has_it() {
        let read = |dsn: &str, variables: &[(&str, &str)], socket: bool| {
            let mut config: Config = dsn.parse().unwrap();
            let variable = |name: &str| {
                variables
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value).to_owned())
            };
            with_defaults(&mut config, variable, |path| socket && path.ends_with(".s.PGSQL.5432"));
            (
                place(&config),
                config.get_user().map(str::to_owned),
                config.get_password().is_some(),
            )
        };
        let environment = [
            ("PGHOST", "db"),
            ("PGPORT", "6543"),
            ("PGUSER", "u"),
            ("PGPASSWORD", "p"),
            ("PGDATABASE", "d"),
            ("USER", "me"),
        ];

        assert_eq!(
            read("", &environment, true),
            ("db:6543/d".to_owned(), Some("u".to_owned()), true)
        );
        assert_eq!(
            read("host=h user=v dbname=app", &environment, true),
            ("h:6543/app".to_owned(), Some("v".to_owned()), true)
        );
        assert_eq!(
            read("dbname=app", &environment[5..], true),
            ("/var/run/postgresql:5432/app".to_owned(), Some("me".to_owned()), false)
        );
        assert_eq!(read("dbname=app", &[], false).0, "localhost:5432/app");
    }

    #[test]
    fn keywords_become_a_url() {
        for (dsn, url) in [
            (
                "host=localhost user=u dbname=app",
                "postgres://u@localhost:5432/app?sslmode=prefer",
            ),
            (
                "host=db.example port=6543 user='a b' password='p@ss/w:d' dbname=app sslmode=verify-full",
                "postgres://a%20b:p%40ss%2Fw%3Ad@db%2Eexample:6543/app?sslmode=verify-full",
            ),
            ("host=/run/pg user=u", "postgres://u@%2Frun%2Fpg:5432/?sslmode=prefer"),
            (
                "postgres://u@one:1,two:2/app?target_session_attrs=read-write",
                "postgres://u@one:1,two:2/app?sslmode=prefer",
            ),
            (
                "host=one,two user=u dbname=app",
                "postgres://u@one:5432,two:5432/app?sslmode=prefer",
            ),
            (
                "host=h user=u sslmode='verify-ca'",
                "postgres://u@h:5432/?sslmode=verify-ca",
            ),
            (
                "host=h user=u application_name='my app' options='-c search_path=jobs'",
                "postgres://u@h:5432/?sslmode=prefer&application_name=my%20app&options=%2Dc%20search%5Fpath%3Djobs",
            ),
        ] {
            assert_eq!(
                Server::parse(dsn).unwrap().url(),
                url.replace("db%2Eexample", "db.example"),
                "{dsn}"
            );
        }
    }

    /// Or the store would check less than the listener.
    #[test]
    fn certificates_are_in_the_url() {
        let files = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["db".to_owned()]).unwrap();
        let (certificate, key) = (files.path().join("a b.pem"), files.path().join("a.key"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let [certificate, key] = [certificate, key].map(|path| path.display().to_string());
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();

        for (mode, url) in [
            ("require", "verify-ca"),
            ("verify-full", "verify-full"),
            ("prefer", "prefer"),
        ] {
            let dsn = format!(
                "host=h user=u sslmode={mode} sslrootcert='{certificate}' sslcert='{certificate}' sslkey='{key}'"
            );
            let roots = match mode {
                "prefer" => String::new(),
                _ => format!("&sslrootcert={}", encoded(&certificate)),
            };
            let own = format!("&sslcert={}&sslkey={}", encoded(&certificate), encoded(&key));
            let wanted = format!("postgres://u@h:5432/?sslmode={url}{roots}{own}");
            assert_eq!(Server::parse(&dsn).unwrap().url(), wanted);
        }
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
