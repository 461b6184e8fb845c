use dispatch_core::{Class, Classify};
use sea_orm::{DbErr, RuntimeErr, sqlx};
use smol_str::SmolStr;

/// Why the Store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqlStoreError {
    /// The database could not be opened or reached.
    #[error("open {place}{remedy}")]
    Open {
        /// The file, or the server without its password.
        place: String,
        /// What to do about it, after a colon; empty where the cause says all.
        remedy: String,
        /// What the database said.
        #[source]
        source: DbErr,
    },
    /// A later version of dispatch has been here.
    #[error(
        "{place} has schema version {found} and this dispatch knows {known}: start the newer dispatch, or name another place"
    )]
    Newer {
        /// The file or the server.
        place: String,
        /// The version there.
        found: i64,
        /// The latest that this build knows.
        known: i64,
    },
    /// A statement failed; nothing of it was kept.
    #[error("{what} in {place}{remedy}")]
    Work {
        /// What was being done.
        what: String,
        /// The file or the server.
        place: String,
        /// What to do about it, after a colon; empty where the cause says all.
        remedy: String,
        /// What the database said.
        #[source]
        source: DbErr,
    },
    /// The Store was closed, or the runtime that it was first used in has ended.
    #[error("{what}: the store at {place} is closed")]
    Closed {
        /// What was being done.
        what: String,
        /// The file or the server.
        place: String,
    },
}

impl Classify for SqlStoreError {
    fn class(&self) -> Class {
        match self {
            Self::Open { source, .. } => class_of_opening(source),
            Self::Work { source, .. } => class(source),
            Self::Newer { .. } => Class::Permanent,
            Self::Closed { .. } => Class::Unavailable,
        }
    }

    fn code(&self) -> Option<SmolStr> {
        match self {
            Self::Open { source, .. } | Self::Work { source, .. } => code(source).map(SmolStr::from),
            Self::Newer { .. } | Self::Closed { .. } => None,
        }
    }
}

fn cause(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(cause))
        | DbErr::Exec(RuntimeErr::SqlxError(cause))
        | DbErr::Query(RuntimeErr::SqlxError(cause)) => Some(cause),
        _ => None,
    }
}

/// The database's own code: five letters from PostgreSQL, a number from SQLite.
pub(super) fn code(error: &DbErr) -> Option<String> {
    let code = cause(error)?.as_database_error()?.code()?;
    Some(code.into_owned())
}

/// Whether another try of the same work is likely to pass: a conflict with somebody else's transaction.
#[cfg(feature = "postgres")]
pub(super) fn is_conflict(error: &DbErr) -> bool {
    matches!(code(error).as_deref(), Some("40001" | "40P01" | "23505"))
}

/// Whether the connection is gone, and others of its age with it.
#[cfg(feature = "postgres")]
pub(super) fn is_lost(error: &DbErr) -> bool {
    match cause(error) {
        Some(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)) => true,
        Some(error) => error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| code.starts_with("57P")),
        None => false,
    }
}

fn class(error: &DbErr) -> Class {
    let Some(code) = code(error) else {
        // No answer of the database: the way to it is broken, or the pool is exhausted.
        return Class::Unavailable;
    };
    if let Ok(number) = code.parse::<u32>()
        && code.len() < 5
    {
        return match number & 0xff {
            // Corrupt, or not a database at all.
            11 | 26 => Class::Permanent,
            // Too big, a broken constraint, a wrong type, a bad statement: the same input fails again.
            1 | 18 | 19 | 20 | 25 => Class::Permanent,
            // Busy, full, read-only, cannot open: the place, not the message.
            _ => Class::Unavailable,
        };
    }
    match &code[..2] {
        // Conflicts with others.
        "40" | "23" | "55" => Class::Retry,
        // The data itself (a text with a zero byte, an id too long for its index).
        "22" | "54" => Class::Permanent,
        // Connections, credentials, unknown database, resources, shutdown, missing rights or tables, and the rest.
        _ => Class::Unavailable,
    }
}

/// As [`class`], but a file that we may not open or cannot is for a person to put right: waiting would hide it.
fn class_of_opening(error: &DbErr) -> Class {
    match code(error)
        .and_then(|code| code.parse::<u32>().ok())
        .filter(|code| *code < 10_000)
    {
        Some(code) if matches!(code & 0xff, 3 | 8 | 14 | 23) => Class::Permanent,
        _ => class(error),
    }
}

/// What a person can do about it, where that is known.
pub(super) fn remedy(error: &DbErr) -> String {
    let text = match code(error)
        .and_then(|code| code.parse::<u32>().ok())
        .filter(|code| *code < 10_000)
    {
        Some(code) => match code & 0xff {
            5 | 6 => "another process holds its lock for longer than `busy_timeout`",
            8 => "the file is read-only: give this user the right to write it and its directory",
            10 => "the disk failed to read or write: see the system's log",
            11 => {
                "the file is damaged: stop every dispatch that uses it, restore a copy, or move it away to start empty"
            }
            13 => "the disk is full: make room, then work goes on by itself",
            14 => "create the directory and give this user the right to write in it, or set `path` to another place",
            26 => "the file is not a SQLite database: move it away, or set `path` to another file",
            _ => return String::new(),
        },
        None => match code(error).as_deref() {
            Some("28P01" | "28000") => "the server refuses the user or the password in `url`",
            Some("3D000") => "create that database, or name another one in `url`",
            Some("42501") => "give the user of `url` the right to use and create in the schema",
            Some("42P01") => "a table of dispatch is missing: restart to create it, or set `schema` to the right one",
            _ => return String::new(),
        },
    };
    format!(": {text}")
}
