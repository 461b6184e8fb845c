use std::{io, time::Duration};

use dispatch_core::{Class, Classify};
use http::StatusCode;
use smol_str::{SmolStr, ToSmolStr};

/// Why a message did not count as delivered. Addresses are written without their query, which may hold secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpSinkError {
    /// The worker answered with a status that is no success.
    #[error("{url}: status {status}{}{excerpt}", if excerpt.is_empty() { "" } else { ": " })]
    Status {
        /// Where it was sent.
        url: String,
        /// The status.
        status: StatusCode,
        /// What the status means, by default or by the user's table.
        class: Class,
        /// How the answer's body begins.
        excerpt: String,
    },
    /// No connection: refused, unreachable, no socket file.
    #[error("connect to {target}")]
    Connect {
        /// Host and port, or the socket's path.
        target: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No connection within `connect_timeout`.
    #[error("connect to {target}: no connection within {after:?}")]
    ConnectTimeout {
        /// Host and port, or the socket's path.
        target: String,
        /// The limit.
        after: Duration,
    },
    /// The host's name has no address.
    #[error("resolve {host}")]
    Resolve {
        /// The host.
        host: String,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
    /// No TLS: wrong certificate, or the far side speaks something else.
    #[error("TLS with {target}")]
    Tls {
        /// Host and port.
        target: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The connection came about but HTTP did not.
    #[error("HTTP with {target}")]
    Handshake {
        /// Host and port, or the socket's path.
        target: String,
        /// What went wrong.
        #[source]
        source: hyper::Error,
    },
    /// No whole answer came: reset, cut short, or not HTTP.
    #[error("{url}: no whole answer")]
    Transport {
        /// Where it was sent.
        url: String,
        /// What went wrong.
        #[source]
        source: hyper::Error,
    },
    /// No byte of the answer came for `inactivity_timeout`.
    #[error("{url}: nothing came for {after:?}")]
    Inactive {
        /// Where it was sent.
        url: String,
        /// The limit.
        after: Duration,
    },
    /// The attempt took longer than `timeout`.
    #[error("{url}: no whole answer within {after:?}")]
    Timeout {
        /// Where it was sent.
        url: String,
        /// The limit.
        after: Duration,
    },
    /// The message names a host at a private address.
    #[error(
        "{host} is at {address}, which is private; a host named by a message may not be (allow_private = true lets it)"
    )]
    PrivateAddress {
        /// The host.
        host: String,
        /// The address.
        address: std::net::IpAddr,
    },
    /// The message makes no valid URL.
    #[error("the message makes no valid URL: {reason}")]
    Url {
        /// Why.
        reason: String,
    },
    /// The message makes no valid header.
    #[error("the message makes no valid header {name}")]
    Header {
        /// Which.
        name: String,
    },
}

impl Classify for HttpSinkError {
    fn class(&self) -> Class {
        match self {
            Self::Status { class, .. } => *class,
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Resolve { .. }
            | Self::Tls { .. }
            | Self::Handshake { .. } => Class::Unavailable,
            Self::Transport { .. } | Self::Inactive { .. } | Self::Timeout { .. } => Class::Retry,
            Self::PrivateAddress { .. } | Self::Url { .. } | Self::Header { .. } => Class::Permanent,
        }
    }

    fn code(&self) -> Option<SmolStr> {
        Some(match self {
            Self::Status { status, .. } => status.as_str().to_smolstr(),
            Self::Connect { .. } | Self::ConnectTimeout { .. } | Self::Handshake { .. } => "connect".into(),
            Self::Resolve { .. } => "dns".into(),
            Self::Tls { .. } => "tls".into(),
            Self::Transport { .. } => "transport".into(),
            Self::Inactive { .. } => "inactive".into(),
            Self::Timeout { .. } => "timeout".into(),
            Self::PrivateAddress { .. } => "private_address".into(),
            Self::Url { .. } => "url".into(),
            Self::Header { .. } => "header".into(),
        })
    }
}
