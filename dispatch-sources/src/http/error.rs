use std::{io, net::SocketAddr};

use dispatch_core::{Class, Classify};
use smol_str::SmolStr;

/// Why no request can come in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpSourceError {
    /// The address cannot be listened on.
    #[error("listen on {address}{}", hint(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => ": somebody else listens there already",
        io::ErrorKind::PermissionDenied => ": this user may not (ports below 1024 need a privilege)",
        io::ErrorKind::AddrNotAvailable => ": this machine has no such address",
        _ => "",
    }
}

impl Classify for HttpSourceError {
    fn class(&self) -> Class {
        match self {
            Self::Listen { .. } => Class::Unavailable,
        }
    }

    fn code(&self) -> Option<SmolStr> {
        match self {
            Self::Listen { .. } => Some("listen".into()),
        }
    }
}
