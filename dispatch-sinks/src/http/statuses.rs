//! What each status means.

use std::collections::BTreeMap;

use dispatch_core::config::{ConfigError, Verdict};
use http::StatusCode;

use super::{Compat, SqsdConfig, sqsd};

/// What a status means unless somebody says otherwise.
fn by_default(status: StatusCode) -> Verdict {
    match status.as_u16() {
        200..=299 => Verdict::Success,
        429 | 503 => Verdict::Throttled,
        // Credentials that are refused fail every message alike.
        401 | 407 => Verdict::Unavailable,
        408 | 425 => Verdict::Retry,
        // RFC 9110 section 15: a status from 600 up is to be treated as a 5xx.
        500.. => Verdict::Retry,
        // 1xx as a last answer, 3xx and the other 4xx: the same request will be answered the same.
        _ => Verdict::Permanent,
    }
}

/// The defaults with the user's table over them.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    /// The defaults of sqsd's convention, where it is spoken.
    convention: Option<Option<Compat>>,
    exact: BTreeMap<u16, Verdict>,
    hundreds: [Option<Verdict>; 10],
}

impl Statuses {
    /// Reads the user's table.
    pub(super) fn new(table: &BTreeMap<String, Verdict>, sqsd: Option<&SqsdConfig>) -> Result<Self, ConfigError> {
        let mut statuses = Self {
            convention: sqsd.map(|sqsd| sqsd.compat),
            ..Self::default()
        };
        for (name, verdict) in table {
            let wrong = || {
                ConfigError::at(format!("statuses.{name}"), format!("\"{name}\" is not a status"))
                    .help("write a status such as \"404\", or a hundred such as \"5xx\"")
            };
            match name.strip_suffix("xx") {
                Some(hundred) => {
                    let hundred = hundred.parse().ok().filter(|hundred| (1..=9).contains(hundred));
                    let hundred: usize = hundred.ok_or_else(wrong)?;
                    statuses.hundreds[hundred] = Some(*verdict);
                }
                None => {
                    let status: StatusCode = name.parse().map_err(|_| wrong())?;
                    statuses.exact.insert(status.as_u16(), *verdict);
                }
            }
        }
        Ok(statuses)
    }

    /// What `status` means. `asked`: the answer says when to come again.
    pub(super) fn verdict(&self, status: StatusCode, asked: bool) -> Verdict {
        let number = status.as_u16();
        self.exact
            .get(&number)
            .copied()
            .or(self.hundreds[usize::from(number / 100)])
            .unwrap_or_else(|| match self.convention {
                Some(compat) => sqsd::verdict(compat, status, asked),
                None => by_default(status),
            })
    }
}
