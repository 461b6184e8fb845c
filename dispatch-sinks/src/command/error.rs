use std::{fmt, io, process::ExitStatus};

use dispatch_core::{Class, Classify};
use smol_str::{SmolStr, format_smolstr};

/// Why a process did not do a message's work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandSinkError {
    /// It ended, but not well.
    #[error("{program}: {}{}{stderr}", Ending(*status), if stderr.is_empty() { "" } else { ": " })]
    Exit {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What that means, by default or by the user's table.
        class: Class,
        /// The last lines it wrote to standard error.
        stderr: String,
    },
    /// It cannot be started: not found, not executable, no memory.
    #[error("{program} cannot be started{}", hint(.source, *.cwd_missing))]
    Start {
        /// The program.
        program: String,
        /// Whether it is the working directory that does not exist.
        cwd_missing: bool,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The message makes no argument list.
    #[error("the message makes no valid {place}: {reason}")]
    Unfit {
        /// `argument 2`, `variable TENANT`, …
        place: String,
        /// Why.
        reason: &'static str,
    },
    /// Reading its output or waiting for it failed.
    #[error("{program}: cannot be followed")]
    Follow {
        /// The program.
        program: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

fn hint(source: &io::Error, cwd_missing: bool) -> &'static str {
    match source.kind() {
        _ if cwd_missing => ": its working directory does not exist",
        io::ErrorKind::NotFound => ": no such program (is it installed, and in PATH?)",
        io::ErrorKind::PermissionDenied => ": it is not executable by this user",
        _ => "",
    }
}

impl Classify for CommandSinkError {
    fn class(&self) -> Class {
        match self {
            Self::Exit { class, .. } => *class,
            Self::Start { .. } => Class::Unavailable,
            Self::Unfit { .. } => Class::Permanent,
            Self::Follow { .. } => Class::Retry,
        }
    }

    fn code(&self) -> Option<SmolStr> {
        Some(match self {
            Self::Exit { status, .. } => match (status.code(), signal(*status)) {
                (Some(code), _) => format_smolstr!("{code}"),
                (None, Some(signal)) => format_smolstr!("signal_{signal}"),
                (None, None) => "unknown".into(),
            },
            Self::Start { .. } => "start".into(),
            Self::Unfit { .. } => "unfit".into(),
            Self::Follow { .. } => "io".into(),
        })
    }
}

/// How a process ended, in words.
struct Ending(ExitStatus);

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), signal(self.0)) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "ended by signal {signal}"),
            (None, None) => write!(f, "{}", self.0),
        }
    }
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}
