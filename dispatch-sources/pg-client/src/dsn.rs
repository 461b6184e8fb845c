//! A DSN as libpq reads it: what of it the client reads by the same name, what is read here, and what is not.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use crate::{
    DsnError,
    tls::{Check, Tls},
};

/// How long a connection is silent before the system asks whether it stands, and how long it may leave that unanswered,
/// unless the DSN says.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// The client's own settings, and those of TLS.
pub(super) fn read(dsn: &str) -> Result<(Config, Tls), DsnError> {
    let mut all = BTreeMap::new();
    // As in libpq what stands last counts, and what is empty is as if it did not stand there.
    for (key, value) in pairs(dsn)? {
        let (key, value) = match (key.as_str(), value.as_str()) {
            ("requiressl", "1") | ("ssl", "true") => ("sslmode".to_owned(), "require".to_owned()),
            ("requiressl", _) => ("sslmode".to_owned(), "prefer".to_owned()),
            _ => (key, value),
        };
        all.insert(key, value);
    }
    all.retain(|_, value| !value.is_empty());
    if let Some(name) = all.remove("fallback_application_name") {
        all.entry("application_name".to_owned()).or_insert(name);
    }

    let (mut text, mut kept) = (String::new(), Vec::new());
    for (key, value) in &all {
        match (key.as_str(), value.as_str()) {
            (
                "user"
                | "password"
                | "dbname"
                | "options"
                | "application_name"
                | "sslnegotiation"
                | "host"
                | "hostaddr"
                | "port"
                | "connect_timeout"
                | "keepalives"
                | "keepalives_idle"
                | "keepalives_interval"
                | "channel_binding"
                | "load_balance_hosts",
                _,
            ) => kept.push((key.as_str(), value.as_str())),
            // 0 leaves it to the system.
            ("keepalives_count" | "keepalives_retries", "0") => {}
            ("keepalives_count" | "keepalives_retries", count) => kept.push(("keepalives_retries", count)),
            // A server that others follow, and that can be written to.
            ("target_session_attrs", "primary") => kept.push(("target_session_attrs", "read-write")),
            ("target_session_attrs", _) => kept.push((key, value)),
            ("tcp_user_timeout" | "sslmode" | "sslrootcert" | "sslcert" | "sslkey" | "sslcertmode" | "sslsni", _) => {}
            (key, value) => without(key, value)?,
        }
    }
    for (key, value) in kept {
        let pair = format!("{key}={} ", quoted(value));
        if pair.parse::<Config>().is_err() {
            return Err(unreadable(if key == "keepalives_retries" {
                "keepalives_count"
            } else {
                key
            }));
        }
        text.push_str(&pair);
    }
    let mut config: Config = text.parse().map_err(|_| DsnError::Form)?;

    let number = |key: &str| {
        all.get(key)
            .map(|text| text.parse::<u64>().map_err(|_| unreadable(key)))
    };
    if !all.contains_key("keepalives_idle") {
        config.keepalives_idle(SILENCE);
    }
    // Milliseconds, of which the client knows nothing; 0 leaves it to the system.
    match number("tcp_user_timeout").transpose()? {
        Some(0) => {}
        Some(millis) => {
            config.tcp_user_timeout(std::time::Duration::from_millis(millis));
        }
        None => {
            config.tcp_user_timeout(SILENCE);
        }
    }
    let tls = tls(&mut config, &all)?;
    Ok((config, tls))
}

fn tls(config: &mut Config, all: &BTreeMap<String, String>) -> Result<Tls, DsnError> {
    let value = |key: &str| all.get(key).map(String::as_str);
    let roots = value("sslrootcert");
    let is_system = roots == Some("system");
    let (mode, check) = match (value("sslmode"), is_system) {
        (Some("verify-full"), _) | (None, true) => (SslMode::Require, Check::Name),
        (Some(_), true) => {
            return Err(DsnError::keyword(
                "sslrootcert",
                "`system` wants `sslmode=verify-full`, as libpq does",
            ));
        }
        (Some("verify-ca"), _) => (SslMode::Require, Check::Issuer),
        // As libpq has it: who names a root means it.
        (Some("require"), _) if roots.is_some() => (SslMode::Require, Check::Issuer),
        (Some("require"), _) => (SslMode::Require, Check::Nothing),
        (None | Some("prefer" | "allow"), _) => (SslMode::Prefer, Check::Nothing),
        (Some("disable"), _) => (SslMode::Disable, Check::Nothing),
        (Some(_), _) => return Err(unreadable("sslmode")),
    };
    config.ssl_mode(mode);
    let client = match (value("sslcert"), value("sslkey"), value("sslcertmode")) {
        (_, _, Some("disable")) | (None, None, None | Some("allow")) => None,
        (_, _, Some("require")) => {
            let why = "whether the server asks for a certificate cannot be checked: leave it out; `sslcert` and `sslkey` are \
                       shown to one that asks";
            return Err(DsnError::keyword("sslcertmode", why));
        }
        (_, _, Some(other)) if other != "allow" => return Err(unreadable("sslcertmode")),
        (Some(certificate), Some(key), _) => Some((certificate.to_owned(), key.to_owned())),
        (Some(_), None, _) => return Err(DsnError::keyword("sslcert", "its key is not named: write `sslkey` too")),
        (None, _, _) => {
            return Err(DsnError::keyword(
                "sslkey",
                "its certificate is not named: write `sslcert` too",
            ));
        }
    };
    Ok(Tls {
        check,
        roots: roots.filter(|_| !is_system).map(str::to_owned),
        client: client.filter(|_| mode != SslMode::Disable),
        sni: value("sslsni") != Some("0"),
    })
}

/// What nothing here reads: nothing, where it changes nothing that matters, else why it cannot be had.
fn without(key: &str, value: &str) -> Result<(), DsnError> {
    let why = match (key, value) {
        // The client speaks UTF-8, no compression, no GSSAPI and version 3.0 of the protocol, whatever they say.
        (
            "client_encoding"
            | "sslcompression"
            | "gssdelegation"
            | "krbsrvname"
            | "gsslib"
            | "min_protocol_version"
            | "max_protocol_version"
            | "sslkeylogfile"
            | "authtype"
            | "tty",
            _,
        )
        | ("gssencmode", "disable" | "prefer")
        | ("replication", "false" | "off" | "no" | "0")
        | ("ssl_min_protocol_version", "TLSv1" | "TLSv1.1" | "TLSv1.2")
        | ("ssl_max_protocol_version", "TLSv1.3") => return Ok(()),
        ("gssencmode", _) => "GSSAPI is not spoken here: leave it out, and let `sslmode` encrypt",
        ("replication", _) => "such a connection can neither listen nor publish: leave it out",
        ("ssl_min_protocol_version" | "ssl_max_protocol_version", _) => {
            "TLS 1.2 and 1.3 are both spoken here: leave it out, and let the server's setting of this name choose"
        }
        ("require_auth", _) => {
            "the way to log in is the server's choice here: leave it out; `channel_binding=require` wants SCRAM over TLS"
        }
        ("sslpassword", _) => {
            "keys that are encrypted are not read: name one in `sslkey` that is not, for its owner alone"
        }
        ("sslcrl" | "sslcrldir", _) => "lists of revoked certificates are not read: leave it out if that may be",
        ("requirepeer", _) => {
            "who serves a socket file is not checked: leave it out, and name a directory in `host` that nobody else can write to"
        }
        ("service" | "servicefile", _) => "files of services are not read: write the service's keywords here",
        ("passfile", _) => "files of passwords are not read: write `password`, or set PGPASSWORD",
        ("scram_client_key" | "scram_server_key", _) => "keys of SCRAM are not read: write `password`",
        (key, _) if key.starts_with("oauth_") => "OAuth is not spoken here: log in with `password` or `sslcert`",
        _ => "no such keyword is known: see docs/sources/pg_notify.md#the-connection",
    };
    Err(DsnError::keyword(key, why))
}

fn unreadable(key: &str) -> DsnError {
    let why = match key {
        "sslmode" => "disable, allow, prefer, require, verify-ca or verify-full is wanted",
        "port" => "1 to 65535 is wanted, or such numbers with commas between",
        "target_session_attrs" => "any, read-write, primary or read-only is wanted",
        "channel_binding" => "disable, prefer or require is wanted",
        "load_balance_hosts" => "disable or random is wanted",
        "sslnegotiation" => "postgres or direct is wanted",
        "sslcertmode" => "disable or allow is wanted",
        "hostaddr" => "an address is wanted, or some with commas between",
        _ => "a whole number is wanted",
    };
    DsnError::keyword(key, why)
}

/// A value as libpq's text has it.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The keywords in their order, whichever way they are written.
fn pairs(dsn: &str) -> Result<Vec<(String, String)>, DsnError> {
    let url = ["postgres://", "postgresql://"]
        .iter()
        .find_map(|scheme| dsn.strip_prefix(scheme));
    url.map_or_else(|| words(dsn), |rest| of_url(dsn, rest))
}

/// The client reads all of a URL but its query, which may hold what it does not know.
fn of_url(dsn: &str, rest: &str) -> Result<Vec<(String, String)>, DsnError> {
    // A question mark in a password is none of the query's.
    let login = rest.find(['@', '/']).filter(|at| rest[*at..].starts_with('@'));
    let start = dsn.len() - rest.len() + login.unwrap_or(0);
    let (base, query) = match dsn[start..].find('?') {
        Some(at) => (&dsn[..start + at], &dsn[start + at + 1..]),
        None => (dsn, ""),
    };
    let base: Config = base.parse().map_err(|_| DsnError::Form)?;
    let list = |parts: Vec<String>| parts.join(",");
    let host = |host: &Host| match host {
        Host::Tcp(host) => host.clone(),
        Host::Unix(path) => path.to_string_lossy().into_owned(),
    };
    let mut pairs = vec![
        ("host", list(base.get_hosts().iter().map(host).collect())),
        ("port", list(base.get_ports().iter().map(u16::to_string).collect())),
        ("user", base.get_user().unwrap_or_default().to_owned()),
        (
            "password",
            String::from_utf8_lossy(base.get_password().unwrap_or_default()).into_owned(),
        ),
        ("dbname", base.get_dbname().unwrap_or_default().to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect::<Vec<_>>();
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(DsnError::Form)?;
        pairs.push((
            decoded(key).map_err(|_| DsnError::Form)?,
            decoded(value).map_err(|_| DsnError::Form)?,
        ));
    }
    Ok(pairs)
}

/// `key = value`, `key='a value'`, a backslash before what is to be taken as it is.
fn words(text: &str) -> Result<Vec<(String, String)>, DsnError> {
    let (mut pairs, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or(DsnError::Form)?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(DsnError::Form);
        }
        let after = after.trim_start();
        let quote = after.strip_prefix('\'');
        let mut characters = quote.unwrap_or(after).chars();
        let mut value = String::new();
        loop {
            match (characters.next(), quote.is_some()) {
                (Some('\\'), _) => value.extend(characters.next()),
                (Some('\''), true) | (None, false) => break,
                (None, true) => return Err(DsnError::Form),
                (Some(character), false) if character.is_whitespace() => break,
                (Some(character), _) => value.push(character),
            }
        }
        pairs.push((key.to_owned(), value));
        rest = characters.as_str().trim_start();
    }
    Ok(pairs)
}
