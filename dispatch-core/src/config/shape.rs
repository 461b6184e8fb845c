//! Values with a short form and a long one: a text, a number or a table.

use std::{fmt, marker::PhantomData, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer, value::SeqAccessDeserializer},
};

/// `"off"`, or what is to be on.
#[derive(Debug, Clone, PartialEq)]
pub enum Switch<T> {
    /// Off.
    Off,
    /// On, so.
    On(T),
}

/// A value that has a short form.
pub trait Short: Sized {
    /// What to say is wanted.
    const WANTED: &'static str;

    /// From a text, if it has such a form.
    ///
    /// # Errors
    /// What is wrong with the text.
    fn from_text(text: &str) -> Result<Self, String>;

    /// From a whole number, if it has such a form.
    ///
    /// # Errors
    /// What to write instead.
    fn from_number(number: i64) -> Result<Self, String> {
        Err(format!("{number} where {} is wanted", Self::WANTED))
    }
}

/// Reads the short form by [`Short`], the long one, a table or an array, by `L`.
pub(super) fn short_or_long<'de, D, T, L>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Short + From<L>,
    L: Deserialize<'de>,
{
    struct Both<T, L>(PhantomData<(T, L)>);

    impl<'de, T: Short + From<L>, L: Deserialize<'de>> Visitor<'de> for Both<T, L> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::WANTED)
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            T::from_text(text).map_err(E::custom)
        }
        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
            T::from_number(number).map_err(E::custom)
        }
        fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
            self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            L::deserialize(MapAccessDeserializer::new(map)).map(T::from)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<T, A::Error> {
            L::deserialize(SeqAccessDeserializer::new(seq)).map(T::from)
        }
    }

    deserializer.deserialize_any(Both(PhantomData))
}

impl<'de, T: Deserialize<'de> + Short> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        short_or_long::<D, Self, T>(deserializer)
    }
}

impl<T> From<T> for Switch<T> {
    fn from(on: T) -> Self {
        Self::On(on)
    }
}

impl<T: Short> Short for Switch<T> {
    const WANTED: &'static str = T::WANTED;
    fn from_text(text: &str) -> Result<Self, String> {
        if text == "off" {
            Ok(Self::Off)
        } else {
            T::from_text(text).map(Self::On)
        }
    }
    fn from_number(number: i64) -> Result<Self, String> {
        T::from_number(number).map(Self::On)
    }
}

impl<T: JsonSchema> JsonSchema for Switch<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}OrOff", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "off" }, generator.subschema_for::<T>()] })
    }
}

impl Short for super::Period {
    const WANTED: &'static str = "a duration with its unit, such as \"30s\", or \"off\"";
    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_str(text)
    }
    fn from_number(number: i64) -> Result<Self, String> {
        Self::from_str(&number.to_string())
    }
}

/// A share, written `"50%"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent(pub f64);

impl Short for Percent {
    const WANTED: &'static str = "a share from \"0%\" to \"100%\"";
    fn from_text(text: &str) -> Result<Self, String> {
        let number = text
            .trim()
            .strip_suffix('%')
            .and_then(|number| number.trim().parse::<f64>().ok());
        match number {
            Some(number) if (0.0..=100.0).contains(&number) => Ok(Self(number / 100.0)),
            _ => Err(format!("\"{text}\" where {} is wanted", Self::WANTED)),
        }
    }
    fn from_number(number: i64) -> Result<Self, String> {
        Err(format!("a share needs its sign: write \"{number}%\""))
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        short_or_long::<D, Self, NoLong>(deserializer)
    }
}

/// The long form of what has none.
struct NoLong;

impl<'de> Deserialize<'de> for NoLong {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom(
            "a table or array where a single value is wanted",
        ))
    }
}

impl From<NoLong> for Percent {
    fn from(_: NoLong) -> Self {
        Self(0.0)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Percent".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": Self::WANTED, "pattern": r"^\s*[0-9.]+\s*%\s*$" })
    }
}

/// Gives a value with a short form its serde and schema halves.
macro_rules! short_or_table {
    ($type:ident, $table:ident, $name:literal, $short:expr) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::config::shape::short_or_long::<D, Self, $table>(deserializer)
            }
        }
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let table = generator.subschema_for::<$table>();
                let mut forms: Vec<serde_json::Value> = $short;
                forms.push(table.to_value());
                schemars::json_schema!({ "description": <$type as Short>::WANTED, "anyOf": forms })
            }
        }
    };
}

pub(super) use short_or_table;
