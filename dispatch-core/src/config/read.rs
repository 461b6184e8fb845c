//! Reading a table into a struct, finding every mistake on the way and not only the first.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue, ValueDeserializer},
};

use super::diagnose::{Diagnostic, Sources, any_of, nearest};

/// A parsed value that knows its place.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// What reading needs to know of the whole file.
#[derive(Debug, Default)]
pub(super) struct Reader<'i> {
    pub(super) sources: Sources,
    /// Where strings stood that placeholders were filled into, and what they are now: perhaps a number or a boolean.
    pub(super) filled: HashMap<usize, &'i str>,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Keys that are allowed beside those of the struct that is read.
    pub(super) beside: &'static [&'static str],
}

/// So many mistakes in one table are enough.
const ENOUGH: usize = 50;

impl<'i> Reader<'i> {
    /// Notes a mistake.
    pub(super) fn error(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Reads `value`; notes every mistake and answers none if there is any.
    pub(super) fn read<T: DeserializeOwned>(&mut self, value: Value<'i>) -> Option<T> {
        self.read_with(value, |value| T::deserialize(ValueDeserializer::from(value)))
    }

    /// Reads what is left of the top of a file once the components are taken out; they are allowed there all the same.
    pub(super) fn read_top<T: DeserializeOwned>(&mut self, value: Value<'i>) -> Option<T> {
        self.beside = &["source", "layers", "sink", "then", "store"];
        let read = self.read(value);
        self.beside = &[];
        read
    }

    /// As [`read`](Self::read), by a function. What a mistake lies in is taken out and the rest read again, until
    /// nothing is left to find.
    pub(super) fn read_with<T>(
        &mut self,
        mut value: Value<'i>,
        read: impl Fn(Value<'i>) -> Result<T, toml::de::Error>,
    ) -> Option<T> {
        let (mut mistakes, mut removed) = (0, HashSet::new());
        loop {
            let error = match read(value.clone()) {
                Ok(read) if mistakes == 0 => return Some(read),
                Ok(_) => return None,
                Err(error) => error,
            };
            let span = error
                .span()
                .filter(|span| value.span().start <= span.start)
                .unwrap_or_else(|| value.span());
            if self.recast(&mut value, &span, error.message()) {
                continue;
            }
            let missing = named(error.message(), "missing field `");
            if missing.is_none_or(|field| !removed.contains(field)) {
                let diagnostic = self.explain(error.message(), span.clone());
                self.error(diagnostic);
            }
            mistakes += 1;
            match take_out(&mut value, &span) {
                Some(name) if missing.is_none() && mistakes < ENOUGH => removed.insert(name),
                _ => return None,
            };
        }
    }

    /// A filled-in text where a number or a boolean is wanted becomes one.
    fn recast(&mut self, value: &mut Value<'i>, span: &Range<usize>, message: &str) -> bool {
        if !message.starts_with("invalid type: string") {
            return false;
        }
        let Some(text) = self.filled.get(&span.start) else {
            return false;
        };
        let Some(leaf) = leaf_at(value, span).filter(|leaf| leaf.is_str()) else {
            return false;
        };
        match DeValue::parse(text.trim()).map(Spanned::into_inner) {
            Ok(other) if !other.is_str() && !other.is_table() && !other.is_array() => {
                *leaf = other;
                true
            }
            _ => false,
        }
    }

    /// Says in our words what serde said.
    fn explain(&self, message: &str, span: Range<usize>) -> Diagnostic {
        // What was filled in may be a secret.
        let hidden = match self.filled.get(&span.start) {
            Some(text) if !text.is_empty() => message
                .replace(*text, "***")
                .replace(&text.escape_debug().to_string(), "***"),
            _ => message.to_owned(),
        };
        let message = hidden.as_str();
        let allowed: Vec<_> = message
            .split_once("expected")
            .map(|(_, rest)| quoted(rest))
            .unwrap_or_default();
        if let Some(key) = named(message, "unknown field `") {
            let allowed = [&allowed, self.beside].concat();
            return self.unknown("key", key, &allowed, span);
        }
        if let Some(word) = named(message, "unknown variant `") {
            return self.unknown("value", word, &allowed, span);
        }
        if let Some(field) = named(message, "missing field `") {
            return self
                .sources
                .error(span, format!("`{field}` is missing"))
                .label("in this table");
        }
        if let Some(key) = named(message, "duplicate field `") {
            return self
                .sources
                .error(span, format!("`{key}` is there twice"))
                .label("again here");
        }
        let message = message.strip_prefix("invalid type: ").map_or_else(
            || message.to_owned(),
            |rest| match rest.split_once(", expected ") {
                Some((found, expected)) => format!("{found} where {expected} is wanted"),
                None => rest.to_owned(),
            },
        );
        self.sources.error(span, message).label("here")
    }

    /// A name that is not known, with the one that was probably meant and all that are allowed.
    pub(super) fn unknown(&self, what: &str, name: &str, allowed: &[&str], span: Range<usize>) -> Diagnostic {
        let label = match nearest(name, allowed.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("no such {what}"),
        };
        let mut sorted = allowed.to_vec();
        sorted.sort_unstable();
        self.sources
            .error(span, format!("unknown {what} `{name}`"))
            .label(label)
            .help(format!("allowed: {}", any_of(sorted)))
    }
}

fn named<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.split('`').next()
}

/// Every word in backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn holds(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// The scalar that stands at `span`.
fn leaf_at<'v, 'i>(value: &'v mut Value<'i>, span: &Range<usize>) -> Option<&'v mut DeValue<'i>> {
    let at = value.span();
    match value.get_mut() {
        DeValue::Table(table) => {
            let key = table
                .iter()
                .find(|(_, child)| contains(child, span))
                .map(|(key, _)| key.get_ref().clone())?;
            table
                .iter_mut()
                .find(|(own, _)| *own.get_ref() == key)
                .and_then(|(_, child)| leaf_at(child, span))
        }
        DeValue::Array(array) => {
            let place = (0..array.len()).find(|place| array.get(*place).is_some_and(|child| contains(child, span)))?;
            array.get_mut(place).and_then(|child| leaf_at(child, span))
        }
        leaf => (at == *span).then_some(leaf),
    }
}

/// Whether the place lies in this value or in what belongs to it: a table's parts may stand apart from its head.
fn contains(value: &Value<'_>, span: &Range<usize>) -> bool {
    holds(&value.span(), span)
        || match value.get_ref() {
            DeValue::Table(table) => table
                .iter()
                .any(|(key, child)| holds(&key.span(), span) || contains(child, span)),
            DeValue::Array(array) => array.iter().any(|child| contains(child, span)),
            _ => false,
        }
}

/// Takes the innermost entry out that `span` lies in, and says its key.
fn take_out(value: &mut Value<'_>, span: &Range<usize>) -> Option<String> {
    match value.get_mut() {
        DeValue::Table(table) => {
            let (key, deeper) = table.iter_mut().find_map(|(key, child)| {
                let in_key = holds(&key.span(), span);
                (in_key || contains(child, span)).then(|| (key.get_ref().to_string(), !in_key))
            })?;
            if deeper
                && let Some(child) = table.get_mut(key.as_str())
                && child.span() != *span
                && let Some(inner) = take_out(child, span)
            {
                return Some(inner);
            }
            table.remove(key.as_str());
            Some(key)
        }
        DeValue::Array(array) => take_from(array, span),
        _ => None,
    }
}

fn take_from(array: &mut DeArray<'_>, span: &Range<usize>) -> Option<String> {
    let place = (0..array.len()).find(|place| array.get(*place).is_some_and(|child| contains(child, span)))?;
    let child = array.get_mut(place)?;
    if child.span() != *span
        && let Some(inner) = take_out(child, span)
    {
        return Some(inner);
    }
    for (index, child) in std::mem::replace(array, DeArray::new()).into_iter().enumerate() {
        if index != place {
            array.push(child);
        }
    }
    Some(String::new())
}

/// Takes `key` out of a table.
pub(super) fn remove<'i>(table: &mut DeTable<'i>, key: &str) -> Option<(Range<usize>, Value<'i>)> {
    table.remove_entry(key).map(|(key, value)| (key.span(), value))
}
