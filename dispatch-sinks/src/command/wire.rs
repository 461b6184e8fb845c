//! What exit codes mean, and what stands in the environment.

use std::{collections::BTreeMap, ffi::OsString};

use dispatch_core::{
    Message,
    config::{ConfigError, Verdict},
};

/// What an exit code means by `sysexits.h`, and by what shells do.
fn by_default(code: i32) -> Verdict {
    match code {
        0 => Verdict::Success,
        64..=68 | 77 | 78 => Verdict::Permanent,
        // 126 and 127: the shell found no command, or none that it may run.
        69 | 126 | 127 => Verdict::Unavailable,
        _ => Verdict::Retry,
    }
}

/// The defaults with the user's table over them.
#[derive(Debug, Default)]
pub(super) struct ExitCodes(BTreeMap<i32, Verdict>);

impl ExitCodes {
    pub(super) fn new(table: &BTreeMap<String, Verdict>) -> Result<Self, ConfigError> {
        let entry = |(name, verdict): (&String, &Verdict)| match name.parse::<u8>() {
            Ok(code) => Ok((i32::from(code), *verdict)),
            Err(_) => Err(
                ConfigError::at(format!("exit_codes.{name}"), format!("\"{name}\" is not an exit code"))
                    .help("write a number from 0 to 255"),
            ),
        };
        table.iter().map(entry).collect::<Result<_, _>>().map(Self)
    }

    /// What `code` means; a process ended by a signal has none.
    pub(super) fn verdict(&self, code: Option<i32>) -> Verdict {
        match code {
            None => Verdict::Retry,
            Some(code) => self.0.get(&code).copied().unwrap_or_else(|| by_default(code)),
        }
    }
}

/// The variables that say what is known about `message`; the first of several values, none with a NUL byte.
pub(super) fn variables(message: &Message) -> BTreeMap<String, OsString> {
    let mut all = BTreeMap::new();
    let mut add = |name: String, value: &[u8]| {
        if value.contains(&0) {
            tracing::debug!(name, "value has a NUL byte and stays out of the environment");
        } else {
            all.entry(name).or_insert_with(|| os_string(value));
        }
    };
    add("DISPATCH_ID".to_owned(), message.id().as_bytes());
    add("DISPATCH_ATTEMPT".to_owned(), message.attempt.to_string().as_bytes());
    if let Some(key) = message.key() {
        add("DISPATCH_KEY".to_owned(), key.as_bytes());
    }
    for (name, value) in message.headers().iter() {
        match name.to_ascii_lowercase().as_str() {
            "traceparent" => add("TRACEPARENT".to_owned(), value),
            "tracestate" => add("TRACESTATE".to_owned(), value),
            _ => {}
        }
        add(variable("DISPATCH_HEADER_", name), value);
    }
    for (name, value) in message.metadata().iter() {
        add(variable("DISPATCH_META_", name), value);
    }
    all
}

fn variable(prefix: &str, name: &str) -> String {
    let letters = name.chars().map(|letter| match letter {
        letter if letter.is_ascii_alphanumeric() => letter.to_ascii_uppercase(),
        _ => '_',
    });
    prefix.chars().chain(letters).collect()
}

#[cfg(unix)]
fn os_string(value: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(value.to_vec())
}

#[cfg(not(unix))]
fn os_string(value: &[u8]) -> OsString {
    String::from_utf8_lossy(value).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_has_a_verdict() {
        let codes = ExitCodes::default();

        for code in 0..=255 {
            let expected = match code {
                0 => Verdict::Success,
                64 | 65 | 66 | 67 | 68 | 77 | 78 => Verdict::Permanent,
                69 | 126 | 127 => Verdict::Unavailable,
                _ => Verdict::Retry,
            };
            assert_eq!(codes.verdict(Some(code)), expected, "{code}");
        }
        assert_eq!(codes.verdict(None), Verdict::Retry);
    }

    #[test]
    fn the_users_table_stands_over_the_defaults() {
        let codes = ExitCodes::new(&BTreeMap::from([("3".to_owned(), Verdict::Success)])).unwrap();

        assert_eq!(
            (codes.verdict(Some(3)), codes.verdict(Some(4))),
            (Verdict::Success, Verdict::Retry)
        );
        for name in ["256", "-1", "x", "1xx"] {
            let error = ExitCodes::new(&BTreeMap::from([(name.to_owned(), Verdict::Retry)])).unwrap_err();
            assert_eq!(error.field, Some(format!("exit_codes.{name}")));
        }
    }

    #[test]
    fn the_environment_says_what_is_known() {
        let message = Message::with_id("m1", "")
            .with_key("k")
            .header("x-tag", "a")
            .header("X-Tag", "b")
            .header("Traceparent", "00-1")
            .header("bad", b"nul\0".to_vec())
            .meta("file.path", "p");

        let lines: Vec<String> = variables(&message)
            .into_iter()
            .map(|(name, value)| format!("{name}={}", value.to_string_lossy()))
            .collect();

        assert_eq!(
            lines,
            [
                "DISPATCH_ATTEMPT=1",
                "DISPATCH_HEADER_TRACEPARENT=00-1",
                "DISPATCH_HEADER_X_TAG=a",
                "DISPATCH_ID=m1",
                "DISPATCH_KEY=k",
                "DISPATCH_META_FILE_PATH=p",
                "TRACEPARENT=00-1",
            ]
        );
    }
}
