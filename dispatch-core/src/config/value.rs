//! Values that people write with units, and secrets that are never printed.

use std::{fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

/// Gives a string value its serde and schema halves; bare numbers get an error with the fix in it.
macro_rules! text_value {
    ($type:ident, $name:literal, $what:literal, $examples:expr, $bare:expr, $pattern:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$type, E> {
                        let bare: fn(&dyn fmt::Display) -> String = $bare;
                        Err(E::custom(bare(&number)))
                    }
                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$type, E> {
                        let bare: fn(&dyn fmt::Display) -> String = $bare;
                        Err(E::custom(bare(&number)))
                    }
                    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$type, E> {
                        let bare: fn(&dyn fmt::Display) -> String = $bare;
                        Err(E::custom(bare(&number)))
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $what, "examples": $examples, "pattern": $pattern })
            }
        }
    };
}

/// A length of time, written with its unit: `"250ms"`, `"30s"`, `"1h30m"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub Duration);

text_value!(
    Period,
    "Duration",
    "a duration with its unit, such as \"250ms\", \"30s\" or \"1h30m\"",
    ["250ms", "30s", "1h30m"],
    |number| format!("a duration needs its unit: write \"{number}s\" or \"{number}ms\""),
    r"^\s*([0-9]+\s*[a-zµ]+\s*)+$|\$\{"
);

impl FromStr for Period {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match humantime::parse_duration(text) {
            Ok(duration) => Ok(Self(duration)),
            Err(_) if !text.trim().is_empty() && text.trim().bytes().all(|byte| byte.is_ascii_digit()) => Err(format!(
                "a duration needs its unit: write \"{0}s\" or \"{0}ms\"",
                text.trim()
            )),
            Err(error) => Err(format!(
                "\"{text}\" is not a duration ({error}): write one such as \"250ms\", \"30s\" or \"1h30m\""
            )),
        }
    }
}
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = humantime::format_duration(self.0).to_string();
        f.write_str(&text.replace(' ', ""))
    }
}
impl From<Duration> for Period {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

/// A number of bytes, written with its unit: `"64KiB"`, `"10MB"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

text_value!(
    ByteSize,
    "ByteSize",
    "a size with its unit, such as \"512B\", \"64KiB\" or \"10MB\"",
    ["64KiB", "10MB"],
    |number| format!("a size needs its unit: write \"{number}B\", \"{number}KiB\" or \"{number}MiB\""),
    r"^\s*[0-9.]+\s*[a-zA-Z]+\s*$|\$\{"
);

impl ByteSize {
    /// The size as a length in memory; as much as there is, where it does not fit.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().parse::<f64>().is_ok() {
            return Err(format!(
                "a size needs its unit: write \"{0}B\", \"{0}KiB\" or \"{0}MiB\"",
                text.trim()
            ));
        }
        text.parse::<bytesize::ByteSize>()
            .map(|size| Self(size.as_u64()))
            .map_err(|_| format!("\"{text}\" is not a size: write one such as \"512B\", \"64KiB\" or \"10MB\""))
    }
}
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 > 0 && self.0.is_multiple_of(unit) {
                return write!(f, "{}{name}", self.0 / unit);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// How many in how long: `"100/s"`, `"30/m"`, `"5/10s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// So many, at least 1.
    pub count: u32,
    /// In so long.
    pub per: Duration,
}

text_value!(
    Rate,
    "Rate",
    "a rate with its unit of time, such as \"100/s\", \"30/m\" or \"5/10s\"",
    ["100/s", "30/m", "5/10s"],
    |number| format!("a rate needs its unit of time: write \"{number}/s\" or \"{number}/m\""),
    r"^\s*[0-9_]+\s*/\s*[0-9a-z ]+$|\$\{"
);

impl Rate {
    /// `count` a second.
    #[must_use]
    pub const fn per_second(count: u32) -> Self {
        Self {
            count,
            per: Duration::from_secs(1),
        }
    }
}

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not a rate: write one such as \"100/s\", \"30/m\" or \"5/10s\"");
        let Some((count, per)) = text.split_once('/') else {
            return Err(match text.trim().parse::<u64>() {
                Ok(number) => format!("a rate needs its unit of time: write \"{number}/s\" or \"{number}/m\""),
                Err(_) => wrong(),
            });
        };
        let count: u32 = count.trim().replace('_', "").parse().map_err(|_| wrong())?;
        let per = per.trim();
        let per = if per.starts_with(|first: char| first.is_ascii_digit()) {
            humantime::parse_duration(per)
        } else {
            humantime::parse_duration(&format!("1{per}"))
        }
        .map_err(|_| wrong())?;
        if count == 0 || per.is_zero() {
            return Err(format!(
                "\"{text}\" lets nothing through: a rate is at least one in some time"
            ));
        }
        Ok(Self { count, per })
    }
}
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = Period(self.per).to_string();
        let unit = per
            .strip_prefix('1')
            .filter(|unit| !unit.starts_with(|first: char| first.is_ascii_digit()));
        write!(f, "{}/{}", self.count, unit.unwrap_or(&per))
    }
}

/// A text that is never printed: `***` in `Debug`, in JSON and in every `echo`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a text into hiding.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that must send it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}
impl JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "a secret; best as \"${NAME}\" or \"${file:/run/secrets/name}\"", "writeOnly": true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_they_are_written() {
        for text in ["100/s", "30/m", "5/10s"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["250ms", "30s", "1h30m"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        for text in ["512B", "64KiB", "10MiB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_bare_number_is_an_error_with_the_fix_in_it() {
        assert!("30".parse::<Period>().unwrap_err().contains("\"30s\""));
        assert!("100".parse::<Rate>().unwrap_err().contains("\"100/s\""));
        assert!("10".parse::<ByteSize>().unwrap_err().contains("\"10MiB\""));
        assert!(
            serde_json::from_str::<Period>("30")
                .unwrap_err()
                .to_string()
                .contains("\"30s\"")
        );
    }

    #[test]
    fn a_secret_prints_as_stars() {
        let secret = Secret::new("hunter2");

        assert_eq!(
            format!("{secret:?} {}", serde_json::to_string(&secret).unwrap()),
            "*** \"***\""
        );
    }
}
