//! Text with fields of the message in it.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

use crate::{
    Class, Classify, Error, Message, Selector,
    selector::{FORMS, SelectorError},
};

/// Text with `{{ field }}` in it, parsed when the configuration is read and filled in for each message.
///
/// A field is what a [`Selector`] names, or `created_at` (RFC 3339, UTC). `{{ field | default "x" }}` gives the text to
/// use where a message lacks the field; without it such a message is refused. `{{ "{{" }}` writes two braces.
///
/// ```
/// use dispatch_core::{Message, config::Template};
///
/// let url: Template = r#"http://{{ header:region | default "eu" }}.example/{{ id }}"#.parse().unwrap();
/// assert_eq!(url.render(&Message::with_id("m1", "")).unwrap(), "http://eu.example/m1");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    written: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Placeholder { field: Field, default: Option<String> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Of(Selector),
    CreatedAt,
}

impl Template {
    /// A template without placeholders, taken as it stands.
    #[must_use]
    pub fn literal(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            written: text.replace("{{", r#"{{ "{{" }}"#),
            parts: vec![Part::Literal(text)],
        }
    }

    /// The whole text, if no message can change it.
    #[must_use]
    pub fn as_literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The template with every placeholder replaced by `stand_in`; for checks of the fixed parts when it is read.
    #[must_use]
    pub fn sample(&self, stand_in: &str) -> String {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Literal(text) => text,
                Part::Placeholder { .. } => stand_in,
            })
            .collect()
    }

    /// Fills the message's fields in. A template without placeholders is borrowed and costs nothing.
    ///
    /// # Errors
    /// `Permanent`, naming the field, where the message lacks one that has no default.
    pub fn render(&self, message: &Message) -> Result<Cow<'_, str>, Error> {
        self.render_with(message, |text, value| text.push_str(value))
    }

    /// As [`render`](Self::render), but `write` adds each field's value to what is already written, escaped as the
    /// place needs it. Literal text and defaults are the operator's own and are added as they stand.
    ///
    /// # Errors
    /// As `render`.
    pub fn render_with(&self, message: &Message, write: impl Fn(&mut String, &str)) -> Result<Cow<'_, str>, Error> {
        if let Some(text) = self.as_literal() {
            return Ok(text.into());
        }
        let mut text = String::with_capacity(self.written.len() + 32);
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Placeholder { field, default } => match (field.read(message), default) {
                    (Some(value), _) => write(&mut text, &value),
                    (None, Some(default)) => text.push_str(default),
                    (None, None) => return Err(MissingField(field.to_string()).into()),
                },
            }
        }
        Ok(text.into())
    }
}

impl Field {
    fn read<'m>(&self, message: &'m Message) -> Option<Cow<'m, str>> {
        match self {
            Self::Of(selector) => selector.read(message),
            Self::CreatedAt => Some(
                humantime::format_rfc3339_millis(message.created_at())
                    .to_string()
                    .into(),
            ),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(selector) => selector.fmt(f),
            Self::CreatedAt => f.write_str("created_at"),
        }
    }
}

/// A message lacks a field that a template needs.
#[derive(Debug, thiserror::Error)]
#[error("the message has no {0}, which a template needs")]
struct MissingField(String);

impl Classify for MissingField {
    fn class(&self) -> Class {
        Class::Permanent
    }
}

/// Why a text is not a template; names the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}, at character {at} of the template")]
pub struct TemplateError {
    problem: String,
    /// Which character of the text, from 1.
    pub at: usize,
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(written: &str) -> Result<Self, TemplateError> {
        let fail = |offset: usize, problem: String| TemplateError {
            problem,
            at: written[..offset].chars().count() + 1,
        };
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = written;
        while let Some(open) = rest.find("{{") {
            literal.push_str(&rest[..open]);
            let inside = &rest[open + 2..];
            let offset = written.len() - inside.len();
            let close =
                closing(inside).ok_or_else(|| fail(offset - 2, "a \"{{\" has no \"}}\" after it".to_owned()))?;
            match placeholder(inside[..close].trim()).map_err(|problem| fail(offset, problem))? {
                Part::Literal(text) => literal.push_str(&text),
                field => {
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(field);
                }
            }
            rest = &inside[close + 2..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self {
            written: written.to_owned(),
            parts,
        })
    }
}

/// Where the `}}` is that ends the placeholder; those between quotes do not count.
fn closing(inside: &str) -> Option<usize> {
    let bytes = inside.as_bytes();
    let (mut quoted, mut at) = (false, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'}' if !quoted && bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Reads what stands between the braces.
fn placeholder(text: &str) -> Result<Part, String> {
    if text.starts_with('"') {
        return quoted(text).map(Part::Literal);
    }
    let (field, filter) = match text.split_once('|') {
        Some((field, filter)) => (field.trim(), Some(filter.trim())),
        None => (text, None),
    };
    let default = match filter {
        None => None,
        Some(filter) => match filter.strip_prefix("default") {
            Some(default) => Some(quoted(default.trim())?),
            None => return Err(format!("unknown filter \"{filter}\": the only one is default \"text\"")),
        },
    };
    let field = match field {
        "created_at" => Field::CreatedAt,
        "" => {
            return Err(format!(
                "nothing stands between the braces: write one of {FORMS} or created_at"
            ));
        }
        field => Field::Of(field.parse().map_err(|error| match error {
            SelectorError::Unknown(_) => format!("{error}, or created_at"),
            SelectorError::Nameless(_) | SelectorError::Pointer(_) => error.to_string(),
        })?),
    };
    Ok(Part::Placeholder { field, default })
}

/// Reads a text between double quotes, with JSON's escapes.
fn quoted(text: &str) -> Result<String, String> {
    serde_json::from_str(text).map_err(|_| format!("{text} is not a text in double quotes"))
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Template;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, with {{ fields }} of the message if need be")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Template, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for Template {
    fn schema_name() -> Cow<'static, str> {
        "Template".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "text with fields of the message in it: {{ id }}, {{ attempt }}, {{ key }}, {{ header:NAME }}, {{ meta:NAME }}, {{ payload:/json/pointer }}, {{ created_at }}, each with an optional | default \"text\"",
            "examples": ["http://127.0.0.1:8080/work/{{ id }}", "{{ header:tenant | default \"none\" }}"]
        })
    }
}

impl JsonSchema for Selector {
    fn schema_name() -> Cow<'static, str> {
        "Selector".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "a field of the message: id, attempt, key, header:NAME, meta:NAME, payload or payload:/json/pointer",
            "examples": ["header:tenant", "payload:/customer/id"],
            "pattern": r"^\s*(id|attempt|key|payload|(header|meta):.+|payload:(/.*)?)\s*$|\$\{"
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn message() -> Message {
        let created_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_614_265_330);
        Message::with_id_at("m1", r#"{"a":"x/y"}"#, created_at).header("tenant", "a7")
    }

    #[test]
    fn placeholders_are_filled_in() {
        for (template, expected) in [
            ("plain { text }", "plain { text }"),
            ("", ""),
            ("{{id}}", "m1"),
            ("<{{ id }}-{{attempt}}>", "<m1-1>"),
            ("{{ header:tenant }}/{{ payload:/a }}", "a7/x/y"),
            (r#"{{ key | default "none" }}"#, "none"),
            (r#"{{ key|default "}}" }}"#, "}}"),
            (r#"{{ key | default "a \"b\"" }}"#, r#"a "b""#),
            (r#"{{ "{{" }} id }}"#, "{{ id }}"),
            ("{{ created_at }}", "2021-02-25T15:02:10.000Z"),
        ] {
            let parsed: Template = template.parse().unwrap();
            assert_eq!(parsed.render(&message()).unwrap(), expected, "{template}");
            assert_eq!(parsed.to_string(), template);
        }
    }

    #[test]
    fn a_template_without_placeholders_is_borrowed() {
        let template: Template = "http://127.0.0.1/".parse().unwrap();

        assert!(matches!(template.render(&message()).unwrap(), Cow::Borrowed(_)));
        assert_eq!(Template::literal("{{ id }}").render(&message()).unwrap(), "{{ id }}");
        assert_eq!(
            Template::literal("{{ id }}")
                .to_string()
                .parse::<Template>()
                .unwrap()
                .as_literal(),
            Some("{{ id }}")
        );
    }

    #[test]
    fn a_missing_field_is_permanent_and_named() {
        let template: Template = "{{ header:region }}".parse().unwrap();

        let error = template.render(&message()).unwrap_err();

        assert_eq!(error.class(), Class::Permanent);
        assert!(error.to_string().contains("header:region"), "{error}");
    }

    #[test]
    fn values_can_be_escaped_while_literals_stand() {
        let template: Template = "/{{ payload:/a }}".parse().unwrap();

        let text = template.render_with(&message(), |text, value| text.push_str(&value.replace('/', "%2F")));

        assert_eq!(text.unwrap(), "/x%2Fy");
    }

    #[test]
    fn mistakes_name_the_place_and_what_is_allowed() {
        for (template, place, hint) in [
            ("a {{ id", 3, "no \"}}\""),
            ("ä {{ }}", 5, "created_at"),
            ("{{ tenant }}", 3, "header:NAME"),
            ("{{ id | upper }}", 3, "default \"text\""),
            ("{{ id | default x }}", 3, "double quotes"),
            ("{{ payload:a }}", 3, "payload:/a"),
        ] {
            let error = template.parse::<Template>().unwrap_err();
            assert_eq!(error.at, place, "{template}");
            assert!(error.to_string().contains(hint), "{template}: {error}");
        }
    }
}
