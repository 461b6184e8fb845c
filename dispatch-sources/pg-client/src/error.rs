use dispatch_core::{Class, Classify};

/// Why a text does not say how to connect. It tells no value, for one may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DsnError {
    /// It is no DSN of a PostgreSQL server.
    #[error(
        "this is no DSN of a PostgreSQL server: write postgres://user:password@host:5432/database, or host=… dbname=…"
    )]
    Form,
    /// A keyword that cannot be heeded.
    #[error("`{key}` of the connection: {why}")]
    Keyword {
        /// Which.
        key: String,
        /// Why, and what to do.
        why: String,
    },
}

impl DsnError {
    /// Named only if it looks like a keyword: it may be the rest of a password that nobody quoted.
    pub(crate) fn keyword(key: &str, why: impl Into<String>) -> Self {
        let is_word = key.len() <= 40 && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if !is_word {
            return Self::Form;
        }
        Self::Keyword {
            key: key.to_owned(),
            why: why.into(),
        }
    }
}

/// Why PostgreSQL could not be reached, or not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgError {
    /// No connection: refused, unknown host, wrong password, no such database, TLS failed.
    #[error("connect to PostgreSQL at {place}")]
    Connect {
        /// Host, port and database.
        place: String,
        /// What the client said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// No connection within so long.
    #[error("connect to PostgreSQL at {place}: no answer within {limit:?}")]
    Slow {
        /// Host, port and database.
        place: String,
        /// How long was waited.
        limit: std::time::Duration,
    },
    /// A statement failed.
    #[error("{what} in PostgreSQL at {place}")]
    Work {
        /// What was being done.
        what: &'static str,
        /// Host, port and database.
        place: String,
        /// What the server or the client said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server closed the connection.
    #[error("PostgreSQL at {place} closed the connection")]
    Closed {
        /// Host, port and database.
        place: String,
    },
    /// The connection looks alive and brings nothing.
    #[error("PostgreSQL at {place} did not bring a self-check back in time")]
    Deaf {
        /// Host, port and database.
        place: String,
    },
}

impl Classify for PgError {
    fn class(&self) -> Class {
        match self {
            Self::Connect { .. } | Self::Slow { .. } | Self::Closed { .. } | Self::Deaf { .. } => Class::Unavailable,
            Self::Work { source, .. } => match source.code().map(|code| &code.code()[..2]) {
                // The data itself.
                Some("22") => Class::Permanent,
                // Conflicts with others, or an object in use.
                Some("40" | "55") => Class::Retry,
                // No connection any more, no right, no such thing, a server that shuts down.
                Some(_) | None => Class::Unavailable,
            },
        }
    }

    fn code(&self) -> Option<smol_str::SmolStr> {
        match self {
            Self::Connect { source, .. } | Self::Work { source, .. } => source.code().map(|code| code.code().into()),
            Self::Slow { .. } | Self::Closed { .. } | Self::Deaf { .. } => None,
        }
    }
}
