use dispatch_core::{Class, Classify};

/// Why notifications could not be listened to, or an answer not be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgNotifyError {
    /// No connection: refused, unknown host, wrong password, no such database, TLS failed.
    #[error("connect to PostgreSQL at {place}")]
    Connect {
        /// Host, port and database, without the password.
        place: String,
        /// What the client said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// No connection within so long.
    #[error("connect to PostgreSQL at {place}: no answer within {limit:?}")]
    Slow {
        /// Host, port and database, without the password.
        place: String,
        /// How long was waited.
        limit: std::time::Duration,
    },
    /// A statement failed: the connection is given up.
    #[error("{what} in PostgreSQL at {place}")]
    Work {
        /// What was being done.
        what: &'static str,
        /// Host, port and database, without the password.
        place: String,
        /// What the server or the client said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server closed the connection.
    #[error("PostgreSQL at {place} closed the connection")]
    Closed {
        /// Host, port and database, without the password.
        place: String,
    },
    /// The connection looks alive and brings nothing: a self-check did not come back in time.
    #[error("PostgreSQL at {place} did not bring a self-check back in time")]
    Deaf {
        /// Host, port and database, without the password.
        place: String,
    },
}

impl Classify for PgNotifyError {
    fn class(&self) -> Class {
        match self {
            // Nothing here is about one message: without a connection there are none.
            Self::Connect { .. } | Self::Slow { .. } | Self::Work { .. } | Self::Closed { .. } | Self::Deaf { .. } => {
                Class::Unavailable
            }
        }
    }
}
