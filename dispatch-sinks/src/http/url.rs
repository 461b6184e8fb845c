//! Where a request goes.

use std::{fmt, sync::Arc};

use dispatch_core::{Message, config::Template};
use http::{HeaderValue, Uri, uri::PathAndQuery};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use smol_str::{SmolStr, ToSmolStr};

use super::HttpSinkError;

/// Everything but the unreserved characters of RFC 3986: a field stays inside its place in the URL.
const OUTSIDE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Whom to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) https: bool,
    /// A name or an address, IPv6 without its brackets.
    pub(super) host: SmolStr,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A URL taken apart as both versions of HTTP need it.
#[derive(Debug, Clone)]
pub(super) struct Url {
    pub(super) address: Address,
    /// The whole as it was written.
    pub(super) text: Arc<str>,
    /// Scheme, host and path, for people: a query may hold secrets.
    pub(super) shown: Arc<str>,
    /// HTTP/2 sends the whole.
    pub(super) absolute: Uri,
    /// HTTP/1 sends this part.
    pub(super) path: Uri,
    /// HTTP/1's `Host`.
    pub(super) host: HeaderValue,
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let absolute: Uri = text.parse().map_err(|error| format!("{error}"))?;
        let https = match absolute.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("it does not begin with http:// or https://".to_owned()),
        };
        let authority = absolute.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or("it has no host")?;
        if authority.as_str().contains('@') {
            return Err("credentials do not go into the URL; use auth".to_owned());
        }
        let host = authority.host();
        let port = match &authority.as_str()[host.len()..] {
            "" => {
                if https {
                    443
                } else {
                    80
                }
            }
            colon_and_port => colon_and_port[1..]
                .parse()
                .map_err(|_| "its port is not a number up to 65535")?,
        };
        let address = Address {
            https,
            host: host.trim_start_matches('[').trim_end_matches(']').to_smolstr(),
            port,
        };
        let path = absolute
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self {
            text: text.into(),
            shown: format!("{}://{authority}{}", if https { "https" } else { "http" }, path.path()).into(),
            host: HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?,
            path: path.into(),
            address,
            absolute,
        })
    }

    /// The URL of one message. What stands after the host is percent-encoded.
    pub(super) fn render(template: &Template, message: &Message) -> Result<Self, dispatch_core::Error> {
        let text = template.render_with(message, |text, value| {
            if after_host(text) {
                text.extend(utf8_percent_encode(value, OUTSIDE));
            } else {
                text.push_str(value);
            }
        })?;
        Self::parse(&text).map_err(|reason| HttpSinkError::Url { reason }.into())
    }
}

impl Url {
    /// Another path, query included, at the same place; none where it is no path.
    pub(super) fn with_path(&self, path: &str) -> Option<Self> {
        let slash = if path.starts_with('/') { "" } else { "/" };
        let path: PathAndQuery = format!("{slash}{path}").parse().ok()?;
        let authority = self.absolute.authority()?;
        Self::parse(&format!("{}://{authority}{path}", self.absolute.scheme_str()?)).ok()
    }

    /// Where an answer's `Location` leads, if that is at the same place.
    pub(super) fn redirected(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') && !location.starts_with("//") {
            return self.with_path(location);
        }
        Self::parse(location).ok().filter(|url| url.address == self.address)
    }
}

/// Whether what is written so far has left scheme and host behind.
fn after_host(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(_, rest)| rest.contains(['/', '?', '#']))
}

/// Whether fields of the message can change the host.
pub(super) fn host_is_templated(template: &Template) -> bool {
    let address = |stand_in: &str| Url::parse(&template.sample(stand_in)).map(|url| url.address);
    match (address("a1"), address("b2")) {
        (Ok(one), Ok(other)) => one != other,
        _ => template.as_literal().is_none(),
    }
}
