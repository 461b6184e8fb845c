use std::{io, path::PathBuf};

use dispatch_core::{Class, Classify};
use smol_str::SmolStr;

/// Why a file gives no lines.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileSourceError {
    /// There is no such file.
    #[error("there is no file {}", .0.display())]
    Missing(PathBuf),
    /// No file matches the pattern.
    #[error("no file matches {0}")]
    NoMatch(String),
    /// The file or its directory cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl Classify for FileSourceError {
    fn class(&self) -> Class {
        match self {
            Self::Missing(_) | Self::NoMatch(_) | Self::Read { .. } => Class::Unavailable,
        }
    }

    fn code(&self) -> Option<SmolStr> {
        Some(match self {
            Self::Missing(_) | Self::NoMatch(_) => "missing".into(),
            Self::Read { .. } => "read".into(),
        })
    }
}
