use dispatch_core::{Class, Classify};
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why Redis could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisStoreError {
    /// A command failed; nothing of it was kept, unless only its answer was lost.
    #[error("{what} in Redis at {place}")]
    Work {
        /// What was being done.
        what: &'static str,
        /// Host and port, or the socket file.
        place: String,
        /// What Redis or its client said.
        #[source]
        source: RedisError,
    },
}

impl Classify for RedisStoreError {
    fn class(&self) -> Class {
        match self {
            Self::Work { source, .. } => class(source),
        }
    }
}

fn class(error: &RedisError) -> Class {
    match error.kind() {
        // A server that is loading, failing over or read-only is no server for us yet; neither is one that knows us not.
        ErrorKind::Io
        | ErrorKind::AuthenticationFailed
        | ErrorKind::ClusterConnectionNotFound
        | ErrorKind::MasterNameNotFoundBySentinel
        | ErrorKind::NoValidReplicasFoundBySentinel
        | ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly
            | ServerErrorKind::NoPerm,
        ) => Class::Unavailable,
        ErrorKind::InvalidClientConfig | ErrorKind::EmptySentinelList | ErrorKind::RESP3NotSupported => {
            Class::Permanent
        }
        // The rest may pass. The client's enum can grow, which is why there is a last arm here.
        _ => Class::Retry,
    }
}
